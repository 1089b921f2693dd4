// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
)

// An outcome of a newer agent is never taken for a success: the assignment has
// failed, and says so.
func TestStep_UnknownOutcomeFails(t *testing.T) {
	m := newSim(t, 1, spec())
	m.settle()
	m.now += minute
	r := m.liveReport("m-00")
	r.Outcome, r.Message = "splendid", "all is well"
	m.report(r)
	if a := m.a("m-00"); a.State != fleet.AssignFailed || a.Reason != fleet.ReasonUnknownOutcome || a.Message != "reported the outcome splendid: all is well" {
		t.Errorf("got %s %s %q", a.State, a.Reason, a.Message)
	}
	m.wantStates("paused = failed: failed")
}

// A phase of a newer agent moves no deadline.
func TestStep_UnknownPhaseChangesNothing(t *testing.T) {
	m := newSim(t, 1, spec())
	m.settle()
	before := m.a("m-00")
	m.now += second
	m.progress("m-00", "dreaming")
	if d := cmp.Diff(before, m.a("m-00")); d != "" {
		t.Errorf("-before +after:\n%s", d)
	}
}
