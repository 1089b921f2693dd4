// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// reaches reports whether a machine is known and one that the caller's key is
// for. A key without tags is also for machines that are not known.
func (p *Plane) reaches(c access.Caller, id fleet.MachineID) bool {
	if !c.Limited() {
		return true
	}
	m, ok := p.loop.Inventory.Machine(id)
	return ok && c.Reaches(m)
}

// maySee returns a machine that the caller's key is for.
func (p *Plane) maySee(c access.Caller, id fleet.MachineID) (fleet.Machine, error) {
	m, ok := p.loop.Inventory.Machine(id)
	if !ok {
		return m, loop.NoMachine(id)
	}
	return m, c.MayTouch(m)
}

// reachedIn returns a machine of a rollout that the caller's key is for; ""
// if it has none. A limited key sees the rollouts that have one.
func (p *Plane) reachedIn(ctx context.Context, r store.Reader, c access.Caller, id fleet.RolloutID) (fleet.MachineID, error) {
	machines, err := r.RolloutMachines(ctx, id)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(machines, func(m fleet.MachineID) bool { return p.reaches(c, m) }); i >= 0 {
		return machines[i], nil
	}
	return "", nil
}

// maySeeRollout checks that a rollout has a machine that the caller's key is
// for. The error's code is Forbidden.
func (p *Plane) maySeeRollout(ctx context.Context, r store.Reader, c access.Caller, id fleet.RolloutID) error {
	if !c.Limited() {
		return nil
	}
	found, err := p.reachedIn(ctx, r, c, id)
	if err == nil && found == "" {
		err = fleet.Errorf(fleet.Forbidden, "rollout %s has no machine with one of the tags %v that your key is for", id, c.Tags)
	}
	return err
}

// mayTouchEach checks machines that are known against the caller's key; one
// that is not known is out of a limited key's reach.
func mayTouchEach(c access.Caller, machine func(fleet.MachineID) (fleet.Machine, bool), ids []fleet.MachineID) error {
	if !c.Limited() {
		return nil
	}
	for _, id := range ids {
		m, ok := machine(id)
		if !ok {
			m.ID = id
		}
		if err := c.MayTouch(m); err != nil {
			return err
		}
	}
	return nil
}

// reachedEntries are the entries of the machines that the caller's key is for.
func (p *Plane) reachedEntries(c access.Caller, raw [][]byte) ([][]byte, error) {
	if !c.Limited() {
		return raw, nil
	}
	out := [][]byte{}
	for _, b := range raw {
		var e struct{ ID fleet.MachineID }
		if err := json.Unmarshal(b, &e); err != nil {
			return nil, fmt.Errorf("read entry: %w", err)
		}
		if p.reaches(c, e.ID) {
			out = append(out, b)
		}
	}
	return out, nil
}

// Events returns the events of history.Log.Events that are about machines that
// the caller's key is for, and about rollouts that have one.
func (p *Plane) Events(ctx context.Context, c access.Caller, after int64, f fleet.EventFilter, idle time.Duration) iter.Seq2[api.Event, error] {
	all := p.History.Events(ctx, after, f, idle)
	if !c.Limited() {
		return all
	}
	return func(yield func(api.Event, error) bool) {
		seen := map[fleet.RolloutID]fleet.MachineID{}
		last := p.now()
		for e, err := range all {
			if err == nil && e.ID != 0 {
				var ok bool
				if ok, err = p.maySeeEvent(ctx, c, e, seen); err == nil && !ok {
					// The reader must hear that the stream stands.
					if idle == 0 || p.now()-last < idle.Milliseconds() {
						continue
					}
					e = api.Event{}
				}
			}
			last = p.now()
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// maySeeEvent reports whether an event is about what the caller's key is for.
// Seen has, for the rollouts of the stream, a machine by which the caller sees
// them, or "": a rollout's machines never change.
func (p *Plane) maySeeEvent(ctx context.Context, c access.Caller, e api.Event, seen map[fleet.RolloutID]fleet.MachineID) (bool, error) {
	var id fleet.RolloutID
	switch {
	case e.Machine != nil:
		return p.reaches(c, e.Machine.ID), nil
	case e.Report != nil:
		return p.reaches(c, e.Report.Machine), nil
	case e.Assignment != nil:
		return p.reaches(c, e.Assignment.Machine), nil
	case e.Rollout != nil:
		id = e.Rollout.ID
	case e.Batch != nil:
		id = e.Batch.Rollout
	default:
		return false, nil
	}
	by, known := seen[id]
	if !known || by != "" && !p.reaches(c, by) {
		var err error
		if by, err = p.reachedIn(ctx, p.loop.Store.Reader, c, id); err != nil {
			return false, err
		}
		seen[id] = by
	}
	return by != "", nil
}
