// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// changes are what a pass has decided about a rollout. A row that changes many
// times in a pass is written once, and announced once.
type changes struct {
	state *rollout.State
	from  int64 // version of the row in the store

	row         bool // is to be written
	batches     map[int]bool
	assignments map[fleet.MachineID]bool
	endClaims   []fleet.MachineID

	announceRow     bool
	announceBatches map[int]bool
	announced       map[fleet.MachineID]int // the places of assignments in Pass.events
}

// changesOf returns what this pass has decided about a rollout so far. It must be
// called before the decision is applied to s.
func (p *Pass) changesOf(s *rollout.State) *changes {
	c, ok := p.changes[s.Rollout.ID]
	if !ok {
		c = &changes{from: s.Rollout.Version, batches: map[int]bool{}, assignments: map[fleet.MachineID]bool{}, announceBatches: map[int]bool{}, announced: map[fleet.MachineID]int{}}
		p.changes[s.Rollout.ID] = c
	}
	c.state = s
	return c
}

// write writes what was decided so far.
func (p *Pass) write(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(p.changes)) {
		if err := p.changes[id].write(ctx, p); err != nil {
			return err
		}
	}
	if err := p.Tx.MarkApplied(ctx, p.applied...); err != nil {
		return err
	}
	p.applied = nil
	if err := p.takeRests(ctx, slices.Sorted(maps.Keys(p.rested))); err != nil {
		return err
	}
	clear(p.rested)
	if err := p.writeBehind(ctx); err != nil {
		return err
	}
	err := p.Tx.AddAudit(ctx, p.audit...)
	p.audit = nil
	return err
}

func (c *changes) write(ctx context.Context, p *Pass) error {
	r := c.state.Rollout
	if c.row {
		if err := p.Tx.UpdateRollout(ctx, r, c.from); err != nil {
			return err
		}
		c.row, c.from = false, r.Version
	}
	for _, i := range slices.Sorted(maps.Keys(c.batches)) {
		if err := p.Tx.PutBatch(ctx, c.state.Batches[i]); err != nil {
			return err
		}
	}
	assignments := make([]fleet.Assignment, 0, len(c.assignments))
	for _, id := range slices.Sorted(maps.Keys(c.assignments)) {
		assignments = append(assignments, c.state.Assignments[id])
	}
	if err := p.Tx.PutAssignments(ctx, assignments...); err != nil {
		return err
	}
	if err := p.Tx.Unclaim(ctx, r.ID, c.endClaims...); err != nil {
		return err
	}
	clear(c.batches)
	clear(c.assignments)
	c.endClaims = nil
	return nil
}

// announced are the events of a pass: of machines as they came, of assignments as
// they were last, then of batches and rollouts as they are at its end.
func (p *Pass) announced() []api.Event {
	events := slices.DeleteFunc(p.events, func(e api.Event) bool { return e == api.Event{} })
	for _, id := range slices.Sorted(maps.Keys(p.changes)) {
		c := p.changes[id]
		for _, i := range slices.Sorted(maps.Keys(c.announceBatches)) {
			b := p.Moment().Batch(c.state.Batches[i])
			events = append(events, api.Event{At: p.Now, Batch: &b})
		}
		if c.announceRow {
			r := p.Moment().Rollout(c.state.Rollout)
			events = append(events, api.Event{At: p.Now, Rollout: &r})
		}
	}
	return events
}

// announce notes what a decision about a rollout changes for others.
func (p *Pass) announce(c *changes, res rollout.Result, before fleet.Rollout) {
	r := c.state.Rollout
	c.announceRow = c.announceRow || res.Rollout != nil
	if r.State != before.State || r.Batch != before.Batch {
		// What a waiting machine may prefetch hangs on them.
		for id, a := range c.state.Assignments {
			if a.State == fleet.AssignPending {
				p.touched[id] = true
			}
		}
	}
	for _, b := range res.Batches {
		c.announceBatches[b.Index] = true
	}
	for _, a := range res.Assignments {
		p.touched[a.Machine] = true
		// That a batch has opened says that its machines are offered the release.
		if a.State == fleet.AssignOffered && a.Attempt == 1 && c.state.Batches[a.Batch].OpenedRun == p.Run {
			continue
		}
		if i, ok := c.announced[a.Machine]; ok {
			p.events[i] = api.Event{}
		}
		c.announced[a.Machine] = len(p.events)
		a = p.Moment().Assignment(a)
		p.events = append(p.events, api.Event{At: p.Now, Assignment: &a})
	}
	for _, ids := range [][]fleet.MachineID{res.Wake, res.EndClaims} {
		for _, id := range ids {
			p.touched[id] = true
		}
	}
}
