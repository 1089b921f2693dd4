// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

func (m *sim) explainsBatch(i int) api.Waiting {
	m.t.Helper()
	for _, l := range rollout.Explain(m.state, m.world(), m.now) {
		if l.Machine == "" && l.Batch == i {
			return l
		}
	}
	m.t.Fatalf("nothing explains batch %d", i)
	return api.Waiting{}
}

// takenOver has another rollout take a machine over that is healthy, and an operator
// try to have it reverted.
func (d driver) takenOver(r *rapid.T) {
	id := d.machine()
	if d.a(id).State != fleet.AssignHealthy || rapid.IntRange(0, 3).Draw(r, "rare") > 0 {
		return
	}
	d.step(rollout.Event{By: "r9", Superseded: []fleet.MachineID{id}})
	d.settle()
	d.step(rollout.Event{Command: &rollout.Command{Verb: api.VerbRevert, Actor: "key:bob", Machines: []fleet.MachineID{id}}})
	d.settle()
}

// H17: another rollout takes machines over; the rest goes on, and a rollout
// that has none left has ended.
func TestStep_Superseded(t *testing.T) {
	m := newSim(t, 4, spec("1", "100%"))
	m.settle()
	m.live(m.at(0, 0))
	m.step(rollout.Event{By: "r7", Superseded: []fleet.MachineID{m.at(0, 0), m.at(1, 0), "m-99"}})
	m.wantStates("running = passed: healthy | open: superseded offered offered")
	for _, id := range []fleet.MachineID{m.at(0, 0), m.at(1, 0)} {
		if a := m.a(id); a.Message != "rollout r7 took the machine over" {
			t.Errorf("%s says %q", id, a.Message)
		}
	}
	if why := m.explainsBatch(1).Why; !strings.Contains(why, string(m.at(1, 0))+": rollout r7 took the machine over") {
		t.Errorf("the batch is explained by %q", why)
	}
	if e := m.audit[len(m.audit)-1]; e.Action != fleet.ActionRolloutSupersede || e.Detail["by"] != "r7" || e.Detail["machines"] != string(m.at(0, 0)+" "+m.at(1, 0)) {
		t.Errorf("audited as %+v", e)
	}
	if err := rollout.Check(m.state, rollout.Command{Verb: api.VerbRevert, Machines: []fleet.MachineID{m.at(0, 0)}}); fleet.ErrorCode(err) != fleet.Conflict {
		t.Errorf("revert of a machine of another rollout: %v", err)
	}
	m.live(m.at(1, 1))
	m.step(rollout.Event{By: "r8", Superseded: []fleet.MachineID{m.at(1, 2)}})
	m.wantStates("superseded = passed: healthy | failed: superseded healthy superseded")
	if why := m.state.Rollout.Why; why != "rollout r8 took its machines over" {
		t.Errorf("it ended because %q", why)
	}
	if len(m.released) != 1 || !m.released[m.at(1, 1)] {
		t.Errorf("let go %v", m.released)
	}
}
