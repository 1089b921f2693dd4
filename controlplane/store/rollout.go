// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

const rolloutColumns = `id, spec, state, why, batch, machines, created_at, created_by, started_at, ended_at, progress_at, acknowledged, wake_at, version, progress_run, approved, approved_by`

// Rollouts returns a page of rollouts, newest first.
func (r Reader) Rollouts(ctx context.Context, f fleet.RolloutFilter, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
	before, err := paging.After[paging.TimeKey](p)
	if err != nil {
		return api.Page[fleet.Rollout]{}, err
	}
	var w where
	w.is("release_digest", string(f.Release))
	w.is("state", string(f.State))
	if f.Active {
		w.and("state IN ('scheduled', 'running', 'paused', 'reverting')")
	}
	if before.At != 0 {
		w.and("(created_at, id) < (?, ?)", before.At, before.ID)
	}
	rest, args := w.limited("created_at DESC, id DESC", p.Size()+1)
	rollouts, err := list(ctx, r.q, scanRollout, `SELECT `+rolloutColumns+` FROM rollout`+rest, args...)
	if err != nil {
		return api.Page[fleet.Rollout]{}, fmt.Errorf("list rollouts: %w", err)
	}
	return paging.Cut(rollouts, p, RolloutOf), nil
}

// RolloutOf is the place of a rollout in a list.
func RolloutOf(v fleet.Rollout) paging.TimeKey {
	return paging.TimeKey{At: v.CreatedAt, ID: string(v.ID)}
}

// ActiveRollouts returns the rollouts that have not ended, or still hold a
// machine, oldest first.
func (r Reader) ActiveRollouts(ctx context.Context) ([]fleet.Rollout, error) {
	rollouts, err := list(ctx, r.q, scanRollout, `SELECT `+rolloutColumns+` FROM rollout
		WHERE state IN ('scheduled', 'running', 'paused', 'reverting')
		OR id IN (SELECT rollout_id FROM claim) ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list active rollouts: %w", err)
	}
	return rollouts, nil
}

// Rollout returns a rollout. The error's code is NotFound if there is none.
func (r Reader) Rollout(ctx context.Context, id fleet.RolloutID) (fleet.Rollout, error) {
	v, ok, err := first(ctx, r.q, scanRollout, `SELECT `+rolloutColumns+` FROM rollout WHERE id = $1`, string(id))
	if err != nil {
		return v, fmt.Errorf("read rollout %s: %w", id, err)
	}
	if !ok {
		return v, notFound("rollout", string(id), "nixfleet rollout list shows those there are")
	}
	return v, nil
}

func scanRollout(r row) (v fleet.Rollout, err error) {
	var spec string
	if err := r.Scan(&v.ID, &spec, &v.State, &v.Why, &v.Batch, &v.Machines, &v.CreatedAt, &v.CreatedBy, &v.StartedAt, &v.EndedAt,
		&v.ProgressAt, &v.Acknowledged, &v.WakeAt, &v.Version, &v.ProgressRun, &v.Approved, &v.ApprovedBy); err != nil {
		return v, err
	}
	v.ProgressRun = measured(v.ProgressRun, v.ProgressAt)
	return v, parse(jsonColumn{spec, &v.Spec})
}

// AddRollout writes a new rollout's row. The error's code is Conflict if its
// id is taken.
func (t *Tx) AddRollout(ctx context.Context, v fleet.Rollout) error {
	spec, err := text(v.Spec)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO rollout (release_digest, `+rolloutColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT (id) DO NOTHING`,
		string(v.Spec.Release), string(v.ID), spec, string(v.State), v.Why, v.Batch, v.Machines, v.CreatedAt, v.CreatedBy,
		v.StartedAt, v.EndedAt, v.ProgressAt, v.Acknowledged, v.WakeAt, v.Version, v.ProgressRun,
		bit(v.Approved), v.ApprovedBy)
	if err != nil {
		return fmt.Errorf("write rollout %s: %w", v.ID, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "rollout %s exists already", v.ID)
	}
	return nil
}

// UpdateRollout writes a rollout's row; from is the version that the change
// was made from. The error's code is Conflict if the row has another (H07).
func (t *Tx) UpdateRollout(ctx context.Context, v fleet.Rollout, from int64) error {
	n, err := t.exec(ctx, `UPDATE rollout SET state = $1, why = $2, batch = $3, machines = $4, started_at = $5, ended_at = $6,
		progress_at = $7, acknowledged = $8, wake_at = $9, version = $10, progress_run = $11, approved = $12, approved_by = $13
		WHERE id = $14 AND version = $15`,
		string(v.State), v.Why, v.Batch, v.Machines, v.StartedAt, v.EndedAt, v.ProgressAt, v.Acknowledged, v.WakeAt, v.Version,
		v.ProgressRun, bit(v.Approved), v.ApprovedBy, string(v.ID), from)
	if err != nil {
		return fmt.Errorf("write rollout %s: %w", v.ID, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "rollout %s was changed in the meantime", v.ID).WithHint("look at it again, then repeat")
	}
	return nil
}

// DeleteRollout forgets a rollout with its batches and assignments.
func (t *Tx) DeleteRollout(ctx context.Context, id fleet.RolloutID) error {
	n, err := t.exec(ctx, `DELETE FROM rollout WHERE id = $1`, string(id))
	if err != nil {
		return fmt.Errorf("delete rollout %s: %w", id, err)
	}
	if n == 0 {
		return notFound("rollout", string(id), "nixfleet rollout list shows those there are")
	}
	return nil
}

// Batches returns a rollout's batches in order.
func (r Reader) Batches(ctx context.Context, id fleet.RolloutID) ([]fleet.Batch, error) {
	batches, err := list(ctx, r.q, scanBatch, `SELECT rollout_id, position, state, why, size, counts, opened_at, soak_until, ended_at,
		approved, approved_by, acknowledged, opened_run, gates, group_index, acknowledged_by FROM batch WHERE rollout_id = $1 ORDER BY position`, string(id))
	if err != nil {
		return nil, fmt.Errorf("read batches of %s: %w", id, err)
	}
	return batches, nil
}

func scanBatch(r row) (b fleet.Batch, err error) {
	var counts, gates, acknowledged string
	if err := r.Scan(&b.Rollout, &b.Index, &b.State, &b.Why, &b.Size, &counts, &b.OpenedAt, &b.SoakUntil, &b.EndedAt,
		&b.Approved, &b.ApprovedBy, &b.Acknowledged, &b.OpenedRun, &gates, &b.Group, &acknowledged); err != nil {
		return b, err
	}
	b.OpenedRun = measured(b.OpenedRun, b.OpenedAt)
	return b, parse(jsonColumn{counts, &b.Counts}, jsonColumn{gates, &b.Gates}, jsonColumn{acknowledged, &b.AcknowledgedBy})
}

// PutBatch writes a batch's row, new or not.
func (t *Tx) PutBatch(ctx context.Context, b fleet.Batch) error {
	counts, err := text(b.Counts)
	if err != nil {
		return err
	}
	gates, err := text(b.Gates)
	if err != nil {
		return err
	}
	acknowledged, err := text(b.AcknowledgedBy)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO batch (rollout_id, position, state, why, size, counts, opened_at, soak_until, ended_at,
		approved, approved_by, acknowledged, opened_run, gates, group_index, acknowledged_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
		ON CONFLICT (rollout_id, position) DO UPDATE SET state = excluded.state, why = excluded.why, size = excluded.size,
		counts = excluded.counts, opened_at = excluded.opened_at, soak_until = excluded.soak_until, ended_at = excluded.ended_at,
		approved = excluded.approved, approved_by = excluded.approved_by, acknowledged = excluded.acknowledged, opened_run = excluded.opened_run,
		gates = excluded.gates, group_index = excluded.group_index, acknowledged_by = excluded.acknowledged_by`,
		string(b.Rollout), b.Index, string(b.State), b.Why, b.Size, counts, b.OpenedAt, b.SoakUntil, b.EndedAt,
		bit(b.Approved), b.ApprovedBy, b.Acknowledged, b.OpenedRun, gates, b.Group, acknowledged); err != nil {
		return fmt.Errorf("write batch %d of %s: %w", b.Index, b.Rollout, err)
	}
	return nil
}

// CountRollouts counts the rollouts that are kept, by state.
func (r Reader) CountRollouts(ctx context.Context) (map[fleet.RolloutState]int, error) {
	type count struct {
		state fleet.RolloutState
		n     int
	}
	rows, err := list(ctx, r.q, func(r row) (c count, err error) { return c, r.Scan(&c.state, &c.n) },
		`SELECT state, COUNT(*) FROM rollout GROUP BY state`)
	if err != nil {
		return nil, fmt.Errorf("count rollouts: %w", err)
	}
	counts := make(map[fleet.RolloutState]int, len(rows))
	for _, c := range rows {
		counts[c.state] = c.n
	}
	return counts, nil
}
