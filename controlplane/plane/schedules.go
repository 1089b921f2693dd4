// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// maxSchedules bounds how many schedules are kept.
const maxSchedules = 200

// timetable are the schedules as the store has them, each with its next beginning.
type timetable struct {
	mu   sync.Mutex
	list []fleet.Schedule
}

func (t *timetable) load(ctx context.Context, s *store.Store) error {
	list, err := s.Schedules(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		list[i].NextAt = list[i].Next()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
	return nil
}

func (t *timetable) all() []fleet.Schedule {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}

// set puts a schedule into its place, or deletes the one of its name.
func (t *timetable) set(s fleet.Schedule, deleted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(slices.Clone(t.list), func(o fleet.Schedule) bool { return o.Name == s.Name })
	if !deleted {
		s.NextAt = s.Next()
		t.list = append(t.list, s)
	}
	slices.SortFunc(t.list, func(a, b fleet.Schedule) int { return cmp.Compare(a.Name, b.Name) })
}

// next is when a schedule is to be looked at, in Unix milliseconds; 0 for never.
func (t *timetable) next(now int64) (at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.list {
		next := s.NextAt
		if s.Ahead(now) {
			next = now
		}
		if next != 0 && (at == 0 || next < at) {
			at = next
		}
	}
	return at
}

// Schedules returns the schedules by name.
func (p *Plane) Schedules() []fleet.Schedule { return p.timetable.all() }

func (p *Plane) schedule(name string) (fleet.Schedule, bool) {
	all := p.timetable.all()
	i := slices.IndexFunc(all, func(s fleet.Schedule) bool { return s.Name == name })
	if i < 0 {
		return fleet.Schedule{}, false
	}
	return all[i], true
}

// PutSchedule saves a schedule. It begins nothing at once: its first beginning is
// the next one. The error's code is Invalid, NotFound if there is no such policy,
// and Conflict if there is another of its name that is not to be replaced. One that
// is there as it is asked for stays, and is returned.
func (p *Plane) PutSchedule(ctx context.Context, c access.Caller, name string, in api.ScheduleRequest) (fleet.Schedule, error) {
	s := fleet.Schedule{
		Name: name, Cron: in.Cron, Policy: in.Policy, Line: cmp.Or(in.Line, "main"), ToleranceMs: cmp.Or(in.ToleranceMs, fleet.DefaultTolerance),
		CreatedAt: p.now(), CreatedBy: c.Actor(), LastAt: p.now(),
	}
	if err := s.Validate(); err != nil {
		return s, err
	}
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		if _, err := pass.Tx.Policy(ctx, s.Policy); err != nil {
			return err
		}
		old, exists := p.schedule(name)
		switch {
		case exists && old.Cron == s.Cron && old.Policy == s.Policy && old.Line == s.Line && old.ToleranceMs == s.ToleranceMs:
			s = old
			return nil
		case exists && !in.Replace:
			return fleet.Errorf(fleet.Conflict, "there is a schedule %s already", name).WithHint("--replace puts this one in its place")
		case !exists && len(p.timetable.all()) >= maxSchedules:
			return fleet.Errorf(fleet.TooLarge, "there are %d schedules already", maxSchedules)
		}
		s.NextAt = s.Next()
		pass.AfterCommit(func() { p.timetable.set(s, false) })
		return errors.Join(pass.Tx.PutSchedule(ctx, s), pass.Audit(ctx, c.Actor(), fleet.ActionSchedulePut, "schedule:"+name, map[string]string{
			"cron": s.Cron, "policy": s.Policy, "line": string(s.Line),
		}))
	})
	return s, err
}

// DeleteSchedule forgets a schedule, and returns it. Rollouts that it began go on.
// The error's code is NotFound if there is none.
func (p *Plane) DeleteSchedule(ctx context.Context, c access.Caller, name string) (fleet.Schedule, error) {
	var s fleet.Schedule
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		var ok bool
		if s, ok = p.schedule(name); !ok {
			return fleet.Errorf(fleet.NotFound, "there is no schedule %.40q", name).WithHint("nixfleet schedule list shows those there are")
		}
		pass.AfterCommit(func() { p.timetable.set(s, true) })
		return errors.Join(pass.Tx.DeleteSchedule(ctx, name), pass.Audit(ctx, c.Actor(), fleet.ActionScheduleDelete, "schedule:"+name, nil))
	})
	return s, err
}

// keepTime carries out what schedules have due. That a beginning was dealt with is
// committed with its rollout, so that none is carried out twice.
func (p *Plane) keepTime(ctx context.Context, pass *loop.Pass) error {
	for _, s := range p.timetable.all() {
		if s.Ahead(pass.Now) {
			s.LastAt = pass.Now
		} else if at, late := s.Due(pass.Now); at == 0 {
			continue
		} else if err := p.carryOut(ctx, pass, &s, at, late); err != nil {
			return fmt.Errorf("schedule %s: %w", s.Name, err)
		}
		if err := pass.Tx.PutSchedule(ctx, s); err != nil {
			return err
		}
		pass.AfterCommit(func() { p.timetable.set(s, false) })
	}
	return nil
}

// carryOut begins a schedule's rollout, or notes why it does not. An error is one
// of the store.
func (p *Plane) carryOut(ctx context.Context, pass *loop.Pass, s *fleet.Schedule, at int64, late bool) error {
	before := s.LastWhy
	s.LastAt, s.LastWhy = at, ""
	date := time.UnixMilli(at).UTC().Format(time.RFC3339)
	if late {
		s.LastWhy = "the control plane was not running until more than " + (time.Duration(s.ToleranceMs) * time.Millisecond).String() + " later"
	} else if err := p.beginScheduled(ctx, pass, s); fleet.ErrorCode(err) == fleet.Internal {
		return err
	} else if err != nil {
		s.LastWhy = fleet.CleanLine(err.Error(), 300)
	}
	switch {
	case s.LastWhy == "":
		return pass.Audit(ctx, rollout.EngineActor, fleet.ActionScheduleRun, "schedule:"+s.Name, map[string]string{"at": date, "rollout": string(s.LastRollout)})
	case s.LastWhy != before: // once, not each night
		return pass.Audit(ctx, rollout.EngineActor, fleet.ActionScheduleSkip, "schedule:"+s.Name, map[string]string{"at": date, "why": s.LastWhy})
	}
	return nil
}

// beginScheduled begins a rollout of the newest release of a schedule's line, in
// the name of who made the schedule. A release that did not come through by this
// schedule is not tried again by it: that is for a person to decide.
func (p *Plane) beginScheduled(ctx context.Context, pass *loop.Pass, s *fleet.Schedule) error {
	policy, err := pass.Tx.Policy(ctx, s.Policy)
	if err != nil {
		return err
	}
	head, ok, err := pass.Tx.LineHead(ctx, s.Line)
	if err != nil {
		return err
	} else if !ok {
		return fleet.Errorf(fleet.NotFound, "line %s has had no release", s.Line)
	}
	last, err := pass.Tx.Rollout(ctx, s.LastRollout)
	switch {
	case fleet.ErrorCode(err) == fleet.NotFound:
	case err != nil:
		return err
	case last.Spec.Release == head.Digest && last.State.Final() && last.State != fleet.RolloutCompleted:
		return fleet.Errorf(fleet.Conflict, "rollout %s of the newest release %s is %s; a person has to roll it out", last.ID, head.Digest.Short(), last.State)
	}
	release, err := p.releases.release(ctx, head.Digest)
	if err != nil {
		return err
	}
	author := access.Caller{Owner: strings.TrimPrefix(s.CreatedBy, "key:"), Role: fleet.RoleDeploy}
	state, plan, err := p.plan(ctx, author, policy.For(head.Digest, s.Name), release)
	switch {
	case err != nil:
		return err
	case plan.Changes.Switch == 0:
		return fleet.Errorf(fleet.Conflict, "all of its machines run the newest release %s", head.Digest.Short())
	}
	claims, err := pass.Tx.Claims(ctx)
	if err != nil {
		return err
	}
	if err = loop.CheckClaims(state, claims); err != nil {
		return err
	}
	if err = pass.Begin(ctx, &state); err != nil {
		return fmt.Errorf("begin: %s", err) // whatever its code, the pass cannot go on
	}
	s.LastRollout = state.Rollout.ID
	return nil
}
