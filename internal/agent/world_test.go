// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// fakePlane gives the orders and the documents that it is told to give.
type fakePlane struct {
	down   bool
	orders states.Orders
	roots  [][]byte
	docs   map[fleet.Digest][]byte
}

func (p *fakePlane) Orders() (states.Orders, bool) { return p.orders, true }
func (p *fakePlane) Wake() <-chan struct{}         { return nil }

func (p *fakePlane) Answers(context.Context) error {
	if p.down {
		return errDown
	}
	return nil
}

func (p *fakePlane) Release(context.Context, fleet.Digest) ([]byte, error) { return nil, errDown }

func (p *fakePlane) Document(_ context.Context, d fleet.Digest) ([]byte, error) {
	if b, ok := p.docs[d]; ok {
		return b, nil
	}
	return nil, errDown
}

func (p *fakePlane) RootsAfter(_ context.Context, version uint64) ([][]byte, error) {
	return p.roots[version-1:], nil
}

var errDown = fleet.Errorf(fleet.Unavailable, "the control plane is down")

func testWorld(t *testing.T, p ControlPlane) *world {
	t.Helper()
	dir := t.TempDir()
	outbox, err := disk.OpenOutbox(filepath.Join(dir, "outbox"))
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		Snapshot: NewSnapshot("web-01", states.New(), slog.New(slog.DiscardHandler)),
		cfg:      config.Agent{MachineID: "web-01", Line: "main", StateDir: dir, RunDir: dir},
		plane:    p, outbox: outbox, history: disk.History{File: filepath.Join(dir, "history.jsonl")},
		notBefore: map[string]time.Time{}, delay: map[string]time.Duration{}, notBeforeDoc: map[fleet.Digest]time.Time{},
	}
}

// An outcome that the control plane lost is told again.
func TestRepeat_QueuesTheOutcomeOfAnOrderThatIsGivenAgain(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	r := fleet.Report{ID: "x", Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Rollout: "r1", Attempt: 1, Digest: simOrder.Digest}
	if err := w.history.Add(r); err != nil {
		t.Fatal(err)
	}
	j := states.New()
	j.Done = []string{simOrder.Key()}
	for range 3 {
		w.repeat(j, states.Orders{Apply: &simOrder.Order})
	}
	if n := w.outbox.Len(); n != 1 {
		t.Errorf("%d reports queued, want 1", n)
	}
}

func TestHeld_NamesTheHoldUntilItIsTooOld(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	if got := held(filepath.Join(dir, "none"), now); got != "" {
		t.Errorf("no folder: %q", got)
	}
	file := filepath.Join(dir, "backup")
	if err := os.WriteFile(file, []byte("restic runs\nmore"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := held(dir, now); got != "held-locally: backup: restic runs" {
		t.Errorf("hold = %q", got)
	}
	if got := held(dir, now.Add(25*time.Hour)); got != "" {
		t.Errorf("after a day: %q", got)
	}
}

// A17: a floor is adopted when a person says so, and only when none is known.
func TestAdopted_TakesUpWhatThePersonLeft(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	if err := requestFloor(w.cfg, floorAt(7)); err != nil {
		t.Fatal(err)
	}
	in := w.adopted(states.New())
	j := states.Next(states.New(), in, states.Moment{})
	if j.Trust.Floor == nil || j.Trust.Floor.Lines["main"].Sequence != 7 {
		t.Fatalf("floor = %+v", j.Trust.Floor)
	}
	if w.adopted(states.New()) != nil {
		t.Error("adopted twice")
	}
	if err := requestFloor(w.cfg, floorAt(1)); err != nil {
		t.Fatal(err)
	}
	if in := w.adopted(j); in != nil {
		t.Errorf("a floor that is known was given up: %+v", in)
	}
}

func floorAt(n fleet.Sequence) trust.Floor {
	return trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: n}}}
}

func TestWindowOpen(t *testing.T) {
	for _, tc := range []struct {
		window, at string
		want       bool
	}{
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T02:00:00Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T03:59:59Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T04:00:01Z", false},
		{"0 3 * * * 2h Europe/Paris", "2026-07-24T01:30:00Z", true}, // summer time
		{"0 3 * * * 2h", "2026-11-24T02:30:00Z", false},
		{"0 23 * * 6 4h", "2026-11-29T02:00:00Z", true}, // Saturday's goes on into Sunday
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := windowOpen(tc.window, at); err != nil || got != tc.want {
			t.Errorf("%s at %s: %t, %v; want %t", tc.window, tc.at, got, err, tc.want)
		}
	}
	for _, bad := range []string{"", "0 3 * * *", "0 3 * * * soon", "0 3 * * * 2h Mars/Olympus", "x 3 * * * 2h"} {
		if _, err := windowOpen(bad, time.Now()); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
}
