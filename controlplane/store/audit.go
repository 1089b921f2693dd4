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
	entries, err := list(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit WHERE seq > $1
		AND ($2 = '' OR actor = $2) AND ($3 = '' OR action = $3) AND ($4 = '' OR subject = $4)
		AND at >= $5 AND ($6 = 0 OR at < $6) ORDER BY seq LIMIT $7`,
		after, f.Actor, f.Action, f.Subject, f.Since, f.Until, p.Size()+1)
	if err != nil {
		return api.Page[fleet.AuditEntry]{}, fmt.Errorf("read audit: %w", err)
	}
	return paging.Cut(entries, p, func(e fleet.AuditEntry) int64 { return e.Seq }), nil
}

// AuditEntry returns one entry; false if there is none of that number.
func (r Reader) AuditEntry(ctx context.Context, seq int64) (fleet.AuditEntry, bool, error) {
	e, ok, err := first(ctx, r.q, scanAudit, `SELECT seq, body, hash FROM audit WHERE seq = $1`, seq)
	if err != nil {
		return e, false, fmt.Errorf("read audit entry %d: %w", seq, err)
	}
	return e, ok, nil
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

// AddAudit appends an event to the chain, in the transaction of the change that
// it describes.
func (t *Tx) AddAudit(ctx context.Context, e fleet.AuditEvent) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode audit event: %w", err)
	}
	head, err := t.AuditHead(ctx)
	if err != nil {
		return err
	}
	seq := head.Size + 1
	if _, err := t.exec(ctx, `INSERT INTO audit (seq, at, actor, action, subject, body, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		seq, e.At, e.Actor, e.Action, e.Subject, string(body), fleet.AuditHash(seq, head.Head, string(body))); err != nil {
		return fmt.Errorf("write audit entry %d: %w", seq, err)
	}
	return nil
}

// VerifyAudit checks the whole chain, and that the columns for filters agree
// with the entries. The error names the first bad entry; its
// code is Conflict (E10). A tail that was cut off shows only in a checkpoint
// kept elsewhere.
func (r Reader) VerifyAudit(ctx context.Context) (fleet.AuditHead, error) {
	const page = 1000
	var chain fleet.AuditChain
	for {
		rows, err := list(ctx, r.q, scanAuditRow, `SELECT seq, at, actor, action, subject, body, hash FROM audit
			WHERE seq > $1 ORDER BY seq LIMIT $2`, chain.Size, page)
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
