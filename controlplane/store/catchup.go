// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// CatchUp is a machine without which a rollout has completed because the machine
// was offline. Its row stays until it had its chance in a later rollout.
type CatchUp struct {
	Machine fleet.MachineID
	Rollout fleet.RolloutID // may be deleted by now
	Line    fleet.Line      // of the rollout's release
	At      int64           // when the rollout completed, Unix milliseconds
	// Tries are the rollouts made for it in which it did not catch up, Silent those in
	// which it fell silent; it is not tried again before Until, in running time.
	Tries, Silent int
	Until         int64
}

// CatchUps returns the machines that have to catch up, by id.
func (r Reader) CatchUps(ctx context.Context) ([]CatchUp, error) {
	rows, err := list(ctx, r.q, func(r row) (c CatchUp, err error) {
		return c, r.Scan(&c.Machine, &c.Rollout, &c.Line, &c.At, &c.Tries, &c.Silent, &c.Until)
	}, `SELECT machine_id, rollout_id, line, at, tries, silent, wait_until FROM catch_up ORDER BY machine_id`)
	if err != nil {
		return nil, fmt.Errorf("list machines that have to catch up: %w", err)
	}
	return rows, nil
}

// PutCatchUps notes machines that have to catch up, in place of what was noted of
// them before.
func (t *Tx) PutCatchUps(ctx context.Context, list []CatchUp) error {
	rows := make([][]any, len(list))
	for i, c := range list {
		rows[i] = []any{string(c.Machine), string(c.Rollout), string(c.Line), c.At, c.Tries, c.Silent, c.Until}
	}
	if _, err := t.putRows(ctx, `INSERT INTO catch_up (machine_id, rollout_id, line, at, tries, silent, wait_until)`, rows,
		` ON CONFLICT (machine_id) DO UPDATE SET rollout_id = excluded.rollout_id, line = excluded.line, at = excluded.at,
		tries = excluded.tries, silent = excluded.silent, wait_until = excluded.wait_until`); err != nil {
		return fmt.Errorf("note machines that have to catch up: %w", err)
	}
	return nil
}

// DeleteCatchUps notes that machines have nothing to catch up with.
func (t *Tx) DeleteCatchUps(ctx context.Context, ids []fleet.MachineID) error {
	err := inParts(len(ids), 1, func(from, size int) error {
		_, err := t.exec(ctx, `DELETE FROM catch_up WHERE machine_id IN `+placeholders(size), anyOf(ids[from:from+size])...)
		return err
	})
	if err != nil {
		return fmt.Errorf("note that machines have nothing to catch up with: %w", err)
	}
	return nil
}

// ReleaseEntry returns a machine's entry in a release; false if it has none.
func (r Reader) ReleaseEntry(ctx context.Context, digest fleet.Digest, id fleet.MachineID) (e fleet.Entry, ok bool, err error) {
	body, ok, err := first(ctx, r.q, column[string], `SELECT body FROM release_entry WHERE release_digest = $1 AND machine_id = $2`, string(digest), string(id))
	if err == nil && ok {
		err = parse(jsonColumn{body, &e})
	}
	if err != nil {
		return e, false, fmt.Errorf("read entry of %s in release %s: %w", id, digest.Short(), err)
	}
	return e, ok, nil
}
