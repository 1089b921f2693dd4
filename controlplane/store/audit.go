// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

// Audit returns a page of the entries, oldest first.
func (r Reader) Audit(ctx context.Context, f fleet.AuditFilter, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
	after, err := paging.After[int64](p)
	if err != nil {
		return api.Page[fleet.AuditEntry]{}, err
	}
	w, err := r.auditWhere(ctx, f, after)
	if err != nil {
		return api.Page[fleet.AuditEntry]{}, fmt.Errorf("read audit: %w", err)
	}
	rest, args := w.limited("seq", p.Size()+1)
	entries, err := list(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit`+rest, args...)
	if err != nil {
		return api.Page[fleet.AuditEntry]{}, fmt.Errorf("read audit: %w", err)
	}
	return paging.Cut(entries, p, func(e fleet.AuditEntry) int64 { return e.Seq }), nil
}

// auditWhere selects entries by one index: that of the subject, else of actor or
// action, whichever has fewer. A time bounds the numbers of the entries.
func (r Reader) auditWhere(ctx context.Context, f fleet.AuditFilter, after int64) (w where, err error) {
	after, before, err := r.auditBounds(ctx, f, after)
	if err != nil {
		return w, err
	}
	w.and("seq > ?", after) // one bound to a side: of two, SQLite may take the wider
	if before != 0 {
		w.and("seq < ?", before)
	}
	actor, action := "actor", "action"
	switch {
	case f.Subject != "": // of one thing there are few
		actor, action = unindexed(actor), unindexed(action)
	case f.Actor != "" && f.Action != "":
		// Counts further than this cost more than they tell.
		fewer, _, err := first(ctx, r.q, column[bool], `SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM audit WHERE actor = $1 LIMIT 1000) AS a)
			<= (SELECT COUNT(*) FROM (SELECT 1 FROM audit WHERE action = $2 LIMIT 1000) AS b)`, f.Actor, f.Action)
		if err != nil {
			return w, err
		}
		if fewer {
			action = unindexed(action)
		} else {
			actor = unindexed(actor)
		}
	}
	w.is(actor, f.Actor)
	w.is(action, f.Action)
	w.is("subject", f.Subject)
	if f.Since > 0 {
		w.and("at + 0 >= ?", f.Since) // the sum: no index of at
	}
	if f.Until > 0 {
		w.and("at + 0 < ?", f.Until)
	}
	return w, nil
}

// auditBounds are numbers between which all entries of a time are: an entry that
// is dated before since by more than clocks stepped is before them, one so much
// after until is after them. before is 0 for none.
func (r Reader) auditBounds(ctx context.Context, f fleet.AuditFilter, after int64) (_, before int64, err error) {
	if f.Since == 0 && f.Until == 0 {
		return after, 0, nil
	}
	back, _, err := first(ctx, r.q, column[int64], `SELECT CAST(value AS BIGINT) FROM meta WHERE name = 'audit-back'`)
	if err != nil {
		return 0, 0, err
	}
	if f.Since > 0 {
		var seq int64
		if seq, _, err = first(ctx, r.q, column[int64], `SELECT seq FROM audit WHERE at < $1 ORDER BY at DESC LIMIT 1`, f.Since-back); err != nil {
			return 0, 0, err
		}
		after = max(after, seq)
	}
	if f.Until > 0 {
		before, _, err = first(ctx, r.q, column[int64], `SELECT seq FROM audit WHERE at >= $1 ORDER BY at LIMIT 1`, f.Until+back)
	}
	return after, before, err
}

// AuditEntry returns one entry; false if there is none of that number.
func (r Reader) AuditEntry(ctx context.Context, seq int64) (fleet.AuditEntry, bool, error) {
	e, ok, err := first(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit WHERE seq = $1`, seq)
	if err != nil {
		return e, false, fmt.Errorf("read audit entry %d: %w", seq, err)
	}
	return e, ok, nil
}

// LastAudit returns the newest event of an action; false if there is none.
func (r Reader) LastAudit(ctx context.Context, action string) (fleet.AuditEvent, bool, error) {
	e, ok, err := first(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit WHERE action = $1 ORDER BY seq DESC LIMIT 1`, action)
	if err != nil || !ok {
		return fleet.AuditEvent{}, false, err
	}
	event, err := e.Event()
	return event, err == nil, err
}

// AuditCut is where the trail begins, if its oldest entries were removed; zero if it
// has them all.
func (r Reader) AuditCut(ctx context.Context) (fleet.AuditHead, error) {
	e, ok, err := r.LastAudit(ctx, fleet.ActionAuditCut)
	if err != nil || !ok {
		return fleet.AuditHead{}, err
	}
	return fleet.CutBy(e)
}

// CutAudit removes the oldest entries, as far as they are from before a time, but so
// many at most and never the newest. It returns what the last of them was; zero if
// there are none. The caller adds an event that says so, in the same transaction.
func (t *Tx) CutAudit(ctx context.Context, at int64, most int) (cut fleet.AuditHead, err error) {
	type old struct {
		fleet.AuditHead
		at int64
	}
	entries, err := list(ctx, t.q, func(r row) (o old, err error) { return o, r.Scan(&o.Size, &o.at, &o.Head) },
		`SELECT seq, at, hash FROM audit WHERE seq < (SELECT MAX(seq) FROM audit) ORDER BY seq LIMIT $1`, most)
	if err != nil {
		return cut, fmt.Errorf("read audit: %w", err)
	}
	for _, e := range entries {
		if e.at >= at {
			break
		}
		cut = e.AuditHead
	}
	if cut.Size == 0 {
		return cut, nil
	}
	if _, err = t.exec(ctx, `DELETE FROM audit WHERE seq <= $1`, cut.Size); err != nil {
		return cut, fmt.Errorf("cut audit: %w", err)
	}
	return cut, nil
}

func scanAudit(r row) (e fleet.AuditEntry, err error) {
	return e, r.Scan(&e.Seq, &e.Body, &e.Hash)
}

// AuditHead returns size and head of the chain.
func (r Reader) AuditHead(ctx context.Context) (fleet.AuditHead, error) {
	h, _, err := first(ctx, r.q, func(r row) (h fleet.AuditHead, err error) {
		return h, r.Scan(&h.Size, &h.Head)
	}, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`)
	if err != nil {
		return h, fmt.Errorf("read audit head: %w", err)
	}
	return h, nil
}

// Committed returns size and head of the chain as far as it is on the disk. It
// costs nothing, and is zero for a store that is open for reading only.
func (s *Store) Committed() fleet.AuditHead {
	if h := s.committed.Load(); h != nil {
		return *h
	}
	return fleet.AuditHead{}
}

// AddAudit appends events to the chain, in the transaction of the changes that
// they describe.
func (t *Tx) AddAudit(ctx context.Context, events ...fleet.AuditEvent) error {
	if len(events) == 0 {
		return nil
	}
	head, err := t.AuditHead(ctx)
	if err != nil {
		return err
	}
	latest, _, err := first(ctx, t.q, column[int64], `SELECT COALESCE(MAX(at), 0) FROM audit`)
	if err != nil {
		return fmt.Errorf("read audit: %w", err)
	}
	rows, back := make([][]any, len(events)), int64(0)
	for i, e := range events {
		body, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode audit event: %w", err)
		}
		latest = max(latest, e.At)
		back = max(back, latest-e.At)
		seq := head.Size + 1
		head = fleet.AuditHead{Size: seq, Head: fleet.AuditHash(seq, head.Head, string(body))}
		rows[i] = []any{seq, e.At, e.Actor, e.Action, e.Subject, string(body), head.Head}
	}
	if _, err := t.putRows(ctx, `INSERT INTO audit (seq, at, actor, action, subject, body, hash)`, rows, ""); err != nil {
		return fmt.Errorf("write audit entry %d: %w", head.Size, err)
	}
	if back == 0 {
		return nil
	}
	if _, err := t.exec(ctx, `UPDATE meta SET value = CAST($1 AS TEXT) WHERE name = 'audit-back' AND CAST(value AS BIGINT) < $1`, back); err != nil {
		return fmt.Errorf("write by how much the audit's times are out of order: %w", err)
	}
	return nil
}

// VerifyAudit checks the whole chain, and that the columns for filters agree
// with the entries. The error names the first bad entry; its
// code is Conflict (E10). A tail that was cut off shows only in a checkpoint
// kept elsewhere.
func (r Reader) VerifyAudit(ctx context.Context) (fleet.AuditHead, error) {
	const page = 1000
	cut, err := r.AuditCut(ctx)
	if err != nil {
		return fleet.AuditHead{}, err
	}
	chain := fleet.AuditChain(cut)
	for {
		rows, err := list(ctx, r.q, scanAuditRow, `SELECT seq, at, actor, action, subject, body, hash FROM audit
			WHERE seq > $1 ORDER BY seq LIMIT $2`, seen(chain, cut), page)
		if err != nil {
			return fleet.AuditHead{}, fmt.Errorf("read audit: %w", err)
		}
		for _, a := range rows {
			if err := a.check(&chain); err != nil {
				return fleet.AuditHead{}, err
			}
		}
		if len(rows) < page {
			return chain.Checkpoint(), nil
		}
	}
}

// seen is the entry after which the chain is read next. Those that were cut are read,
// too: if they are there, they are where the first of the rest should be.
func seen(chain fleet.AuditChain, cut fleet.AuditHead) int64 {
	if chain.Size == cut.Size {
		return 0
	}
	return chain.Size
}

type auditRow struct {
	entry fleet.AuditEntry
	event fleet.AuditEvent // as the columns have it
}

func scanAuditRow(r row) (a auditRow, err error) {
	return a, r.Scan(&a.entry.Seq, &a.event.At, &a.event.Actor, &a.event.Action, &a.event.Subject, &a.entry.Body, &a.entry.Hash)
}

func (a auditRow) check(chain *fleet.AuditChain) error {
	if err := chain.Add(a.entry); err != nil {
		return err
	}
	event, err := a.entry.Event()
	if err != nil {
		return err
	}
	if event.At != a.event.At || event.Actor != a.event.Actor || event.Action != a.event.Action || event.Subject != a.event.Subject {
		return fleet.Errorf(fleet.Conflict, "audit entry %d was altered: its columns do not agree with its body", a.entry.Seq)
	}
	return nil
}
