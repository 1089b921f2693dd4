// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Pass is one engine pass: what it decides is written in Tx, and only after the
// commit seen by anyone.
type Pass struct {
	Tx  *store.Tx
	Now int64 // Unix milliseconds
	Run int64 // running time

	loop *Loop
	// machines are rows that this pass wrote; the engine sees them already.
	machines map[fleet.MachineID]fleet.Machine
	removed  []fleet.MachineID
	freeze   *fleet.Freeze              // as this pass has it
	budgets  []budgetRule               // as this pass has them
	use      *budgetUse                 // how they stand; nil until that is asked for
	work     map[fleet.MachineID]string // what this pass sets machines to work on, "" for nothing
	freed    bool                       // a machine that was at work is not any more
	events   []api.Event
	touched  map[fleet.MachineID]bool // whose orders may have changed
	told     map[told]bool            // outcomes that this pass put into the audit trail
	// What is to be written, by write.
	changes map[fleet.RolloutID]*changes
	applied []int64                            // reports, by number
	rested  map[fleet.MachineID]bool           // whose latest healthy assignment may be another
	rests   map[fleet.MachineID]*fleet.Desired // and what that is
	audit   []fleet.AuditEvent
	// What changes in who has to catch up, nil for nothing to catch up with: what is to
	// be written, the releases of the rollouts in it, and what was written.
	behind, behindNow map[fleet.MachineID]*store.CatchUp
	released          map[fleet.RolloutID]fleet.Digest
	completed         []*rollout.State // with late joiners that are to be looked for
	dirty             bool             // loop.active no longer is what the store has, until the commit
	after             []func()         // run after the commit
}

// pass runs fn in a transaction. After an error the rollouts in memory are read
// anew, so that they are what the store has.
func (l *Loop) pass(ctx context.Context, fn func(ctx context.Context, p *Pass) error) error {
	if l.active == nil {
		if err := l.loadActive(ctx); err != nil {
			return err
		}
	}
	now := l.Moment()
	p := &Pass{
		loop: l, Now: now.Wall, Run: now.Run, freeze: l.freeze.Load(), machines: map[fleet.MachineID]fleet.Machine{}, touched: map[fleet.MachineID]bool{}, told: map[told]bool{},
		changes: map[fleet.RolloutID]*changes{}, rested: map[fleet.MachineID]bool{},
		rests: map[fleet.MachineID]*fleet.Desired{}, behind: map[fleet.MachineID]*store.CatchUp{},
		behindNow: map[fleet.MachineID]*store.CatchUp{}, released: map[fleet.RolloutID]fleet.Digest{},
		budgets: *l.budgets.Load(), work: map[fleet.MachineID]string{},
	}
	err := l.Store.Write(ctx, func(tx *store.Tx) error {
		p.Tx = tx
		if err := fn(ctx, p); err != nil {
			return err
		}
		if err := p.write(ctx); err != nil {
			return err
		}
		p.events = p.announced()
		return errors.Join(tx.AddEvents(ctx, p.events), tx.SetRunningTime(ctx, store.RunningTime{Run: p.Run, Wall: p.Now}))
	})
	if err != nil {
		if p.dirty {
			l.active = nil
		}
		return err
	}
	l.publish(p)
	return nil
}

// publish shows what was committed.
func (l *Loop) publish(p *Pass) {
	for _, m := range p.machines {
		l.Inventory.put(m)
	}
	for id, d := range p.rests {
		l.Inventory.rest(id, d)
	}
	maps.Copy(l.told, p.told)
	l.Behind.change(p.behindNow)
	for _, f := range p.after {
		f()
	}
	for _, id := range p.removed {
		l.Inventory.remove(id)
		l.Presence.clear(id)
	}
	for id := range p.touched {
		l.assign(id)
	}
	for id := range p.machines {
		l.Presence.wake(id)
	}
	if len(p.events) > 0 {
		l.Events.Notify()
	}
}

// assign finds the rollout that holds a machine and shows it what that has
// decided.
func (l *Loop) assign(id fleet.MachineID) {
	c, found := l.claimant(id)
	if !found {
		l.Presence.clear(id)
		return
	}
	l.Presence.set(id, c)
}

// claimant finds a machine's assignment in the rollout that holds it.
func (l *Loop) claimant(id fleet.MachineID) (c CurrentAssignment, found bool) {
	for _, s := range l.active {
		a, ok := s.Assignments[id]
		// A machine that was taken over is in two, one of which it has left.
		if ok && a.Reason != fleet.ReasonSuperseded && (!found || !a.State.Final()) {
			c, found = CurrentAssignment{a, s.Rollout}, true
		}
	}
	return c, found
}

// Desired is what a machine should run; nil for hold.
func (l *Loop) Desired(id fleet.MachineID) *fleet.Desired {
	return desired(l.Presence.Assignment(id), l.Inventory.resting(id))
}

// desired derives what a machine should run; it is never stored.
func desired(claim CurrentAssignment, rest *fleet.Desired) *fleet.Desired {
	var c, h *fleet.Assignment
	if claim.assignment.Rollout != "" {
		c = &claim.assignment
	}
	if rest != nil {
		h = &fleet.Assignment{Digest: rest.Digest, StorePath: rest.StorePath, Rollout: rest.Rollout}
	}
	return rollout.Desired(c, h)
}

// loadActive reads the rollouts at work and shows machines what they decided.
func (l *Loop) loadActive(ctx context.Context) error {
	active := map[fleet.RolloutID]*rollout.State{}
	err := l.Store.Read(ctx, func(r store.Reader) error {
		rollouts, err := r.ActiveRollouts(ctx)
		if err != nil {
			return err
		}
		for _, v := range rollouts {
			s, err := ReadState(ctx, r, v)
			if err != nil {
				return err
			}
			active[v.ID] = s
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.active = active
	for _, s := range active {
		for id := range s.Assignments {
			l.assign(id)
		}
	}
	return nil
}

// ReadState reads the rest of a rollout.
func ReadState(ctx context.Context, r store.Reader, v fleet.Rollout) (*rollout.State, error) {
	batches, err := r.Batches(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	assignments, err := r.AllAssignments(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	s := &rollout.State{Rollout: v, Batches: batches, Assignments: make(map[fleet.MachineID]fleet.Assignment, len(assignments))}
	for _, a := range assignments {
		s.Assignments[a.Machine] = a
	}
	return s, nil
}

// State returns a rollout's state, from memory if it is at work.
func (p *Pass) State(ctx context.Context, id fleet.RolloutID) (*rollout.State, error) {
	if s, ok := p.loop.active[id]; ok {
		return s, nil
	}
	v, err := p.Tx.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	return ReadState(ctx, p.Tx.Reader, v)
}

// Active returns the rollouts at work, by id.
func (p *Pass) Active() []*rollout.State {
	var states []*rollout.State
	for _, id := range slices.Sorted(maps.Keys(p.loop.active)) {
		states = append(states, p.loop.active[id])
	}
	return states
}

// AtWork reports whether a rollout still moves machines.
func (p *Pass) AtWork(id fleet.RolloutID) bool {
	_, ok := p.loop.active[id]
	return ok
}

// holding returns the rollouts at work that a machine has a part in, by id.
func (p *Pass) holding(id fleet.MachineID) []*rollout.State {
	return slices.DeleteFunc(p.Active(), func(s *rollout.State) bool {
		_, ok := s.Assignments[id]
		return !ok
	})
}

// Machine returns a machine as this pass has it.
func (p *Pass) Machine(id fleet.MachineID) (fleet.Machine, bool) {
	if m, ok := p.machines[id]; ok {
		return m, true
	}
	return p.loop.Inventory.Machine(id)
}

// World is what the engine may know of the fleet.
func (l *Loop) World(now rollout.Moment) rollout.World {
	w, rules := l.world(now, l.freeze.Load(), l.Inventory.Machine), *l.budgets.Load()
	w.Budgets = l.budgetsOf(rules, sync.OnceValue(func() *budgetUse { return l.useOf(rules, now.Run, nil, nil) }))
	return w
}

func (l *Loop) world(now rollout.Moment, f *fleet.Freeze, machine func(fleet.MachineID) (fleet.Machine, bool)) rollout.World {
	return rollout.World{Unfinished: l.unfinishedOf(machine), Run: now.Run, Since: l.started, Freeze: f, Machine: func(id fleet.MachineID) (rollout.Facts, bool) {
		m, ok := machine(id)
		if !ok {
			return rollout.Facts{}, false
		}
		online, seen := l.Inventory.Online(id, now.Run)
		return rollout.Facts{
			Lifecycle: m.Lifecycle, LastContact: m.LastContact, Online: online, SeenRun: seen,
			Running: m.Running, RunsRelease: m.RunsRelease,
		}, true
	}}
}

func (p *Pass) world() rollout.World {
	w := p.loop.world(p.Moment(), p.freeze, p.Machine)
	w.Budgets = p.loop.budgetsOf(p.budgets, p.useNow)
	return w
}

// Moment is when the pass began.
func (p *Pass) Moment() rollout.Moment { return rollout.Moment{Wall: p.Now, Run: p.Run} }

// Step lets the engine decide about an event, and writes the result: what is
// read in Tx afterwards has it.
func (p *Pass) Step(ctx context.Context, s *rollout.State, ev rollout.Event) error {
	p.step(s, ev)
	return p.write(ctx)
}

// step lets the engine decide about an event. The result is written by write.
func (p *Pass) step(s *rollout.State, ev rollout.Event) {
	res := rollout.Step(*s, ev, p.world(), p.Now)
	before, c := s.Rollout, p.changesOf(s)
	if res.Rollout != nil {
		r := *res.Rollout
		r.Version = before.Version + 1
		res.Rollout, c.row = &r, true
	}
	for _, a := range res.Assignments {
		c.assignments[a.Machine] = true
		if a.State == fleet.AssignHealthy || s.Assignments[a.Machine].State == fleet.AssignHealthy {
			p.rested[a.Machine] = true
		}
	}
	for _, b := range res.Batches {
		c.batches[b.Index] = true
	}
	if ev.Report != nil {
		p.auditOutcome(*ev.Report, s.Assignments[ev.Report.Machine], res)
	}
	p.dirty = true
	p.noteWork(s, res)
	s.Apply(res)
	p.keep(c, res, before)
}

// takeRests reads where machines rest anew: the release that one runs may have
// changed, and with it the tags of its signed entry.
func (p *Pass) takeRests(ctx context.Context, ids []fleet.MachineID) error {
	rests, err := p.Tx.Rests(ctx, ids...)
	if err != nil {
		return err
	}
	for _, id := range ids {
		p.rests[id] = rests[id].Desired
		m, ok := p.Machine(id)
		if tags := fleet.NewTags(rests[id].Tags, m.Tags.Operator); ok && !slices.Equal(tags.Signed, m.Tags.Signed) {
			m.Tags = tags
			p.Changed(m)
		}
	}
	return nil
}

// Desired is what a machine should run, as this pass has it; nil for hold.
func (p *Pass) Desired(id fleet.MachineID) *fleet.Desired {
	rest, ok := p.rests[id]
	if !ok {
		rest = p.loop.Inventory.resting(id)
	}
	c, _ := p.loop.claimant(id)
	return desired(c, rest)
}

// keep takes in the rest of a result that is in the state already.
func (p *Pass) keep(c *changes, res rollout.Result, before fleet.Rollout) {
	s := c.state
	p.noteBehind(s, res, before)
	p.audit = append(p.audit, res.Audit...)
	if len(res.Probes) > 0 {
		p.AfterCommit(func() { p.loop.probes.start(res.Probes) })
	}
	c.endClaims = append(c.endClaims, res.EndClaims...)
	p.announce(c, res, before)
	if s.Rollout.State.Final() && !unfinished(s) {
		delete(p.loop.active, s.Rollout.ID)
		maps.DeleteFunc(p.loop.told, func(o told, _ bool) bool { return o.rollout == s.Rollout.ID })
	} else {
		p.loop.active[s.Rollout.ID] = s
	}
}

// unfinished reports whether a machine has not ended: a rollout that has stays
// in memory until its last machine has finished its switch.
func unfinished(s *rollout.State) bool {
	for _, b := range s.Batches {
		if b.Counts.Pending+b.Counts.InFlight+b.Counts.RollingBack > 0 {
			return true
		}
	}
	return false
}

// tickDue looks at the rollouts whose time has come, in order of their ids, and at
// those that may have waited for a machine that is no longer at work.
func (p *Pass) tickDue() {
	for _, s := range p.Active() {
		if w := s.Rollout.WakeAt; w == 0 || w > p.Run {
			continue
		}
		p.step(s, rollout.Event{})
	}
	if !p.freed {
		return
	}
	p.freed = false
	for _, s := range p.Active() {
		if heldBack(s) {
			p.step(s, rollout.Event{})
		}
	}
}

// Register makes a machine known.
func (p *Pass) Register(ctx context.Context, m fleet.Machine, actor string, detail map[string]string) error {
	if err := p.Tx.AddMachine(ctx, m); err != nil {
		return err
	}
	p.Changed(m)
	return p.Audit(ctx, actor, fleet.ActionMachineRegister, "machine:"+string(m.ID), detail)
}

// Changed takes in a machine's new row, which is written already.
func (p *Pass) Changed(m fleet.Machine) {
	p.machines[m.ID] = m
	m = p.loop.Inventory.Shown(m, p.Run)
	p.events = append(p.events, api.Event{At: p.Now, Machine: &m})
}

// Removed takes in that a machine has no row any more.
func (p *Pass) Removed(id fleet.MachineID) {
	p.removed = append(p.removed, id)
	p.events = append(p.events, api.Event{At: p.Now, Removed: id})
}

// RolloutsOf returns the rollouts at work that a machine has a part in, by id.
func (p *Pass) RolloutsOf(id fleet.MachineID) []fleet.RolloutID {
	var ids []fleet.RolloutID
	for _, s := range p.holding(id) {
		ids = append(ids, s.Rollout.ID)
	}
	return ids
}

// LifecycleChanged lets the rollouts that hold a machine know (H10).
func (p *Pass) LifecycleChanged(ctx context.Context, id fleet.MachineID) error {
	if m, known := p.Machine(id); !known || m.Lifecycle == fleet.Decommissioned {
		p.caughtUp(id)
	}
	p.changed(id)
	p.tickDue()
	return p.write(ctx)
}

func (p *Pass) changed(id fleet.MachineID) {
	for _, s := range p.holding(id) {
		p.step(s, rollout.Event{Changed: id})
	}
}

// Audit adds to the audit trail, in the order of the pass. It is written with
// what else the pass decides.
func (p *Pass) Audit(_ context.Context, actor, action, subject string, detail map[string]string) error {
	p.note(actor, action, subject, detail)
	return nil
}

func (p *Pass) note(actor, action, subject string, detail map[string]string) {
	p.audit = append(p.audit, fleet.AuditEvent{At: p.Now, Actor: actor, Action: action, Subject: subject, Detail: detail})
}

// AfterCommit has f called once the pass is committed, before machines are
// woken.
func (p *Pass) AfterCommit(f func()) { p.after = append(p.after, f) }
