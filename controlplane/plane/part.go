// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// part is what a caller may see of a rollout: all of it, or, of one that has
// other machines too, the caller's machines.
type part struct {
	own    []fleet.MachineID
	others map[fleet.MachineID]bool // none: the rollout is the caller's as a whole
}

func partOf(c access.Caller, machine func(fleet.MachineID) (fleet.Machine, bool), all []fleet.MachineID) part {
	v := part{others: map[fleet.MachineID]bool{}}
	for _, id := range all {
		if _, err := mayTouch(c, machine, id); err == nil || !c.Limited() {
			v.own = append(v.own, id)
		} else {
			v.others[id] = true
		}
	}
	return v
}

// readPart is partOf for a rollout in the store. The error is that of
// noRollout if the caller may see nothing of it.
func (p *Plane) readPart(ctx context.Context, r store.Reader, c access.Caller, id fleet.RolloutID) (part, error) {
	if !c.Limited() {
		return part{}, nil
	}
	all, err := r.RolloutMachines(ctx, id)
	if err != nil {
		return part{}, err
	}
	v := partOf(c, p.loop.Inventory.Machine, all)
	if len(v.own) == 0 {
		return v, noRollout(c, id)
	}
	return v, nil
}

// noRollout is what a limited key hears of a rollout without one of its machines,
// whether there is one or not.
func noRollout(c access.Caller, id fleet.RolloutID) error {
	return fleet.Errorf(fleet.Forbidden, "there is no rollout %s of a machine with one of the tags %v that your key is for", id, c.Tags)
}

// unseen turns the error of a rollout that is not there into what a limited key
// hears of any that it may not see.
func unseen(c access.Caller, id fleet.RolloutID, err error) error {
	if c.Limited() && fleet.ErrorCode(err) == fleet.NotFound {
		return noRollout(c, id)
	}
	return err
}

// rollout returns a rollout's row as the caller may see it.
func (v part) rollout(r fleet.Rollout) fleet.Rollout {
	if len(v.others) == 0 {
		return r
	}
	r.Spec.Select, r.Spec.Canaries = make([]string, len(v.own)), nil
	for i, id := range v.own {
		r.Spec.Select[i] = string(id)
	}
	slices.Sort(r.Spec.Select)
	r.Machines, r.Acknowledged, r.Why = len(v.own), min(r.Acknowledged, len(v.own)), v.text(r.Why)
	return r
}

// batch returns a batch's row as the caller may see it: counts are of the
// caller's machines.
func (v part) batch(b fleet.Batch, all map[fleet.MachineID]fleet.Assignment) fleet.Batch {
	if len(v.others) == 0 {
		return b
	}
	b.Size, b.Counts, b.Why, b.Gates = 0, fleet.Counts{}, v.text(b.Why), slices.Clone(b.Gates)
	for i := range b.Gates {
		b.Gates[i].Message = v.text(b.Gates[i].Message)
	}
	for _, id := range v.own {
		if a := all[id]; a.Batch == b.Index {
			b.Size++
			b.Counts.Add(a.State, 1)
		}
	}
	b.Acknowledged = min(b.Acknowledged, b.Counts.Failed)
	return b
}

// state returns a rollout as the caller may see it.
func (v part) state(s rollout.State) rollout.State {
	if len(v.others) == 0 {
		return s
	}
	out := rollout.State{Rollout: v.rollout(s.Rollout), Batches: slices.Clone(s.Batches), Assignments: map[fleet.MachineID]fleet.Assignment{}}
	for i, b := range out.Batches {
		out.Batches[i] = v.batch(b, s.Assignments)
	}
	for _, id := range v.own {
		out.Assignments[id] = s.Assignments[id]
	}
	return out
}

// text returns why a rollout or a batch is as it is, unless that names a machine
// that is not the caller's.
func (v part) text(why string) string {
	for _, word := range strings.FieldsFunc(strings.ToLower(why), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) {
		if v.others[fleet.MachineID(word)] {
			return "for a machine that your key is not for"
		}
	}
	return why
}

// Events returns the events of history.Log.Events that are about machines that
// the caller's key is for, and about rollouts that have one, with the caller's
// part of them.
func (p *Plane) Events(ctx context.Context, c access.Caller, after int64, f fleet.EventFilter, idle time.Duration) iter.Seq2[api.Event, error] {
	all := p.History.Events(ctx, after, f, idle)
	if !c.Limited() {
		return all
	}
	return func(yield func(api.Event, error) bool) {
		s := eventScope{plane: p, caller: c}
		last := p.now()
		for e, err := range all {
			if err == nil && e.ID != 0 {
				var ok bool
				if e, ok, err = s.event(ctx, e); err == nil && !ok {
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

// RolloutEvents returns a page of the events about a rollout that the log has, oldest
// first, with the caller's part of them. The error's code is NotFound, or Forbidden for
// a limited key that may see nothing of it.
func (p *Plane) RolloutEvents(ctx context.Context, c access.Caller, id fleet.RolloutID, page fleet.PageRequest) (out api.Page[api.Event], err error) {
	s := eventScope{plane: p, caller: c}
	key := func(e api.Event) int64 { return e.ID }
	err = p.loop.Store.Read(ctx, func(r store.Reader) (err error) {
		if _, err = r.Rollout(ctx, id); err != nil {
			return unseen(c, id, err)
		}
		if _, err = p.readPart(ctx, r, c, id); err != nil {
			return err
		}
		read := func(page fleet.PageRequest) (api.Page[api.Event], error) {
			after, bad := paging.After[int64](page)
			if bad != nil {
				return api.Page[api.Event]{}, bad
			}
			events, unread := r.Events(ctx, after, fleet.EventFilter{Rollout: id}, page.Size()+1)
			return paging.Cut(events, page, key), unread
		}
		if !c.Limited() {
			out, err = read(page)
			return err
		}
		out, err = paging.Keep(page, key, func(e api.Event) (bool, error) {
			_, ok, unread := s.event(ctx, e)
			return ok, unread
		}, read)
		for i := range out.Items {
			if out.Items[i], _, err = s.event(ctx, out.Items[i]); err != nil {
				return err
			}
		}
		return err
	})
	return out, err
}

// eventScope cuts events to what a limited key is for. It keeps the machines of
// the rollout that it saw last, which never change.
type eventScope struct {
	plane    *Plane
	caller   access.Caller
	rollout  fleet.RolloutID
	machines []fleet.MachineID
}

// event returns the caller's part of an event; false if it has none.
func (s *eventScope) event(ctx context.Context, e api.Event) (api.Event, bool, error) {
	switch {
	case e.Machine != nil:
		return e, s.plane.reaches(s.caller, e.Machine.ID), nil
	case e.Report != nil:
		return e, s.plane.reaches(s.caller, e.Report.Machine), nil
	case e.Assignment != nil:
		return e, s.plane.reaches(s.caller, e.Assignment.Machine), nil
	case e.Rollout != nil:
		v, err := s.part(ctx, e.Rollout.ID)
		r := v.rollout(*e.Rollout)
		e.Rollout = &r
		return e, len(v.own) > 0, err
	case e.Batch != nil:
		v, err := s.part(ctx, e.Batch.Rollout)
		if err != nil || len(v.own) == 0 {
			return e, false, err
		}
		b, err := s.batch(ctx, v, *e.Batch)
		e.Batch = &b
		return e, true, err
	}
	return e, false, nil
}

func (s *eventScope) part(ctx context.Context, id fleet.RolloutID) (part, error) {
	if s.rollout != id {
		all, err := s.plane.loop.Store.RolloutMachines(ctx, id)
		if err != nil {
			return part{}, err
		}
		s.rollout, s.machines = id, all
	}
	return partOf(s.caller, s.plane.loop.Inventory.Machine, s.machines), nil
}

// batch counts the caller's machines as they are now.
func (s *eventScope) batch(ctx context.Context, v part, b fleet.Batch) (fleet.Batch, error) {
	if len(v.others) == 0 {
		return b, nil
	}
	all, err := s.plane.loop.Store.AllAssignments(ctx, b.Rollout)
	if err != nil {
		return fleet.Batch{}, err
	}
	rows := make(map[fleet.MachineID]fleet.Assignment, len(all))
	for _, a := range all {
		rows[a.Machine] = a
	}
	return v.batch(b, rows), nil
}

// machinesIn returns the machines of a rollout's state, by id.
func machinesIn(s *rollout.State) []fleet.MachineID { return slices.Sorted(maps.Keys(s.Assignments)) }
