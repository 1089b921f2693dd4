// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// pass is one transaction of the loop: what it decides is written, and only
// after the commit seen by anyone.
type pass struct {
	p   *Plane
	tx  *store.Tx
	now int64

	// machines are rows that this pass wrote; the engine sees them already.
	machines map[fleet.MachineID]fleet.Machine
	events   []api.Event
	touched  map[fleet.MachineID]bool // whose orders may have changed
	dirty    bool                     // p.active no longer is what the store has, until the commit
	after    []func()                 // run after the commit
}

// inPass runs fn in a transaction. After an error the rollouts in memory are
// read anew, so that they are what the store has.
func (p *Plane) inPass(ctx context.Context, fn func(ctx context.Context, t *pass) error) error {
	if p.active == nil {
		if err := p.loadActive(ctx); err != nil {
			return err
		}
	}
	t := &pass{p: p, now: p.ms(), machines: map[fleet.MachineID]fleet.Machine{}, touched: map[fleet.MachineID]bool{}}
	err := p.st.Write(ctx, func(tx *store.Tx) error {
		t.tx = tx
		if err := fn(ctx, t); err != nil {
			return err
		}
		return tx.AddEvents(ctx, t.events)
	})
	if err != nil {
		if t.dirty {
			p.active = nil
		}
		return err
	}
	p.publish(t)
	return nil
}

// publish shows what was committed.
func (p *Plane) publish(t *pass) {
	for _, m := range t.machines {
		p.inventory.put(m)
	}
	for _, f := range t.after {
		f()
	}
	for id := range t.touched {
		p.post(id)
	}
	for id := range t.machines {
		p.presence.wakeOne(id)
	}
	if len(t.events) > 0 {
		p.events.notify()
	}
}

// post shows a machine what the rollout that holds it has decided.
func (p *Plane) post(id fleet.MachineID) {
	found := false
	var v currentAssignment
	for _, s := range p.active {
		a, ok := s.Assignments[id]
		// A machine that was taken over is in two; it has ended in one.
		if ok && (!found || !a.State.Final()) {
			v, found = currentAssignment{a, s.Rollout}, true
		}
	}
	if !found {
		p.presence.clear(id)
		return
	}
	p.presence.post(id, v)
}

// loadActive reads the rollouts at work and shows machines what they decided.
func (p *Plane) loadActive(ctx context.Context) error {
	active := map[fleet.RolloutID]*rollout.State{}
	err := p.st.Read(ctx, func(r store.Reader) error {
		rollouts, err := r.ActiveRollouts(ctx)
		if err != nil {
			return err
		}
		for _, v := range rollouts {
			s, err := readState(ctx, r, v)
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
	p.active = active
	for _, s := range active {
		for id := range s.Assignments {
			p.post(id)
		}
	}
	return nil
}

func readState(ctx context.Context, r store.Reader, v fleet.Rollout) (*rollout.State, error) {
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

// state returns a rollout's state, from memory if it is at work.
func (t *pass) state(ctx context.Context, id fleet.RolloutID) (*rollout.State, error) {
	if s, ok := t.p.active[id]; ok {
		return s, nil
	}
	v, err := t.tx.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	return readState(ctx, t.tx.Reader, v)
}

// machine returns a machine as this pass has it.
func (t *pass) machine(id fleet.MachineID) (fleet.Machine, bool) {
	if m, ok := t.machines[id]; ok {
		return m, true
	}
	return t.p.inventory.machine(id)
}

// world is what the engine may know.
func (t *pass) world() rollout.World {
	return rollout.World{Since: t.p.started, Machine: func(id fleet.MachineID) (rollout.Facts, bool) {
		m, ok := t.machine(id)
		if !ok {
			return rollout.Facts{}, false
		}
		return rollout.Facts{
			Lifecycle: m.Lifecycle, LastContact: m.LastContact, Online: t.p.online(m, t.now),
			Running: m.Running, RunsRelease: m.RunsRelease,
		}, true
	}}
}

// step lets the engine decide about an event and keeps the result.
func (t *pass) step(ctx context.Context, s *rollout.State, ev rollout.Event) error {
	res := rollout.Step(*s, ev, t.world(), t.now)
	before := s.Rollout
	if res.Rollout != nil {
		r := *res.Rollout
		r.Version = before.Version + 1
		res.Rollout = &r
		if err := t.tx.UpdateRollout(ctx, r, before.Version); err != nil {
			return err
		}
	}
	for _, a := range res.Assignments {
		if err := t.tx.PutAssignment(ctx, a); err != nil {
			return err
		}
	}
	t.dirty = true
	s.Apply(res)
	return t.took(ctx, s, res, before)
}

// took keeps the rest of a result that is in s already, and notes who has to
// hear of it.
func (t *pass) took(ctx context.Context, s *rollout.State, res rollout.Result, before fleet.Rollout) error {
	for _, b := range res.Batches {
		if err := t.tx.PutBatch(ctx, b); err != nil {
			return err
		}
	}
	for _, e := range res.Audit {
		if err := t.tx.AddAudit(ctx, e); err != nil {
			return err
		}
	}
	for _, id := range res.Release {
		if err := t.tx.Unclaim(ctx, s.Rollout.ID, id); err != nil {
			return err
		}
		t.touched[id] = true
	}
	t.announce(res, before, s)
	t.settle(s)
	return nil
}

// announce notes who has to hear of a result.
func (t *pass) announce(res rollout.Result, before fleet.Rollout, s *rollout.State) {
	r := s.Rollout
	if res.Rollout != nil {
		t.events = append(t.events, api.Event{At: t.now, Rollout: &r})
	}
	if r.State != before.State || r.Batch != before.Batch {
		// What a waiting machine may prefetch hangs on them.
		for id, a := range s.Assignments {
			if a.State == fleet.AssignPending {
				t.touched[id] = true
			}
		}
	}
	for _, b := range res.Batches {
		t.events = append(t.events, api.Event{At: t.now, Batch: &b})
	}
	for _, a := range res.Assignments {
		t.events = append(t.events, api.Event{At: t.now, Assignment: &a})
		t.touched[a.Machine] = true
	}
	for _, id := range res.Wake {
		t.touched[id] = true
	}
}

// settle keeps in memory what is still at work: a rollout that has ended stays
// until its last machine has finished its switch.
func (t *pass) settle(s *rollout.State) {
	if s.Rollout.State.Final() && !busy(s) {
		delete(t.p.active, s.Rollout.ID)
		return
	}
	t.p.active[s.Rollout.ID] = s
}

func busy(s *rollout.State) bool {
	for _, a := range s.Assignments {
		if !a.State.Final() {
			return true
		}
	}
	return false
}

// tickDue looks at the rollouts whose time has come, in order of their ids.
func (t *pass) tickDue(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(t.p.active)) {
		s := t.p.active[id]
		if w := s.Rollout.WakeAt; w == 0 || w > t.now {
			continue
		}
		if err := t.step(ctx, s, rollout.Event{}); err != nil {
			return err
		}
	}
	return nil
}

// apply gives a report its effect, once.
func (t *pass) apply(ctx context.Context, in store.Inbox) error {
	r := in.Report
	if err := t.tx.MarkApplied(ctx, in.Seq); err != nil {
		return err
	}
	t.events = append(t.events, api.Event{At: t.now, Report: &r})
	if err := t.auditReport(ctx, r); err != nil {
		return err
	}
	s, ok := t.p.active[r.Rollout]
	if !ok {
		return nil
	}
	return t.step(ctx, s, rollout.Event{ID: string(r.Machine) + "/" + r.ID, Report: &r})
}

func (t *pass) auditReport(ctx context.Context, r fleet.Report) error {
	var action string
	switch r.Kind {
	case fleet.ReportProgress:
		return nil
	case fleet.ReportOutcome:
		action = fleet.ActionReportOutcome
	case fleet.ReportRefusal:
		action = fleet.ActionReportRefusal
	case fleet.ReportDrift:
		action = fleet.ActionReportDrift
	}
	detail := map[string]string{"report": r.ID, "bootId": r.BootID}
	for k, v := range map[string]string{
		"outcome": string(r.Outcome), "reason": string(r.Reason), "message": r.Message, "rollout": string(r.Rollout),
		"digest": string(r.Digest), "running": string(r.Running),
	} {
		if v != "" {
			detail[k] = v
		}
	}
	if r.Attempt > 0 {
		detail["attempt"] = strconv.Itoa(r.Attempt)
	}
	return t.audit(ctx, "machine:"+string(r.Machine), action, "machine:"+string(r.Machine), detail)
}

func (t *pass) audit(ctx context.Context, actor, action, subject string, detail map[string]string) error {
	return t.tx.AddAudit(ctx, fleet.AuditEvent{At: t.now, Actor: actor, Action: action, Subject: subject, Detail: detail})
}
