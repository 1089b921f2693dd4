// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// check holds what is in the store, and in memory, against the rules. It is run after
// each action.
func (g *rig) check() {
	now := g.look()
	g.checkMemory(now)
	g.checkClaims(now)
	g.checkFates(now)
	g.checkBudgets(now)
	g.checkInbox()
	g.was = now
}

// checkMemory holds that the loop has in memory what the store has, and no more
// (H09, H15).
func (g *rig) checkMemory(now snapshot) {
	if g.l.active == nil {
		return // it reads them anew before it uses them
	}
	rows, err := g.store.ActiveRollouts(g.ctx)
	g.must(err)
	var ids []fleet.RolloutID
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	if have := slices.Sorted(maps.Keys(g.l.active)); !slices.Equal(have, ids) {
		g.t.Fatalf("at work in memory are %v, in the store %v", have, ids)
	}
	for id, s := range g.l.active {
		if d := cmp.Diff(now.rollouts[id], s, cmpopts.IgnoreUnexported(rollout.State{}), cmpopts.EquateEmpty()); d != "" {
			g.t.Fatalf("rollout %s (-store +memory):\n%s", id, d)
		}
	}
	for i := range propertyMachines {
		id := propertyMachine(i)
		c := g.l.Presence.Assignment(id)
		if claim, ok := now.claims[id]; ok && (c.assignment.Rollout != claim || c.assignment.State != now.rollouts[claim].Assignments[id].State) {
			g.t.Fatalf("%s is served %s of rollout %s, and is %s in %s, which claims it", id, c.assignment.State, c.assignment.Rollout, now.rollouts[claim].Assignments[id].State, claim)
		}
	}
}

// checkClaims holds that a machine is at work for one rollout at most, which claims
// it, and that nothing that is over claims any (H08, H17).
func (g *rig) checkClaims(now snapshot) {
	at := map[fleet.MachineID]fleet.RolloutID{}
	for id, s := range now.rollouts {
		counts := make([]fleet.Counts, len(s.Batches))
		for _, a := range s.Assignments {
			counts[a.Batch].Add(a.State, 1)
			if a.State.Final() {
				continue
			}
			if other := at[a.Machine]; other != "" {
				g.t.Fatalf("%s is %s in %s, and at work in %s", a.Machine, a.State, id, other)
			}
			if at[a.Machine] = id; now.claims[a.Machine] != id {
				g.t.Fatalf("%s is %s in %s, and %q claims it", a.Machine, a.State, id, now.claims[a.Machine])
			}
		}
		for i, b := range s.Batches {
			if b.Counts != counts[i] {
				g.t.Fatalf("batch %d of %s counts %+v, its machines are %+v", i, id, b.Counts, counts[i])
			}
		}
	}
	for m, id := range now.claims {
		if s := now.rollouts[id]; s.Rollout.State.Final() && s.Assignments[m].State.Final() {
			g.t.Fatalf("%s is %s in %s, which is %s and claims it", m, s.Assignments[m].State, id, s.Rollout.State)
		}
	}
}

// checkFates holds that what has ended stays so, that versions and attempts only
// grow, and that what has not ended says what it waits for (H07, H12).
func (g *rig) checkFates(now snapshot) {
	for id, s := range now.rollouts {
		was, known := g.fates[id]
		if known && (s.Rollout.Version < was.Version || was.State.Final() && (s.Rollout.State != was.State || s.Rollout.EndedAt != was.EndedAt)) {
			g.t.Fatalf("rollout %s was %s in version %d and is %s in %d", id, was.State, was.Version, s.Rollout.State, s.Rollout.Version)
		}
		g.fates[id] = s.Rollout
		for m, a := range s.Assignments {
			before, ok := fleet.Assignment{}, false
			if b := g.was.rollouts[id]; b != nil {
				before, ok = b.Assignments[m]
			}
			if ok && a.Attempt < before.Attempt {
				g.t.Fatalf("%s is at attempt %d in %s, and was at %d", m, a.Attempt, id, before.Attempt)
			}
		}
		if s.Rollout.State.Final() {
			continue
		}
		for _, w := range rollout.Explain(*s, g.l.World(g.l.Moment()), g.wall) {
			if w.Why == "" || w.Until == 0 && w.Deadline == 0 && w.Do == "" {
				g.t.Fatalf("rollout %s waits, and says %+v", id, w)
			}
		}
	}
}

// checkBudgets holds that no machine was let begin above a budget by what was done
// last, whichever rollouts are at work. What rolls back may be above it.
func (g *rig) checkBudgets(now snapshot) {
	for i, b := range now.budgets {
		if i >= len(g.was.budgets) || !cmp.Equal(g.was.budgets[i].Budget, b.Budget) {
			continue
		}
		begun, leaving, busy := 0, false, 0
		for id, s := range now.rollouts {
			for m, a := range s.Assignments {
				before := fleet.Assignment{}
				if workOf(a) != "" && slices.Contains(b.Budget.Select, string(m)) {
					busy++
				}
				if old := g.was.rollouts[id]; old != nil {
					before = old.Assignments[m]
				}
				if leaving = leaving || a.State.RollingBack() && !before.State.RollingBack(); a.Attempt > before.Attempt && slices.Contains(b.Budget.Select, string(m)) && g.was.budgets[i].Disrupted[m] == "" {
					begun++
				}
			}
		}
		if begun > 0 && !leaving && max(busy, len(b.Disrupted)) > b.Limit {
			g.t.Fatalf("budget %s: %d began, %d are at work, and %v are disrupted, %d may be", b.Budget.Name, begun, busy, b.Disrupted, b.Limit)
		}
	}
}

// checkInbox holds that every report that was acknowledged is kept (A09, H09).
func (g *rig) checkInbox() {
	kept := map[string]bool{}
	for i := range propertyMachines {
		page, err := g.store.MachineReports(g.ctx, propertyMachine(i), fleet.PageRequest{Limit: 1000})
		g.must(err)
		for _, r := range page.Items {
			kept[r.ID] = true
		}
	}
	for _, r := range g.acked {
		if !kept[r.ID] {
			g.t.Fatalf("report %s of %s was acknowledged and is gone", r.ID, r.Machine)
		}
	}
}

// same holds that rollouts and claims are as they were.
func (g *rig) same(what string, before, after snapshot) {
	if d := cmp.Diff(before.rollouts, after.rollouts, cmpopts.IgnoreUnexported(rollout.State{}), cmpopts.EquateEmpty()); d != "" {
		g.t.Fatalf("%s changed (-before +after):\n%s", what, d)
	}
	if !maps.Equal(before.claims, after.claims) {
		g.t.Fatalf("%s: claims were %v and are %v", what, before.claims, after.claims)
	}
}

// obey ends the trouble: machines are there and do as they are told, and an operator
// lets go on what waits for one. Then every rollout has to end.
func (g *rig) obey() {
	for i := range propertyMachines {
		id := propertyMachine(i)
		g.setLife(id, fleet.Active)
		g.l.Inventory.CheckedIn(id, g.l.Moment(), 55_000, 0)
		g.l.Inventory.Hold(id, g.l.Moment(), 1)
		g.l.Reconnected(id)
	}
	for range 200 {
		g.must(g.l.drain(g.ctx)) // machines that are there again
		g.settle()
		g.check()
		if len(g.l.active) == 0 {
			return
		}
		for id := range g.l.active {
			for _, v := range []api.Verb{api.VerbResume, api.VerbApprove} {
				c := rollout.Command{Verb: v, Actor: "key:bob"}
				g.must(g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error {
					s, err := p.State(ctx, id)
					if err != nil || rollout.Check(*s, c) != nil {
						return err
					}
					return p.Step(ctx, s, rollout.Event{Command: &c})
				}))
			}
		}
		if g.carryOut() {
			continue
		}
		next := int64(0)
		for _, s := range g.l.active {
			if w := s.Rollout.WakeAt; w > 0 && (next == 0 || w < next) {
				next = w
			}
		}
		g.pass(max(1, next-g.l.Moment().Run))
	}
	for id, s := range g.l.active {
		g.t.Errorf("rollout %s does not end: %+v", id, rollout.Explain(*s, g.l.World(g.l.Moment()), g.wall))
	}
	g.t.FailNow()
}

// carryOut has machines do what they are told, and reports whether there was anything.
func (g *rig) carryOut() bool {
	g.pass(5)
	ordered := false
	for i := range propertyMachines {
		id := propertyMachine(i)
		switch o := g.l.Presence.Assignment(id).Orders(g.l.Moment().Run); {
		case o.Apply != nil:
			g.submit(g.live(id), false)
		case o.Revert != nil:
			g.submit(g.left(id, fleet.OutcomeReverted), false)
		default:
			continue
		}
		ordered = true
	}
	return ordered
}
