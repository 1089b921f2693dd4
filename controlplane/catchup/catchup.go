// SPDX-License-Identifier: AGPL-3.0-only

// Package catchup plans rollouts for machines without which a rollout has completed
// because they were offline: once they are online again, they catch up together.
//
// It never decides when a machine may go: windows, limits and claims hold for these
// rollouts as for any other.
package catchup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// lookedAt is how many of a line's newest releases are looked at for one to follow.
const lookedAt = 20

// Keeper plans the rollouts, and remembers why there is none.
type Keeper struct {
	loop      *loop.Loop
	documents *documents.Keeper
	epoch     *epoch.Keeper

	mu     sync.Mutex
	delays map[fleet.MachineID]rollout.Delay // of the machines that were looked at last
}

// New has the loop plan rollouts by it. It must be called before the loop runs.
func New(l *loop.Loop, d *documents.Keeper, e *epoch.Keeper) *Keeper {
	k := &Keeper{loop: l, documents: d, epoch: e}
	l.OnCatchUp(k.plan)
	return k
}

// Behind says what a machine has to catch up with, and why it has not yet; nil if it
// has nothing to catch up with.
func (k *Keeper) Behind(id fleet.MachineID) *fleet.Behind {
	c, d, ok := k.loop.Delay(id, k.delay(id))
	if !ok {
		return nil
	}
	return &fleet.Behind{Rollout: c.Rollout, Line: c.Line, Since: c.At, Why: cmp.Or(d.Why, "it is looked at within half a minute")}
}

func (k *Keeper) delay(id fleet.MachineID) rollout.Delay {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.delays[id]
}

// Stuck returns the machines that can catch up only after an operator did something,
// by the reason.
func (k *Keeper) Stuck() map[string][]fleet.MachineID {
	found := map[string][]fleet.MachineID{}
	for _, id := range k.loop.Behind.IDs() {
		if _, d, ok := k.loop.Delay(id, k.delay(id)); ok && d.Stuck {
			found[d.Why] = append(found[d.Why], id)
		}
	}
	return found
}

// planning is one look at the machines that can catch up now.
type planning struct {
	*Keeper
	store.Reader
	now    rollout.Moment
	plan   loop.CatchUpPlan
	delays map[fleet.MachineID]rollout.Delay
}

// plan plans one rollout for all machines of a line.
func (k *Keeper) plan(ctx context.Context, r store.Reader, now rollout.Moment, list []store.CatchUp) (loop.CatchUpPlan, error) {
	p := planning{Keeper: k, Reader: r, now: now, delays: map[fleet.MachineID]rollout.Delay{}}
	byLine := map[fleet.Line][]fleet.Machine{}
	for _, c := range list {
		m, known := k.loop.Inventory.Machine(c.Machine)
		if !known {
			continue
		}
		if m.Line == "" {
			m.Line = c.Line
		}
		byLine[m.Line] = append(byLine[m.Line], m)
	}
	for _, line := range slices.Sorted(maps.Keys(byLine)) {
		if err := p.line(ctx, line, byLine[line]); err != nil {
			return loop.CatchUpPlan{}, err
		}
	}
	k.mu.Lock()
	k.delays = p.delays
	k.mu.Unlock()
	return p.plan, nil
}

// line plans the rollout of a line's machines, or notes why there is none.
func (p *planning) line(ctx context.Context, line fleet.Line, machines []fleet.Machine) error {
	note := func(d rollout.Delay, machines ...fleet.Machine) {
		for _, m := range machines {
			p.delays[m.ID] = d
		}
	}
	if p.epoch.Mode() == epoch.Restored {
		note(rollout.Delay{Why: "the database was restored, and rollouts are paused"}, machines...)
		return nil
	}
	past, err := p.past(ctx, line)
	if err != nil {
		return err
	}
	follow, d := rollout.CatchUp(past, p.loop.World(p.now), p.now.Wall)
	if d.Why != "" {
		note(d, machines...)
		return nil
	}
	var (
		entries []fleet.Entry
		members []fleet.Machine
		ids     []fleet.MachineID
	)
	for i, m := range machines {
		if len(ids) == rollout.CatchUpMost {
			note(rollout.Delay{Why: "waits for the machines before it"}, machines[i:]...)
			break
		}
		e, newer, failed := p.entry(ctx, m, follow.Release)
		switch {
		case failed != nil:
			return failed
		case newer:
			p.plan.NotOwed = append(p.plan.NotOwed, m.ID)
		case e.ID == "":
			note(rollout.Delay{Why: fmt.Sprintf("release %s has no system for it", follow.Release.Digest.Short()), Stuck: true}, m)
		default:
			entries, members, ids = append(entries, e), append(members, m), append(ids, m.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	state, err := p.build(rollout.CatchUpSpec(follow.Rollout, ids), entries, members)
	if fleet.ErrorCode(err) == fleet.Invalid {
		note(rollout.Delay{Why: err.Error(), Stuck: true}, members...)
		return nil
	}
	if err == nil {
		p.plan.Begin = append(p.plan.Begin, state)
	}
	return err
}

// entry returns a machine's entry in a release, without an id if there is none; newer
// if the machine runs a newer release of the line already.
func (p *planning) entry(ctx context.Context, m fleet.Machine, release fleet.Release) (e fleet.Entry, newer bool, err error) {
	if m.RunsRelease != "" {
		runs, failed := p.Release(ctx, m.RunsRelease)
		if failed != nil && fleet.ErrorCode(failed) != fleet.NotFound {
			return e, false, failed
		}
		if failed == nil && runs.Header.Line == release.Header.Line && runs.Header.Sequence > release.Header.Sequence {
			return e, true, nil
		}
	}
	e, _, err = p.ReleaseEntry(ctx, release.Digest, m.ID)
	return e, false, err
}

func (p *planning) build(spec fleet.RolloutSpec, entries []fleet.Entry, machines []fleet.Machine) (rollout.State, error) {
	id, err := ulid.New(uint64(max(p.now.Wall, 0)), ulid.DefaultEntropy())
	if err != nil {
		return rollout.State{}, fmt.Errorf("name rollout: %w", err)
	}
	s, _, err := rollout.Build(rollout.Input{
		ID: fleet.RolloutID(id.String()), Spec: spec, By: rollout.EngineActor, Now: p.now.Wall, Run: p.now.Run,
		Entries: entries, Machines: machines,
	})
	s.Rollout.Version = 1
	return s, err
}

// past reads a line's rollouts, from the newest release to the oldest, until one that
// can be followed.
func (p *planning) past(ctx context.Context, line fleet.Line) ([]rollout.Past, error) {
	releases, err := p.Releases(ctx, fleet.ReleaseFilter{Line: line}, fleet.PageRequest{Limit: lookedAt})
	if err != nil {
		return nil, err
	}
	inForce := p.documents.Current().InForce
	var past []rollout.Past
	for _, r := range releases.Items {
		revoked := inForce != nil && trust.Revoked(*inForce, trust.Mark{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest})
		for page := (fleet.PageRequest{}); ; {
			rollouts, failed := p.Rollouts(ctx, fleet.RolloutFilter{Release: r.Digest}, page)
			if failed != nil {
				return nil, failed
			}
			for _, v := range rollouts.Items {
				one, unread := p.look(ctx, rollout.Past{Rollout: v, Release: r, Revoked: revoked})
				if unread != nil {
					return nil, unread
				}
				if past = append(past, one); v.State == fleet.RolloutCompleted && v.Spec.CatchUpOf == "" && !revoked && r.Header.Expires > p.now.Wall {
					return past, nil // nothing older counts
				}
			}
			if page.Cursor = rollouts.Next; page.Cursor == "" {
				break
			}
		}
	}
	return past, nil
}

// look finds out what became of the machines of a rollout that has not completed. A
// machine that fell silent has not failed by what the release did, as far as is known.
func (p *planning) look(ctx context.Context, one rollout.Past) (rollout.Past, error) {
	if one.Rollout.State == fleet.RolloutCompleted {
		return one, nil
	}
	batches, err := p.Batches(ctx, one.Rollout.ID)
	if err != nil {
		return one, err
	}
	if !slices.ContainsFunc(batches, func(b fleet.Batch) bool { return b.Counts.Failed+b.Counts.RollingBack > 0 }) {
		return one, nil
	}
	all, err := p.AllAssignments(ctx, one.Rollout.ID)
	for _, a := range all {
		switch a.State {
		case fleet.AssignReverted, fleet.AssignReverting, fleet.AssignRevertFailed:
			one.Reverted = true
		case fleet.AssignRefused, fleet.AssignRolledBack, fleet.AssignRollbackFailed:
			one.Failed = true
		case fleet.AssignFailed:
			one.Failed = one.Failed || a.Outcome != ""
		default:
		}
	}
	return one, err
}
