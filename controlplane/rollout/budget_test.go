// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// simBudget is a disruption budget that holds some machines of the rollout, and
// others that are disrupted by other rollouts or by themselves.
type simBudget struct {
	limit  int
	member func(fleet.MachineID) bool
	others map[fleet.MachineID]bool // disrupted, at work in this rollout or not
}

// disrupted are the machines that count in a budget, as a state has them.
func (m *sim) disrupted(s rollout.State, b simBudget) map[fleet.MachineID]string {
	list := map[fleet.MachineID]string{}
	for id := range b.others {
		list[id] = "unhealthy"
	}
	for id, a := range s.Assignments {
		if b.member(id) && (a.State.InFlight() || a.State.RollingBack()) {
			list[id] = "at work"
		}
	}
	return list
}

// holding is World.Budgets.
func (m *sim) holding() func(fleet.MachineID) []*rollout.Budget {
	if len(m.budgets) == 0 {
		return nil
	}
	list := make([]*rollout.Budget, len(m.budgets))
	for i, b := range m.budgets {
		list[i] = &rollout.Budget{Name: string(rune('a' + i)), Limit: b.limit, Disrupted: m.disrupted(m.state, b)}
	}
	return func(id fleet.MachineID) (mine []*rollout.Budget) {
		for i, b := range m.budgets {
			if b.member(id) {
				mine = append(mine, list[i])
			}
		}
		return mine
	}
}

// checkBudgets holds that no step lets more machines begin than the budgets leave:
// what is disrupted grows by offers only up to the limit.
func (m *sim) checkBudgets(before rollout.State, res rollout.Result) {
	m.t.Helper()
	for i, b := range m.budgets {
		was := m.disrupted(before, b)
		begun := 0
		for _, a := range res.Assignments {
			if a.Attempt != before.Assignments[a.Machine].Attempt && b.member(a.Machine) && was[a.Machine] == "" {
				begun++
			}
		}
		if begun > 0 && len(was)+begun > b.limit {
			m.t.Fatalf("budget %d: %d were disrupted and %d begin, %d may be", i, len(was), begun, b.limit)
		}
	}
}

// drawBudgets draws up to two budgets that overlap.
func (m *sim) drawBudgets(t *rapid.T) {
	for range rapid.IntRange(0, 2).Draw(t, "budgets") {
		every := rapid.IntRange(1, 2).Draw(t, "every")
		m.budgets = append(m.budgets, simBudget{
			limit: rapid.IntRange(1, 3).Draw(t, "limit"), others: map[fleet.MachineID]bool{},
			member: func(id fleet.MachineID) bool { return int(id[len(id)-1])%every == 0 },
		})
	}
}

// disrupt draws what other rollouts do to the machines of a budget.
func (d driver) disrupt(r *rapid.T) {
	if len(d.budgets) == 0 {
		return
	}
	b := rapid.SampledFrom(d.budgets).Draw(r, "budget")
	id := d.machine()
	if rapid.Bool().Draw(r, "elsewhere") {
		id = "another-0"
	}
	if b.others[id] = !b.others[id]; !b.others[id] || !b.member(id) {
		delete(b.others, id)
	}
}

// A budget lets as many begin as it leaves, of all batches and rollouts together;
// one that is disrupted already may begin, and who waits is told why.
func TestStep_BeginsNothingAboveABudget(t *testing.T) {
	s := spec()
	s.ProgressDeadlineMs = 3 * minute
	m := newSim(t, 4, s)
	m.budgets = []simBudget{{limit: 2, others: map[fleet.MachineID]bool{"else-01": true, m.at(0, 3): true}, member: func(fleet.MachineID) bool { return true }}}
	m.tick()
	m.wantStates("running = open: pending pending pending offered")
	if why := m.explains(m.at(0, 0)).Why; why != "waits for budget a: 2 machines are at work, unhealthy, offline or in maintenance, 2 may be" {
		t.Errorf("why %q", why)
	}
	m.live(m.at(0, 3))
	m.wantStates("running = open: pending pending pending healthy")
	if why := m.state.Rollout.Why; !strings.HasPrefix(why, "waits for budget a") {
		t.Errorf("why %q", why)
	}
	m.sleepTo(m.now + 10*minute) // no progress deadline while a budget holds it
	delete(m.budgets[0].others, m.at(0, 3))
	m.sleepTo(m.now + 11*second)
	m.wantStates("running = open: offered pending pending healthy")
	delete(m.budgets[0].others, "else-01")
	m.live(m.at(0, 0))
	m.wantStates("running = open: healthy offered offered healthy")
}
