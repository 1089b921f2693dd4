// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

// Inbox is a report that arrived, in the order of Seq.
type Inbox struct {
	Seq    int64
	Report fleet.Report
}

// AddReports puts reports into the inbox, but those that are there already. It returns
// how many it has added.
func (t *Tx) AddReports(ctx context.Context, receivedAt int64, reports ...fleet.Report) (added int64, err error) {
	if len(reports) == 0 {
		return 0, nil
	}
	last, _, err := first(ctx, t.q, column[int64], `SELECT COALESCE(MAX(seq), 0) FROM machine_report`)
	if err != nil {
		return 0, fmt.Errorf("read newest report: %w", err)
	}
	rows := make([][]any, len(reports))
	for i, r := range reports {
		body, terr := text(r)
		if terr != nil {
			return 0, terr
		}
		rows[i] = []any{last + 1 + int64(i), string(r.Machine), r.ID, receivedAt, string(r.Rollout), body}
	}
	if added, err = t.putRows(ctx, `INSERT INTO machine_report (seq, machine_id, report_id, received_at, rollout_id, body)`, rows,
		` ON CONFLICT (machine_id, report_id) DO NOTHING`); err != nil {
		return added, fmt.Errorf("write %d reports of %s: %w", len(reports), reports[0].Machine, err)
	}
	return added, nil
}

// WaitingReports returns at most limit reports that are not applied yet,
// oldest first.
func (r Reader) WaitingReports(ctx context.Context, limit int) ([]Inbox, error) {
	reports, err := list(ctx, r.q, scanInbox, `SELECT seq, body FROM machine_report WHERE applied = 0 ORDER BY seq LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	return reports, nil
}

// MachineReports returns a page of a machine's reports, newest first.
func (r Reader) MachineReports(ctx context.Context, id fleet.MachineID, p fleet.PageRequest) (api.Page[fleet.Report], error) {
	before, err := paging.After[int64](p)
	if err != nil {
		return api.Page[fleet.Report]{}, err
	}
	var w where
	w.and("machine_id = ?", string(id))
	if before != 0 {
		w.and("seq < ?", before)
	}
	rest, args := w.limited("seq DESC", p.Size()+1)
	rows, err := list(ctx, r.q, scanInbox, `SELECT seq, body FROM machine_report`+rest, args...)
	if err != nil {
		return api.Page[fleet.Report]{}, fmt.Errorf("read reports of %s: %w", id, err)
	}
	page := paging.Cut(rows, p, func(v Inbox) int64 { return v.Seq })
	reports := make([]fleet.Report, len(page.Items))
	for i, v := range page.Items {
		reports[i] = v.Report
	}
	return api.Page[fleet.Report]{Items: reports, Next: page.Next}, nil
}

func scanInbox(r row) (v Inbox, err error) {
	var body string
	if err := r.Scan(&v.Seq, &body); err != nil {
		return v, err
	}
	return v, parse(jsonColumn{body, &v.Report})
}

// MarkApplied says that reports have had their effect. It runs in the
// transaction of that effect.
func (t *Tx) MarkApplied(ctx context.Context, seqs ...int64) error {
	values := make([]any, len(seqs))
	for i, seq := range seqs {
		values[i] = seq
	}
	n, err := t.changeRows(ctx, `UPDATE machine_report SET applied = 1 WHERE seq IN `, values, ` AND applied = 0`)
	if err != nil {
		return fmt.Errorf("mark %d reports: %w", len(seqs), err)
	}
	if n != int64(len(seqs)) {
		return fmt.Errorf("mark %d reports from %d on: %d of them were applied before", len(seqs), seqs[0], int64(len(seqs))-n)
	}
	return nil
}

// DeleteReportsBeyond forgets applied reports of a machine but the newest ones.
func (t *Tx) DeleteReportsBeyond(ctx context.Context, id fleet.MachineID, newest int) error {
	if _, err := t.exec(ctx, `DELETE FROM machine_report WHERE machine_id = $1 AND applied = 1
		AND seq < (SELECT seq FROM machine_report WHERE machine_id = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)`, string(id), newest-1); err != nil {
		return fmt.Errorf("delete reports of %s: %w", id, err)
	}
	return nil
}

// DeleteReportsBefore forgets so many applied reports that arrived before a time, and
// says how many. The newest row stays, so that the order never starts again.
func (t *Tx) DeleteReportsBefore(ctx context.Context, at int64, most int) (int64, error) {
	n, err := t.exec(ctx, `DELETE FROM machine_report WHERE seq IN (SELECT seq FROM machine_report WHERE received_at < $1 AND applied = 1
		AND seq < (SELECT MAX(seq) FROM machine_report) ORDER BY received_at LIMIT $2)`, at, most)
	if err != nil {
		return 0, fmt.Errorf("delete old reports: %w", err)
	}
	return n, nil
}
