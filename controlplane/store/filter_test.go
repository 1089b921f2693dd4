// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// A page of the audit trail has what a look at every entry finds, also where the
// clock stepped, under the program before (O11) and under this one.
func TestAudit_FindsWhatALookAtEveryEntryFinds(t *testing.T) {
	ctx := t.Context()
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(words ...string) string { return words[r.IntN(len(words))] }
		at := int64(10_000)
		var all []fleet.AuditEvent
		for range 60 {
			at += []int64{0, 1, 2, 3, 30, -1, -40}[r.IntN(7)]
			all = append(all, fleet.AuditEvent{At: at, Actor: pick("a", "b", "c"), Action: pick("a", "b", "c"), Subject: pick("a", "b", "c")})
		}
		var before []string
		for i, e := range all[:r.IntN(30)] {
			before = append(before, fmt.Sprintf(`INSERT INTO audit (seq, at, actor, action, subject, body, hash) VALUES (%d, %d, '%s', '%s', '%s', '{}', 'x')`,
				i+1, e.At, e.Actor, e.Action, e.Subject))
		}
		path := filepath.Join(t.TempDir(), "a.db")
		openAt(t, path, 18, before...)
		s := open(t, path)
		write(t, s, func(tx *Tx) error {
			for part := range slices.Chunk(all[len(before):], 3) {
				if err := tx.AddAudit(ctx, part...); err != nil {
					return err
				}
			}
			return nil
		})
		for range 100 {
			f := fleet.AuditFilter{Actor: pick("", "a", "b"), Action: pick("", "a", "b"), Subject: pick("", "", "a")}
			if r.IntN(2) == 0 {
				f.Since = all[r.IntN(len(all))].At + r.Int64N(3) - 1
			}
			if r.IntN(2) == 0 {
				f.Until = all[r.IntN(len(all))].At + r.Int64N(3) - 1
			}
			var want, got []int64
			for i, e := range all {
				if (f.Actor == "" || f.Actor == e.Actor) && (f.Action == "" || f.Action == e.Action) && (f.Subject == "" || f.Subject == e.Subject) &&
					e.At >= f.Since && (f.Until == 0 || e.At < f.Until) {
					want = append(want, int64(i+1))
				}
			}
			for page := (fleet.PageRequest{Limit: 3}); ; {
				entries, err := s.Audit(ctx, f, page)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries.Items {
					got = append(got, e.Seq)
				}
				if page.Cursor = entries.Next; page.Cursor == "" {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, %+v: got %v, want %v", seed, f, got, want)
			}
		}
	}
}

func TestEvents_OfARolloutAndAMachine(t *testing.T) {
	s, ctx := open(t, filepath.Join(t.TempDir(), "a.db")), t.Context()
	var events []api.Event
	for _, r := range []fleet.RolloutID{"r1", "r2"} {
		for _, m := range []fleet.MachineID{"web-01", "web-02"} {
			events = append(events, api.Event{At: 1, Assignment: &fleet.Assignment{Rollout: r, Machine: m}})
		}
	}
	write(t, s, func(tx *Tx) error { return tx.AddEvents(ctx, events) })
	for _, tt := range []struct {
		filter fleet.EventFilter
		after  int64
		want   []int64
	}{
		{fleet.EventFilter{}, 1, []int64{2, 3, 4}},
		{fleet.EventFilter{Rollout: "r2"}, 0, []int64{3, 4}},
		{fleet.EventFilter{Machine: "web-02"}, 2, []int64{4}},
		{fleet.EventFilter{Rollout: "r1", Machine: "web-02"}, 0, []int64{2}},
	} {
		found, err := s.Events(ctx, tt.after, tt.filter, 10)
		var got []int64
		for _, e := range found {
			got = append(got, e.ID)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%+v after %d: %v, want %v (%v)", tt.filter, tt.after, got, tt.want, err)
		}
	}
}
