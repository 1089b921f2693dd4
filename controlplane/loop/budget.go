// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// budgetRule is a disruption budget with its selector, read.
type budgetRule struct {
	fleet.Budget
	selector fleet.Selector
}

// budgetUse is how the disruption budgets stand: each with the machines that it is
// about, by name, and those of a machine.
type budgetUse struct {
	budgets  []*rollout.Budget
	machines [][]fleet.MachineID
	of       map[fleet.MachineID][]*rollout.Budget
	resting  map[fleet.MachineID]string // why a machine counts while it is not at work
}

func budgetRules(list []fleet.Budget) ([]budgetRule, error) {
	rules := make([]budgetRule, len(list))
	for i, b := range list {
		sel, err := fleet.ParseSelector(b.Select)
		if err != nil {
			return nil, err
		}
		rules[i] = budgetRule{b, sel}
	}
	return rules, nil
}

// loadBudgets reads the disruption budgets.
func (l *Loop) loadBudgets(ctx context.Context, r store.Reader) error {
	list, err := r.Budgets(ctx)
	if err != nil {
		return err
	}
	rules, err := budgetRules(list)
	if err != nil {
		return err
	}
	l.budgets.Store(&rules)
	return nil
}

// SetBudgets takes in the disruption budgets as the pass has written them. All
// rollouts are looked at in the same pass.
func (p *Pass) SetBudgets(ctx context.Context) error {
	list, err := p.Tx.Budgets(ctx)
	if err != nil {
		return err
	}
	rules, err := budgetRules(list)
	if err != nil {
		return err
	}
	p.budgets, p.use = rules, nil
	p.AfterCommit(func() { p.loop.budgets.Store(&rules) })
	for _, s := range p.Active() {
		p.step(s, rollout.Event{})
	}
	return p.write(ctx)
}

// BudgetUse is how a disruption budget stands.
type BudgetUse struct {
	Budget    fleet.Budget
	Limit     int
	Machines  int
	Disrupted map[fleet.MachineID]string // and why each counts
}

// Budgets returns the disruption budgets, by name, as they stand.
func (l *Loop) Budgets(now rollout.Moment) []BudgetUse {
	rules := *l.budgets.Load()
	use := l.useOf(rules, now.Run, nil, nil)
	out := make([]BudgetUse, len(rules))
	for i, r := range rules {
		out[i] = BudgetUse{r.Budget, use.budgets[i].Limit, len(use.machines[i]), use.budgets[i].Disrupted}
	}
	return out
}

// useOf finds how budgets stand: by what is committed, but for machines whose rows
// or work a pass has changed.
func (l *Loop) useOf(rules []budgetRule, run int64, changed map[fleet.MachineID]fleet.Machine, work map[fleet.MachineID]string) *budgetUse {
	u := &budgetUse{
		budgets: make([]*rollout.Budget, len(rules)), machines: make([][]fleet.MachineID, len(rules)),
		of: map[fleet.MachineID][]*rollout.Budget{}, resting: map[fleet.MachineID]string{},
	}
	for i, r := range rules {
		u.budgets[i] = &rollout.Budget{Name: r.Name, Disrupted: map[fleet.MachineID]string{}}
	}
	l.Inventory.Each(run, func(m fleet.Machine) {
		if c, ok := changed[m.ID]; ok {
			m.Lifecycle, m.Tags = c.Lifecycle, c.Tags
		}
		if m.Lifecycle != fleet.Active && m.Lifecycle != fleet.Maintenance {
			return
		}
		for i, r := range rules {
			if r.selector.Match(m.ID, m.Tags.Effective) {
				u.machines[i] = append(u.machines[i], m.ID)
				u.of[m.ID] = append(u.of[m.ID], u.budgets[i])
			}
		}
		if u.of[m.ID] == nil {
			return
		}
		a := l.Presence.Assignment(m.ID).assignment
		u.resting[m.ID] = disruption(m, a)
		at, ok := work[m.ID]
		if !ok {
			at = workOf(a)
		}
		u.set(m.ID, at)
	})
	for i, r := range rules {
		u.budgets[i].Limit = r.Limit(len(u.machines[i]))
	}
	return u
}

// set takes in what a machine is at work on; "" for nothing.
func (u *budgetUse) set(id fleet.MachineID, work string) {
	why := work
	if why == "" {
		why = u.resting[id]
	}
	for _, b := range u.of[id] {
		if why == "" {
			delete(b.Disrupted, id)
		} else {
			b.Disrupted[id] = why
		}
	}
}

// workOf says what a machine is at work on; "" for nothing.
func workOf(a fleet.Assignment) string {
	if a.State.InFlight() || a.State.RollingBack() {
		return string(a.State) + " in rollout " + string(a.Rollout)
	}
	return ""
}

// disruption says why a machine counts as disrupted that is not at work; "" if it
// does not. One that was taken over by another rollout may still switch.
func disruption(m fleet.Machine, a fleet.Assignment) string {
	switch {
	case m.Lifecycle == fleet.Maintenance:
		return "in maintenance"
	case m.Offline && m.LastContact != 0:
		return "offline"
	case m.Health == fleet.Unhealthy:
		return "unhealthy"
	case a.State == fleet.AssignPending && (m.State == fleet.AgentApplying || m.State == fleet.AgentVerifying || m.State == fleet.AgentRollingBack):
		return "its agent is " + string(m.State)
	}
	return ""
}

// budgetsOf is World.Budgets; nil without budgets.
func (l *Loop) budgetsOf(rules []budgetRule, use func() *budgetUse) func(fleet.MachineID) []*rollout.Budget {
	if len(rules) == 0 {
		return nil
	}
	return func(id fleet.MachineID) []*rollout.Budget { return use().of[id] }
}

// useNow is how the budgets stand in this pass.
func (p *Pass) useNow() *budgetUse {
	if p.use == nil {
		p.use = p.loop.useOf(p.budgets, p.Run, p.machines, p.work)
	}
	return p.use
}

// noteWork takes in which machines a result of the engine sets to work, or lets
// rest, so that the next rollout of this pass sees it. It must be called before
// the result is applied.
func (p *Pass) noteWork(s *rollout.State, res rollout.Result) {
	if len(p.budgets) == 0 {
		return
	}
	for _, a := range res.Assignments {
		work := workOf(a)
		p.freed = p.freed || work == "" && workOf(s.Assignments[a.Machine]) != ""
		p.work[a.Machine] = work
		if p.use != nil {
			p.use.set(a.Machine, work)
		}
	}
}

// heldBack reports whether a rollout may have waited for a budget.
func heldBack(s *rollout.State) bool {
	return s.Rollout.State == fleet.RolloutRunning && slices.ContainsFunc(s.Batches[:s.Rollout.Batch+1], func(b fleet.Batch) bool { return b.Counts.Pending > 0 })
}

// unfinishedOf is World.Unfinished: what is committed of other rollouts.
func (l *Loop) unfinishedOf(machine func(fleet.MachineID) (fleet.Machine, bool)) func(fleet.Selector, fleet.RolloutID) string {
	return func(sel fleet.Selector, except fleet.RolloutID) string {
		left, example := 0, fleet.RolloutID("")
		for id, c := range l.Presence.all() {
			if c.assignment.Rollout == except || c.assignment.State.Final() {
				continue
			}
			if m, ok := machine(id); ok && sel.Match(id, m.Tags.Effective) {
				left++
				if example == "" || c.rollout.ID < example {
					example = c.rollout.ID
				}
			}
		}
		if left == 0 {
			return ""
		}
		return fmt.Sprintf("%d machines of other rollouts are not done, as of %s", left, example)
	}
}
