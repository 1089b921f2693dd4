// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Events returns at most limit events after an id, in order.
func (r Reader) Events(ctx context.Context, after int64, f fleet.EventFilter, limit int) ([]api.Event, error) {
	var w where
	w.and("id > ?", after)
	rollout := "rollout_id"
	if f.Machine != "" { // of one machine there are fewer
		w.and("machine_id = ? AND machine_id <> ''", string(f.Machine))
		rollout = unindexed(rollout)
	}
	if f.Rollout != "" {
		w.and(rollout+" = ? AND rollout_id <> ''", string(f.Rollout))
	}
	rest, args := w.limited("id", limit)
	events, err := list(ctx, r.q, scanEvent, `SELECT id, at, body FROM event`+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

func scanEvent(r row) (e api.Event, err error) {
	var body string
	var id, at int64
	if err = r.Scan(&id, &at, &body); err != nil {
		return e, err
	}
	err = parse(jsonColumn{body, &e})
	e.ID, e.At = id, at
	return e, err
}

// EventRange returns the ids of the oldest event that is kept and of the
// newest; both are 0 if there never was one.
func (r Reader) EventRange(ctx context.Context) (oldest, newest int64, err error) {
	// One aggregate alone is one step in the index; two are a scan of all events.
	ids, _, err := first(ctx, r.q, func(r row) (ids [2]int64, err error) { return ids, r.Scan(&ids[0], &ids[1]) },
		`SELECT COALESCE((SELECT MIN(id) FROM event), 0), COALESCE((SELECT MAX(id) FROM event), 0)`)
	if err != nil {
		return 0, 0, fmt.Errorf("read range of events: %w", err)
	}
	return ids[0], ids[1], nil
}

// AddEvents appends events in the transaction of the change that they describe;
// it gives them their ids.
func (t *Tx) AddEvents(ctx context.Context, events []api.Event) error {
	if len(events) == 0 {
		return nil
	}
	last, _, err := first(ctx, t.q, column[int64], `SELECT COALESCE(MAX(id), 0) FROM event`)
	if err != nil {
		return fmt.Errorf("read newest event: %w", err)
	}
	rows := make([][]any, len(events))
	for i, e := range events {
		at := e.At
		e.ID, e.At = 0, 0
		body, err := text(e)
		if err != nil {
			return err
		}
		rollout, machine := subjectOf(e)
		rows[i] = []any{last + 1 + int64(i), at, string(rollout), string(machine), body}
	}
	if _, err := t.putRows(ctx, `INSERT INTO event (id, at, rollout_id, machine_id, body)`, rows, ""); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

func subjectOf(e api.Event) (rollout fleet.RolloutID, machine fleet.MachineID) {
	switch {
	case e.Rollout != nil:
		return e.Rollout.ID, ""
	case e.Batch != nil:
		return e.Batch.Rollout, ""
	case e.Assignment != nil:
		return e.Assignment.Rollout, e.Assignment.Machine
	case e.Machine != nil:
		return "", e.Machine.ID
	case e.Report != nil:
		return e.Report.Rollout, e.Report.Machine
	}
	return "", e.Removed
}

// DeleteEventsBefore forgets so many events older than a time, and says how many. The
// newest stays, so that ids never start again.
func (t *Tx) DeleteEventsBefore(ctx context.Context, at int64, most int) (int64, error) {
	n, err := t.exec(ctx, `DELETE FROM event WHERE id IN (SELECT id FROM event WHERE at < $1 AND id < (SELECT MAX(id) FROM event) ORDER BY at LIMIT $2)`, at, most)
	if err != nil {
		return 0, fmt.Errorf("delete old events: %w", err)
	}
	return n, nil
}
