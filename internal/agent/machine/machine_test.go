// SPDX-License-Identifier: MIT

package machine

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

var someOrder = states.Order{Kind: states.Apply, Order: fleet.Order{Digest: fleet.SHA256([]byte("new")), Rollout: "r1", Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000}}

// fakePlane gives the orders and documents of a test.
type fakePlane struct {
	down   bool
	orders states.Orders
	roots  [][]byte
	docs   map[fleet.Digest][]byte
	bundle []byte
}

func (p *fakePlane) Orders() (states.Orders, bool) { return p.orders, true }
func (p *fakePlane) Wake() <-chan struct{}         { return nil }

func (p *fakePlane) Answers(context.Context) error {
	if p.down {
		return errDown
	}
	return nil
}

func (p *fakePlane) Release(context.Context, fleet.Digest) ([]byte, error) {
	if p.bundle == nil {
		return nil, errDown
	}
	return p.bundle, nil
}

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

func testMachine(t *testing.T, p ControlPlane) *Machine {
	t.Helper()
	dir := t.TempDir()
	outbox, err := disk.OpenOutbox(filepath.Join(dir, "outbox"))
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{
		Snapshot:   NewSnapshot("web-01", states.New(), slog.New(slog.DiscardHandler)),
		Agent:      config.Agent{MachineID: "web-01", Line: "main", StateDir: dir, RunDir: dir},
		ReadConfig: config.ReadAgent, Plane: p, Outbox: outbox,
	})
}

// An outcome that the control plane lost is reported again.
func TestRepeat_QueuesTheOutcomeOfAnOrderThatIsGivenAgain(t *testing.T) {
	m := testMachine(t, &fakePlane{})
	r := fleet.Report{ID: "x", Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Rollout: "r1", Attempt: 1, Digest: someOrder.Digest}
	if err := m.dir().History().Add(r); err != nil {
		t.Fatal(err)
	}
	j := states.New()
	j.Done = []string{someOrder.Key()}
	for range 3 {
		m.repeat(j, states.Orders{Apply: &someOrder.Order})
	}
	if n := m.Outbox.Len(); n != 1 {
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

// A17: a floor is adopted if a person says so, and only if none is known.
func TestAdopted_ReturnsWhatThePersonLeft(t *testing.T) {
	m := testMachine(t, &fakePlane{})
	if err := m.dir().Floor().Write(floorAt(7)); err != nil {
		t.Fatal(err)
	}
	in := m.adopted(states.New())
	j, _ := states.Next(states.New(), in, states.Moment{})
	if j.Trust.Floor == nil || j.Trust.Floor.Lines["main"].Sequence != 7 {
		t.Fatalf("floor = %+v", j.Trust.Floor)
	}
	if m.adopted(states.New()) != nil {
		t.Error("adopted twice")
	}
	if err := m.dir().Floor().Write(floorAt(1)); err != nil {
		t.Fatal(err)
	}
	if in := m.adopted(j); in != nil {
		t.Errorf("a known floor was replaced: %+v", in)
	}
}

func floorAt(n fleet.Sequence) trust.Floor {
	return trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: n}}}
}

func TestEffects_StandForEveryStepButIdle(t *testing.T) {
	for _, s := range states.Steps {
		if (effects[s] != nil) != (s != states.Idle) {
			t.Errorf("step %s: effect %t", s, effects[s] != nil)
		}
	}
	if len(effects) != len(states.Steps)-1 {
		t.Errorf("%d effects for %d steps", len(effects), len(states.Steps))
	}
}

// An order that is dropped before it begins is tried again, less and less
// often; another order need not wait for it.
func TestTried_WaitsLongerEachTimeAndForgetsForAnotherOrder(t *testing.T) {
	var tries tried
	now := time.Unix(1000, 0)
	for i, limit := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute} {
		if !tries.due(someOrder, idleInterval, now) {
			t.Fatalf("try %d is not due", i)
		}
		if tries.due(someOrder, idleInterval, now.Add(limit/2-1)) {
			t.Errorf("try %d: due again before half of %s", i, limit)
		}
		now = now.Add(limit)
	}
	other := someOrder
	other.Attempt = 2
	tries.due(someOrder, idleInterval, now)
	if !tries.due(other, idleInterval, now) {
		t.Error("another order has to wait")
	}
}

// A journal of another agent may be at a step that this one does not know.
func TestPerform_DoesNothingAtAnUnknownStep(t *testing.T) {
	j := states.New()
	j.Step, j.Work = "dance", &states.Work{}
	if in := testMachine(t, &fakePlane{}).Perform(t.Context(), j); in != nil {
		t.Errorf("input %+v", in)
	}
}
