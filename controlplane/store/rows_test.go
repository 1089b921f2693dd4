// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// counter counts the statements that reach the store.
type counter struct {
	querier
	n int
}

func (c *counter) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	c.n++
	return c.querier.ExecContext(ctx, query, args...)
}

func (c *counter) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.n++
	return c.querier.QueryContext(ctx, query, args...)
}

// What a pass of the engine writes for many machines takes few statements.
func TestRows_OfManyMachinesTakeFewStatements(t *testing.T) {
	const machines = 1000
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	write(t, s, func(tx *Tx) error { return errors.Join(seed(ctx, tx, "r1"), addFleet(ctx, tx, machines)) })
	var ids []fleet.MachineID
	var assignments []fleet.Assignment
	var events []api.Event
	contacts := map[fleet.MachineID]int64{}
	for i := range machines {
		id := fleet.MachineID(fmt.Sprintf("m-%05d", i))
		a := fleet.Assignment{Rollout: "r1", Machine: id, State: fleet.AssignPending, Digest: digestA}
		ids, assignments, events, contacts[id] = append(ids, id), append(assignments, a), append(events, api.Event{At: 1, Assignment: &a}), 1
	}
	var seqs []int64
	write(t, s, func(tx *Tx) error {
		for _, id := range ids {
			if _, err := tx.AddReports(ctx, 1, fleet.Report{Machine: id, ID: "1"}); err != nil {
				return err
			}
		}
		waiting, err := tx.WaitingReports(ctx, 2*machines)
		for _, w := range waiting {
			seqs = append(seqs, w.Seq)
		}
		return err
	})
	for _, tt := range []struct {
		name    string
		columns int
		do      func(tx *Tx) error
	}{
		{"assignments", 19, func(tx *Tx) error { return tx.PutAssignments(ctx, assignments...) }},
		{"claims", 2, func(tx *Tx) error { return tx.Claim(ctx, "r1", ids...) }},
		{"events", 5, func(tx *Tx) error { return tx.AddEvents(ctx, events) }},
		{"contacts", 2, func(tx *Tx) error { return tx.TouchMachines(ctx, contacts) }},
		{"where they rest", 1, func(tx *Tx) error { _, err := tx.Rests(ctx, ids...); return err }},
		{"reports that were applied", 1, func(tx *Tx) error { return tx.MarkApplied(ctx, seqs...) }},
		{"ends of claims", 1, func(tx *Tx) error { return tx.Unclaim(ctx, "r1", ids...) }},
	} {
		write(t, s, func(tx *Tx) error {
			c := &counter{querier: tx.q}
			tx.q = c
			err := tt.do(tx)
			if most := 4*machines*tt.columns/maxParams + 12; c.n == 0 || c.n > most {
				t.Errorf("%s of %d machines: %d statements, want at most %d", tt.name, machines, c.n, most)
			}
			return err
		})
	}
	if claims, err := s.Claims(ctx); err != nil || len(claims) != 0 {
		t.Errorf("%d claims are left, %v", len(claims), err)
	}
	if all, err := s.AllAssignments(ctx, "r1"); err != nil || len(all) < machines {
		t.Errorf("%d assignments, %v", len(all), err)
	}
}

// A write that fails undoes itself alone, whatever ran with it: others that may run
// again, others that may not, or nothing.
func TestWriteAgain_FailsAlone(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	no := errors.New("no")
	runs := map[fleet.MachineID]int{}
	add := func(id fleet.MachineID, again bool, err error) *job {
		return &job{again: again, done: make(chan struct{}), write: func(tx *Tx) error {
			runs[id]++
			return errors.Join(tx.AddMachine(ctx, machine(id)), err)
		}}
	}
	know := func() (ids []fleet.MachineID) {
		all, err := s.Machines(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	s.commit([]*job{add("a", true, nil), add("b", false, nil), add("c", true, nil)})
	if ids := know(); !slices.Equal(ids, []fleet.MachineID{"a", "b", "c"}) || runs["a"]+runs["b"]+runs["c"] != 3 {
		t.Errorf("written are %v, in %v runs", ids, runs)
	}
	group := []*job{add("d", true, nil), add("e", true, no), add("f", false, no), add("g", true, nil), add("h", false, nil)}
	s.commit(group)
	for i, want := range []error{nil, no, no, nil, nil} {
		if err := group[i].err; !errors.Is(err, want) {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
	}
	alone := add("i", false, no)
	s.commit([]*job{alone})
	if !errors.Is(alone.err, no) {
		t.Errorf("a write alone: %v", alone.err)
	}
	if ids := know(); !slices.Equal(ids, []fleet.MachineID{"a", "b", "c", "d", "g", "h"}) || runs["f"] != 1 || runs["h"] != 1 {
		t.Errorf("written are %v, in %v runs", ids, runs)
	}
}
