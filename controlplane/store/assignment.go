// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

const assignmentColumns = `rollout_id, machine_id, batch, state, why, attempt, digest, store_path, previous_digest, previous_path,
	outcome, reason, message, checks, offered_at, deadline, healthy_at, ended_at, ever_offered, offered_run, healthy_run`

// Assignments returns a page of a rollout's assignments by machine id.
func (r Reader) Assignments(ctx context.Context, id fleet.RolloutID, f fleet.AssignmentFilter, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
	after, err := paging.After[fleet.MachineID](p)
	if err != nil {
		return api.Page[fleet.Assignment]{}, err
	}
	var w where
	w.and("rollout_id = ?", string(id))
	w.is("state", string(f.State))
	if f.Batch >= 0 {
		w.and("batch = ?", f.Batch)
	}
	w.and("machine_id > ?", string(after))
	rest, args := w.limited("machine_id", p.Size()+1)
	assignments, err := list(ctx, r.q, scanAssignment, `SELECT `+assignmentColumns+` FROM assignment`+rest, args...)
	if err != nil {
		return api.Page[fleet.Assignment]{}, fmt.Errorf("read assignments of %s: %w", id, err)
	}
	return paging.Cut(assignments, p, AssignmentOf), nil
}

// AssignmentOf is the place of an assignment in its rollout's list.
func AssignmentOf(a fleet.Assignment) fleet.MachineID { return a.Machine }

// AllAssignments returns all assignments of a rollout by machine id.
func (r Reader) AllAssignments(ctx context.Context, id fleet.RolloutID) ([]fleet.Assignment, error) {
	assignments, err := list(ctx, r.q, scanAssignment, `SELECT `+assignmentColumns+` FROM assignment WHERE rollout_id = $1
		ORDER BY machine_id`, string(id))
	if err != nil {
		return nil, fmt.Errorf("read assignments of %s: %w", id, err)
	}
	return assignments, nil
}

// RolloutMachines returns the machines of a rollout by id.
func (r Reader) RolloutMachines(ctx context.Context, id fleet.RolloutID) ([]fleet.MachineID, error) {
	machines, err := list(ctx, r.q, column[fleet.MachineID], `SELECT machine_id FROM assignment WHERE rollout_id = $1 ORDER BY machine_id`, string(id))
	if err != nil {
		return nil, fmt.Errorf("read machines of %s: %w", id, err)
	}
	return machines, nil
}

// LastHealthyIn names at most ten machines whose latest healthy assignment is
// in a rollout.
func (r Reader) LastHealthyIn(ctx context.Context, id fleet.RolloutID) ([]fleet.MachineID, error) {
	machines, err := list(ctx, r.q, column[fleet.MachineID], `SELECT machine_id FROM assignment AS a WHERE rollout_id = $1 AND state = 'healthy'
		AND NOT EXISTS (SELECT 1 FROM assignment AS b WHERE b.machine_id = a.machine_id AND b.state = 'healthy' AND b.rollout_id <> a.rollout_id
			AND (b.healthy_run > a.healthy_run OR b.healthy_run = a.healthy_run AND b.rollout_id > a.rollout_id))
		ORDER BY machine_id LIMIT 10`, string(id))
	if err != nil {
		return nil, fmt.Errorf("read machines that rest on %s: %w", id, err)
	}
	return machines, nil
}

func scanAssignment(r row) (a fleet.Assignment, err error) {
	var checks string
	if err := r.Scan(&a.Rollout, &a.Machine, &a.Batch, &a.State, &a.Why, &a.Attempt, &a.Digest, &a.StorePath, &a.PreviousDigest, &a.PreviousPath,
		&a.Outcome, &a.Reason, &a.Message, &checks, &a.OfferedAt, &a.Deadline, &a.HealthyAt, &a.EndedAt, &a.EverOffered, &a.OfferedRun, &a.HealthyRun); err != nil {
		return a, err
	}
	a.OfferedRun, a.HealthyRun = measured(a.OfferedRun, a.OfferedAt), measured(a.HealthyRun, a.HealthyAt)
	return a, parse(jsonColumn{checks, &a.Checks})
}

// measured is the running time of something that a program of the version before
// may have written, which measured none: its wall clock's time then.
func measured(run, at int64) int64 {
	if run == 0 {
		return at
	}
	return run
}

// measureHealthy gives running times to what a program of the version before has
// written to this file since the schema has them.
func (t *Tx) measureHealthy(ctx context.Context) error {
	if _, err := t.exec(ctx, `UPDATE assignment SET healthy_run = healthy_at WHERE healthy_run = 0 AND healthy_at > 0`); err != nil {
		return fmt.Errorf("measure what became healthy: %w", err)
	}
	return nil
}

// PutAssignments writes assignments' rows, new or not.
func (t *Tx) PutAssignments(ctx context.Context, assignments ...fleet.Assignment) error {
	rows := make([][]any, len(assignments))
	for i, a := range assignments {
		if a.Checks == nil {
			a.Checks = []fleet.HealthCheckResult{}
		}
		checks, err := text(a.Checks)
		if err != nil {
			return err
		}
		rows[i] = []any{
			string(a.Rollout), string(a.Machine), a.Batch, string(a.State), a.Why, a.Attempt, string(a.Digest), string(a.StorePath),
			string(a.PreviousDigest), string(a.PreviousPath), string(a.Outcome), string(a.Reason), a.Message, checks,
			a.OfferedAt, a.Deadline, a.HealthyAt, a.EndedAt, bit(a.EverOffered), a.OfferedRun, a.HealthyRun,
		}
	}
	if _, err := t.putRows(ctx, `INSERT INTO assignment (`+assignmentColumns+`)`, rows, `
		ON CONFLICT (rollout_id, machine_id) DO UPDATE SET batch = excluded.batch, state = excluded.state, why = excluded.why,
		attempt = excluded.attempt, digest = excluded.digest, store_path = excluded.store_path,
		previous_digest = excluded.previous_digest, previous_path = excluded.previous_path, outcome = excluded.outcome,
		reason = excluded.reason, message = excluded.message, checks = excluded.checks, offered_at = excluded.offered_at,
		deadline = excluded.deadline, healthy_at = excluded.healthy_at, ended_at = excluded.ended_at, ever_offered = excluded.ever_offered,
		offered_run = excluded.offered_run, healthy_run = excluded.healthy_run`); err != nil {
		return fmt.Errorf("write %d assignments: %w", len(rows), err)
	}
	return nil
}

// Claim ties machines to a rollout. The error's code is Conflict, and names
// the rollout, if one is another's (H08).
func (t *Tx) Claim(ctx context.Context, rollout fleet.RolloutID, machines ...fleet.MachineID) error {
	rows := make([][]any, len(machines))
	for i, id := range machines {
		rows[i] = []any{string(id), string(rollout)}
	}
	n, err := t.putRows(ctx, `INSERT INTO claim (machine_id, rollout_id)`, rows, ` ON CONFLICT (machine_id) DO NOTHING`)
	if err != nil {
		return fmt.Errorf("claim for %s: %w", rollout, err)
	}
	if n == int64(len(machines)) {
		return nil
	}
	for _, machine := range machines {
		holder, _, err := t.Claimant(ctx, machine)
		if err != nil {
			return err
		}
		if holder != rollout {
			return fleet.Errorf(fleet.Conflict, "machine %s is in rollout %s", machine, holder).
				WithHint("wait for that rollout, cancel it, or take the machine over with --supersede")
		}
	}
	return nil
}

// Claimant returns the rollout that a machine belongs to; false if to none.
func (r Reader) Claimant(ctx context.Context, machine fleet.MachineID) (fleet.RolloutID, bool, error) {
	id, ok, err := first(ctx, r.q, column[fleet.RolloutID], `SELECT rollout_id FROM claim WHERE machine_id = $1`, string(machine))
	if err != nil {
		return "", false, fmt.Errorf("read claim on %s: %w", machine, err)
	}
	return id, ok, nil
}

// Claims returns which rollout each claimed machine belongs to.
func (r Reader) Claims(ctx context.Context) (map[fleet.MachineID]fleet.RolloutID, error) {
	type claim struct {
		machine fleet.MachineID
		rollout fleet.RolloutID
	}
	rows, err := list(ctx, r.q, func(r row) (c claim, err error) { return c, r.Scan(&c.machine, &c.rollout) },
		`SELECT machine_id, rollout_id FROM claim`)
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	claims := make(map[fleet.MachineID]fleet.RolloutID, len(rows))
	for _, c := range rows {
		claims[c.machine] = c.rollout
	}
	return claims, nil
}

// Unclaim ends a rollout's claims on machines, where it has them.
func (t *Tx) Unclaim(ctx context.Context, rollout fleet.RolloutID, machines ...fleet.MachineID) error {
	err := inParts(len(machines), 1, func(from, size int) error {
		_, err := t.exec(ctx, `DELETE FROM claim WHERE machine_id IN `+placeholders(size)+` AND rollout_id = ?`,
			append(anyOf(machines[from:from+size]), string(rollout))...)
		return err
	})
	if err != nil {
		return fmt.Errorf("end claims of %s: %w", rollout, err)
	}
	return nil
}
