// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// checkGroups holds that the first batch of a group opens only when all machines of
// the groups before are done.
func (m *sim) checkGroups(before rollout.State) {
	m.t.Helper()
	for i, b := range m.state.Batches {
		if b.Group == 0 || b.State == fleet.BatchWaiting || before.Batches[i].State != fleet.BatchWaiting || i > 0 && m.state.Batches[i-1].Group == b.Group {
			continue
		}
		if m.elsewhere != "" {
			m.t.Fatalf("batch %d opened, and there is left before it: %s", i, m.elsewhere)
		}
		for _, a := range m.state.Assignments {
			if m.state.Batches[a.Batch].Group < b.Group && !a.State.Final() {
				m.t.Fatalf("batch %d of group %d opened, and of group %d there is %s", i, b.Group, m.state.Batches[a.Batch].Group, a)
			}
		}
	}
}

// Groups go one after the other, each in batches of its own, and the next begins
// only when stragglers are done too, and those of other rollouts.
func TestStep_BeginsGroupsOneAfterTheOther(t *testing.T) {
	s := spec("1", "100%")
	s.After = []string{"m-00,m-01", "m-02"}
	s.StragglerMs = minute
	m := newSim(t, 5, s)
	var groups []int
	for _, b := range m.state.Batches {
		groups = append(groups, b.Group)
	}
	if !slices.Equal(groups, []int{0, 0, 1, 2, 2}) || m.plan.Batches[2][0] != "m-02" {
		t.Fatalf("groups %v of %v", groups, m.plan.Batches)
	}
	m.elsewhere = "1 machines of rollout r9 are not done"
	m.tick()
	m.live(m.at(0, 0))
	late := m.at(1, 0)
	m.changed(late, offline)
	m.sleepTo(m.now + 2*minute)
	m.verb(api.VerbSkip, late)
	m.wantStates("running = passed: healthy | passed: skipped | waiting: pending | waiting: pending | waiting: pending")
	if why := m.state.Rollout.Why; why != "batch 3 begins after m-00,m-01: 1 machines of rollout r9 are not done" {
		t.Errorf("why %q", why)
	}
	m.elsewhere = ""
	m.sleepTo(m.now + 11*second)
	m.live("m-02")
	m.wantStates("running = passed: healthy | passed: skipped | passed: healthy | open: offered | waiting: pending")
	m.live(m.at(3, 0), m.at(4, 0))
	if m.state.Rollout.State != fleet.RolloutCompleted {
		t.Fatal(m.state.Rollout)
	}
}

// A rollout of which all go last waits from its start.
func TestStep_WaitsForTheGroupsOfOtherRollouts(t *testing.T) {
	s := spec()
	s.Select, s.After = []string{"m-01"}, []string{"m-00"}
	m := newSim(t, 2, s)
	m.elsewhere = "1 machines of rollout r9 are not done"
	m.tick()
	m.wantStates("scheduled = waiting: pending")
	if l := m.explains(""); !strings.Contains(l.Why, "batch 1 begins after m-00: 1 machines of rollout r9") {
		t.Errorf("explained by %+v", l)
	}
	m.elsewhere = ""
	m.sleepTo(m.now + 11*second)
	m.wantStates("running = open: offered")
}

func TestBuild_RefusesGroupsThatNoMachineMatches(t *testing.T) {
	for _, after := range []string{"m-09", "[", "@none"} {
		in := input(2, spec())
		in.Spec.After = []string{after}
		if _, _, err := rollout.Build(in); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("after %q: %v", after, err)
		}
	}
}
