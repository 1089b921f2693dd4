// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// CreateRollout plans a rollout and, unless it is a dry run, starts it. A dry
// run gives the same answer and writes nothing (O01). The error's code is
// Conflict, and names the other rollout, if a machine is in one.
func (p *Plane) CreateRollout(ctx context.Context, c access.Caller, in api.RolloutRequest) (api.RolloutDetail, error) {
	if in.Spec.CatchUpOf != "" {
		return api.RolloutDetail{}, fleet.Errorf(fleet.Invalid, "rollout: catchUpOf is set by the control plane only").WithHint("leave it out")
	}
	release, err := p.releases.release(ctx, in.Spec.Release)
	if err != nil {
		return api.RolloutDetail{}, err
	}
	if in.DryRun {
		return p.dryRun(ctx, c, in.Spec, release)
	}
	var out api.RolloutDetail
	err = p.act(ctx, &out, func(ctx context.Context, pass *loop.Pass) (err error) {
		s, plan, err := p.plan(ctx, c, in.Spec, release)
		if err != nil {
			return err
		}
		if err := pass.Begin(ctx, &s); err != nil {
			return err
		}
		now := pass.Moment()
		out = api.RolloutDetail{Rollout: now.Rollout(s.Rollout), Batches: now.Batches(s.Batches), Plan: &plan}
		return nil
	})
	return out, err
}

// dryRun returns what a creation would do, without an ID.
func (p *Plane) dryRun(ctx context.Context, c access.Caller, spec fleet.RolloutSpec, release *trust.Release) (api.RolloutDetail, error) {
	s, plan, err := p.plan(ctx, c, spec, release)
	if err != nil {
		return api.RolloutDetail{}, err
	}
	claims, err := p.loop.Store.Claims(ctx)
	if err != nil {
		return api.RolloutDetail{}, err
	}
	if err := loop.CheckClaims(s, claims); err != nil {
		return api.RolloutDetail{}, err
	}
	plan.Gates = p.askNow(ctx, s)
	s.Rollout.ID = ""
	for i := range s.Batches {
		s.Batches[i].Rollout = ""
	}
	now := p.loop.Moment()
	return api.RolloutDetail{Rollout: now.Rollout(s.Rollout), Batches: now.Batches(s.Batches), Plan: &plan}, nil
}

// act carries out what a call asks for in an engine pass, once: do sets out, the
// call's answer.
func (p *Plane) act(ctx context.Context, out any, do func(ctx context.Context, pass *loop.Pass) error) error {
	return p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		return once.Do(ctx, pass.Tx, out, func() error { return do(ctx, pass) })
	})
}

// Answered decodes into out what the call of ctx was answered before, if it was.
func (p *Plane) Answered(ctx context.Context, out any) (bool, error) {
	return once.Answered(ctx, p.loop.Store.Reader, out)
}

// plan judges a request as it is now. The dry run and the creation use it.
func (p *Plane) plan(ctx context.Context, c access.Caller, spec fleet.RolloutSpec, release *trust.Release) (rollout.State, api.Plan, error) {
	at := p.loop.Moment()
	now := at.Wall
	if err := p.mayRollOut(release, now); err != nil {
		return rollout.State{}, api.Plan{}, err
	}
	if err := p.conf.Gates.Check(spec.Gates); err != nil {
		return rollout.State{}, api.Plan{}, err
	}
	machines, entries := p.loop.Inventory.Machines(), release.Entries
	if c.Limited() { // what is not the caller's is as if it were not there
		machines = slices.DeleteFunc(machines, func(m fleet.Machine) bool { return !c.Reaches(m) })
		entries = slices.DeleteFunc(slices.Clone(entries), func(e fleet.Entry) bool { return !p.reaches(c, e.ID) })
	}
	current, err := p.currentEntries(ctx, machines)
	if err != nil {
		return rollout.State{}, api.Plan{}, err
	}
	id, err := ulid.New(uint64(max(now, 0)), ulid.DefaultEntropy())
	if err != nil {
		return rollout.State{}, api.Plan{}, fmt.Errorf("name rollout: %w", err)
	}
	s, plan, err := rollout.Build(rollout.Input{
		ID: fleet.RolloutID(id.String()), Spec: spec, By: c.Actor(), Now: now, Run: at.Run,
		Entries: entries, Machines: machines, Current: current,
	})
	if err != nil {
		return s, plan, err
	}
	s.Rollout.Version = 1
	return s, plan, nil
}

// askNow asks the gates of a rollout about its first batch, as it is now.
func (p *Plane) askNow(ctx context.Context, s rollout.State) []fleet.GateStatus {
	if len(s.Rollout.Spec.Gates) == 0 {
		return nil
	}
	var first []fleet.MachineID
	for _, id := range slices.Sorted(maps.Keys(s.Assignments)) {
		if s.Assignments[id].Batch == 0 {
			first = append(first, id)
		}
	}
	out := make([]fleet.GateStatus, len(s.Rollout.Spec.Gates))
	var wg sync.WaitGroup
	for i, g := range s.Rollout.Spec.Gates {
		wg.Go(func() {
			r := p.conf.Gates.Ask(ctx, rollout.Probe{Rollout: "dry-run", Release: s.Rollout.Spec.Release, Gate: g, Asked: 1, Machines: first})
			out[i] = fleet.GateStatus{Name: g, Answer: r.Answer, Message: r.Message, Asked: 1, AnsweredAt: p.now()}
		})
	}
	wg.Wait()
	return out
}

// mayRollOut refuses what every agent would refuse.
func (p *Plane) mayRollOut(r *trust.Release, now int64) error {
	have := p.Documents.Current()
	switch {
	case p.Epoch.Mode() == epoch.Restored:
		return epoch.ErrRestored()
	case r.Header.Expires <= now:
		return fleet.Errorf(fleet.Refused, "release %s has expired", r.Digest.Short()).WithHint("make it anew: nixfleet release create --from %s", r.Digest.Short())
	case have.InForce != nil && trust.Revoked(*have.InForce, trust.Mark{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest}):
		return fleet.Errorf(fleet.Refused, "release %s is revoked", r.Digest.Short())
	}
	return nil
}

// currentEntries finds what machines run, in the releases that they say they
// run.
func (p *Plane) currentEntries(ctx context.Context, machines []fleet.Machine) (map[fleet.MachineID]fleet.Entry, error) {
	byRelease := map[fleet.Digest]map[fleet.MachineID]fleet.Entry{}
	current := make(map[fleet.MachineID]fleet.Entry, len(machines))
	for _, m := range machines {
		if m.RunsRelease == "" {
			continue
		}
		entries, ok := byRelease[m.RunsRelease]
		if !ok {
			entries = map[fleet.MachineID]fleet.Entry{}
			list, err := p.releases.entries(ctx, m.RunsRelease)
			if err != nil && fleet.ErrorCode(err) != fleet.NotFound {
				return nil, err
			}
			if err == nil {
				for _, e := range list {
					entries[e.ID] = e
				}
			}
			byRelease[m.RunsRelease] = entries
		}
		if e, ok := entries[m.ID]; ok && e.StorePath == m.Running {
			current[m.ID] = e
		}
	}
	return current, nil
}

// Rollouts returns rollouts, newest first, to a limited key its part of those
// that have one of its machines.
func (p *Plane) Rollouts(ctx context.Context, c access.Caller, f fleet.RolloutFilter, page fleet.PageRequest) (out api.Page[fleet.Rollout], err error) {
	defer func() {
		now := p.loop.Moment()
		for i, v := range out.Items {
			out.Items[i] = now.Rollout(v)
		}
	}()
	if !c.Limited() {
		return p.loop.Store.Rollouts(ctx, f, page)
	}
	err = p.loop.Store.Read(ctx, func(r store.Reader) error {
		parts := map[fleet.RolloutID]part{}
		out, err = paging.Keep(page, store.RolloutOf, func(v fleet.Rollout) (_ bool, err error) {
			seen, err := p.readPart(ctx, r, c, v.ID)
			if fleet.ErrorCode(err) == fleet.Forbidden {
				return false, nil
			}
			parts[v.ID] = seen
			return true, err
		}, func(page fleet.PageRequest) (api.Page[fleet.Rollout], error) { return r.Rollouts(ctx, f, page) })
		for i, v := range out.Items {
			out.Items[i] = parts[v.ID].rollout(v)
		}
		return err
	})
	return out, err
}

// Rollout returns a rollout with its batches, to a limited key its part.
func (p *Plane) Rollout(ctx context.Context, c access.Caller, id fleet.RolloutID) (api.RolloutDetail, error) {
	var d api.RolloutDetail
	err := p.loop.Store.Read(ctx, func(r store.Reader) (err error) {
		if c.Limited() {
			var s rollout.State
			s, err = p.readState(ctx, r, c, id)
			d.Rollout, d.Batches = s.Rollout, s.Batches
			return err
		}
		if d.Rollout, err = r.Rollout(ctx, id); err != nil {
			return err
		}
		d.Batches, err = r.Batches(ctx, id)
		return err
	})
	if err != nil {
		return api.RolloutDetail{}, err
	}
	now := p.loop.Moment()
	d.Rollout, d.Batches = now.Rollout(d.Rollout), now.Batches(d.Batches)
	return d, nil
}

// readState reads the caller's part of a rollout.
func (p *Plane) readState(ctx context.Context, r store.Reader, c access.Caller, id fleet.RolloutID) (rollout.State, error) {
	v, err := r.Rollout(ctx, id)
	if err != nil {
		return rollout.State{}, unseen(c, id, err)
	}
	seen, err := p.readPart(ctx, r, c, id)
	if err != nil {
		return rollout.State{}, err
	}
	s, err := loop.ReadState(ctx, r, v)
	if err != nil {
		return rollout.State{}, err
	}
	return seen.state(*s), nil
}

// Assignments returns a rollout's machines by id, to a limited key its own.
func (p *Plane) Assignments(ctx context.Context, c access.Caller, id fleet.RolloutID, f fleet.AssignmentFilter, page fleet.PageRequest) (out api.Page[fleet.Assignment], err error) {
	err = p.loop.Store.Read(ctx, func(r store.Reader) (err error) {
		if _, err = r.Rollout(ctx, id); err != nil {
			return unseen(c, id, err)
		}
		if _, err = p.readPart(ctx, r, c, id); err != nil {
			return err
		}
		read := func(page fleet.PageRequest) (api.Page[fleet.Assignment], error) {
			return r.Assignments(ctx, id, f, page)
		}
		if !c.Limited() {
			out, err = read(page)
			return err
		}
		out, err = paging.Keep(page, store.AssignmentOf, func(a fleet.Assignment) (bool, error) { return p.reaches(c, a.Machine), nil }, read)
		return err
	})
	now := p.loop.Moment()
	for i, a := range out.Items {
		out.Items[i] = now.Assignment(a)
	}
	return out, err
}

// RolloutVerb carries out an operator's verb. The error's code is Conflict for
// one that the rollout's state does not allow, Changed for another version than
// the caller saw.
func (p *Plane) RolloutVerb(ctx context.Context, c access.Caller, id fleet.RolloutID, verb api.Verb, in api.VerbRequest) (api.RolloutDetail, error) {
	if !verb.Valid() {
		return api.RolloutDetail{}, fleet.Errorf(fleet.Invalid, "%.40q is not a verb of rollouts", verb).
			WithHint("one of pause, resume, cancel, approve, retry, skip, revert")
	}
	var out api.RolloutDetail
	err := p.act(ctx, &out, func(ctx context.Context, pass *loop.Pass) error {
		s, err := pass.State(ctx, id)
		if err != nil {
			return unseen(c, id, err)
		}
		seen := partOf(c, pass.Machine, machinesIn(s))
		if c.Limited() && len(seen.own) == 0 {
			return noRollout(c, id)
		}
		if err := mayTouchAll(pass, c, s, in.Machines); err != nil {
			return err
		}
		if have := s.Rollout.Version; in.IfVersion != 0 && in.IfVersion != have {
			return changed("rollout "+string(id), have, in.IfVersion)
		}
		if p.Epoch.Mode() == epoch.Restored && verb != api.VerbCancel && verb != api.VerbPause {
			return epoch.ErrRestored()
		}
		v := rollout.Command{Verb: verb, Actor: c.Actor(), Machines: in.Machines, Reason: fleet.CleanText(in.Reason, 1000), Part: len(seen.others) > 0}
		if err := rollout.Check(*s, v); err != nil {
			return err
		}
		if err := pass.Step(ctx, s, rollout.Event{Command: &v}); err != nil {
			return err
		}
		after, now := seen.state(*s), pass.Moment()
		out = api.RolloutDetail{Rollout: now.Rollout(after.Rollout), Batches: now.Batches(after.Batches)}
		return nil
	})
	return out, err
}

// mayTouchAll checks a caller who is limited to tags against the machines that
// a verb is about.
func mayTouchAll(pass *loop.Pass, c access.Caller, s *rollout.State, named []fleet.MachineID) error {
	if len(named) > 0 {
		return mayTouchEach(c, pass.Machine, named)
	}
	if len(partOf(c, pass.Machine, machinesIn(s)).others) > 0 {
		return fleet.Errorf(fleet.Forbidden, "rollout %s has machines that your key is not for", s.Rollout.ID).
			WithHint("retry, skip and revert of your own machines are possible: give --on")
	}
	return nil
}

// Explain says why a rollout, its batches and its machines have not ended, and
// by when they must; and which machines have not caught up with one that completed.
func (p *Plane) Explain(ctx context.Context, c access.Caller, id fleet.RolloutID) ([]api.Waiting, error) {
	var s rollout.State
	err := p.loop.Store.Read(ctx, func(r store.Reader) (err error) {
		s, err = p.readState(ctx, r, c, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	now := p.loop.Moment()
	lines := rollout.Explain(s, p.loop.World(now), now.Wall)
	for _, id := range rollout.Behind(s) {
		if b := p.CatchUp.Behind(id); b != nil && b.Rollout == s.Rollout.ID {
			a := s.Assignments[id]
			lines = append(lines, api.Waiting{Machine: id, Batch: a.Batch, State: string(a.State), Why: "has to catch up: " + b.Why})
		}
	}
	return lines, nil
}

// DeleteRollout forgets a rollout that has ended. The error's code is Conflict
// for one from which a machine's desired release derives.
func (p *Plane) DeleteRollout(ctx context.Context, c access.Caller, id fleet.RolloutID) (fleet.Rollout, error) {
	var gone fleet.Rollout
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		r, err := pass.Tx.Rollout(ctx, id)
		if err != nil {
			return unseen(c, id, err)
		}
		machines, err := pass.Tx.RolloutMachines(ctx, id)
		if err != nil {
			return err
		}
		switch seen := partOf(c, pass.Machine, machines); {
		case c.Limited() && len(seen.own) == 0:
			return noRollout(c, id)
		case len(seen.others) > 0:
			return fleet.Errorf(fleet.Forbidden, "rollout %s has machines that your key is not for", id)
		}
		if pass.AtWork(id) || !r.State.Final() {
			return fleet.Errorf(fleet.Conflict, "rollout %s is %s", id, r.State).WithHint("cancel it first")
		}
		rest, err := pass.Tx.LastHealthyIn(ctx, id)
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			return fleet.Errorf(fleet.Conflict, "rollout %s says what these machines should run: %s", id, joinIDs(rest)).
				WithHint("a later rollout on them frees it")
		}
		gone = r
		if err := pass.Tx.DeleteRollout(ctx, id); err != nil {
			return err
		}
		return pass.Audit(ctx, c.Actor(), fleet.ActionRolloutDelete, "rollout:"+string(id), nil)
	})
	return gone, err
}

func joinIDs(ids []fleet.MachineID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = string(id)
	}
	return strings.Join(s, ", ")
}
