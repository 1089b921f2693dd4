// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// catchUpEvery is how often machines that have to catch up are looked at: those
	// that are online again within that time share a rollout.
	catchUpEvery = 30 * time.Second
	// A machine that was skipped in a rollout in which it was to catch up, or fell
	// silent in it, waits for catchUpAgain, and each time for twice as long, at most
	// catchUpAgainMost. One that fell silent catchUpSilent times waits for an operator:
	// it may be the release that cuts it off.
	catchUpAgain     = 2 * time.Minute
	catchUpAgainMost = 12 * time.Hour
	catchUpSilent    = 3
)

// CatchUpPlan is what is to be done for machines that have to catch up.
type CatchUpPlan struct {
	Begin   []rollout.State   // rollouts
	NotOwed []fleet.MachineID // machines that have nothing to catch up with
}

// Behind are the machines that have to catch up.
type Behind struct {
	mu       sync.Mutex
	machines map[fleet.MachineID]store.CatchUp
}

// missed is what is owed to a machine that did not catch up in a rollout that was made
// for it, or fell silent in it.
func missed(c store.CatchUp, silent bool, run int64) store.CatchUp {
	c.Until = run + min(catchUpAgain<<min(c.Tries, 16), catchUpAgainMost).Milliseconds()
	if c.Tries++; silent {
		c.Silent++
	}
	return c
}

func newBehind(list []store.CatchUp) *Behind {
	b := &Behind{machines: make(map[fleet.MachineID]store.CatchUp, len(list))}
	for _, c := range list {
		b.machines[c.Machine] = c
	}
	return b
}

// Has reports whether a machine has to catch up.
func (b *Behind) Has(id fleet.MachineID) bool {
	_, ok := b.of(id)
	return ok
}

func (b *Behind) of(id fleet.MachineID) (store.CatchUp, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.machines[id]
	return c, ok
}

// IDs are the machines that have to catch up, sorted.
func (b *Behind) IDs() []fleet.MachineID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.machines))
}

func (b *Behind) all() []store.CatchUp {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.machines))
}

// change takes in what a pass wrote: nil for nothing to catch up with.
func (b *Behind) change(changes map[fleet.MachineID]*store.CatchUp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, c := range changes {
		if c != nil {
			b.machines[id] = *c
			continue
		}
		delete(b.machines, id)
	}
}

// OnCatchUp says how rollouts are planned in which machines catch up. The machines
// that plan gets can do so now, as far as they themselves are the cause. It must be
// called before Run.
func (l *Loop) OnCatchUp(plan func(ctx context.Context, r store.Reader, now rollout.Moment, list []store.CatchUp) (CatchUpPlan, error)) {
	l.planCatchUp = plan
}

// catchUp begins rollouts for the machines that can catch up now.
func (l *Loop) catchUp(ctx context.Context) error {
	list := slices.DeleteFunc(l.Behind.all(), func(c store.CatchUp) bool { return l.delay(c.Machine).Why != "" })
	if len(list) == 0 || l.planCatchUp == nil {
		return nil
	}
	slices.SortFunc(list, func(a, b store.CatchUp) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Machine, b.Machine))
	})
	var plan CatchUpPlan
	if err := l.Store.Read(ctx, func(r store.Reader) (err error) {
		plan, err = l.planCatchUp(ctx, r, l.Moment(), list)
		return err
	}); err != nil || len(plan.Begin)+len(plan.NotOwed) == 0 {
		return err
	}
	return l.pass(ctx, func(ctx context.Context, p *Pass) error {
		for _, id := range plan.NotOwed {
			p.behind[id] = nil
		}
		for i := range plan.Begin {
			if err := p.Begin(ctx, &plan.Begin[i]); err != nil && fleet.ErrorCode(err) != fleet.Conflict {
				return err
			}
		}
		return p.write(ctx)
	})
}

// delay says why a machine cannot catch up now, as far as the machine itself is the
// cause.
func (l *Loop) delay(id fleet.MachineID) rollout.Delay {
	now := l.Moment()
	m, known := l.Inventory.Machine(id)
	online, _ := l.Inventory.Online(id, now.Run)
	held := l.Presence.Assignment(id).assignment
	w, _ := l.Behind.of(id)
	switch {
	case !known:
		return rollout.Delay{Why: "it was deleted"}
	case m.Lifecycle != fleet.Active:
		return rollout.Delay{Why: "its lifecycle is " + string(m.Lifecycle)}
	case held.Rollout != "":
		return rollout.Delay{Why: "rollout " + string(held.Rollout) + " is at work on it"}
	case w.Silent >= catchUpSilent:
		return rollout.Delay{Why: fmt.Sprintf("it fell silent %d times after it was offered a release; a rollout that an operator creates tries again", w.Silent), Stuck: true}
	case !online:
		return rollout.Delay{Why: "it is offline"}
	case now.Run < w.Until:
		return rollout.Delay{Why: "it did not catch up when it was tried last; it is tried again at about " + time.UnixMilli(now.Expect(w.Until)).UTC().Format(time.RFC3339)}
	}
	return rollout.Delay{}
}

// Delay says why a machine has not caught up yet; other is the cause if it is not the
// machine. False if it has nothing to catch up with.
func (l *Loop) Delay(id fleet.MachineID, other rollout.Delay) (c store.CatchUp, d rollout.Delay, ok bool) {
	if c, ok = l.Behind.of(id); !ok {
		return c, d, false
	}
	if d = l.delay(id); d.Why == "" {
		d = other
	}
	return c, d, true
}

// noteBehind takes in what a step means for who has to catch up. A machine has had its
// chance when it comes to an end in any rollout, or an operator skips it; not when it
// is skipped because it is offline, or its lifecycle says so, nor when it fell silent
// in a rollout that was made for it.
func (p *Pass) noteBehind(s *rollout.State, res rollout.Result, before fleet.Rollout) {
	catchUp := s.Rollout.Spec.CatchUpOf != ""
	silent := func(a fleet.Assignment) bool {
		return catchUp && a.State == fleet.AssignFailed && a.Reason == fleet.ReasonHealthyDeadline && a.Outcome == ""
	}
	for _, a := range res.Assignments {
		ended := a.State.Final() && a.State != fleet.AssignSkipped && a.State != fleet.AssignSuperseded && !silent(a)
		if ended || a.State == fleet.AssignSkipped && a.Reason == fleet.ReasonSkipped {
			p.caughtUp(a.Machine)
		}
	}
	if !s.Rollout.State.Final() || before.State.Final() {
		return
	}
	for _, id := range rollout.Behind(*s) {
		if m, known := p.Machine(id); known && m.Lifecycle != fleet.Decommissioned {
			c, _ := p.owed(id) // how often it was tried stays
			c.Machine, c.Rollout, c.Line, c.At = id, s.Rollout.ID, "", p.Now
			p.behind[id] = &c
			p.released[s.Rollout.ID] = s.Rollout.Spec.Release
		}
	}
	if s.Rollout.Spec.LateJoiners {
		p.completed = append(p.completed, s)
	}
	for id, a := range s.Assignments {
		if c, ok := p.owed(id); ok && catchUp && (a.State == fleet.AssignSkipped || silent(a)) {
			c = missed(c, silent(a), p.Run)
			p.behind[id] = &c
		}
	}
}

// owed is what a machine has to catch up with, as this pass has it.
func (p *Pass) owed(id fleet.MachineID) (store.CatchUp, bool) {
	for _, in := range []map[fleet.MachineID]*store.CatchUp{p.behind, p.behindNow} {
		if c, noted := in[id]; noted {
			if c == nil {
				return store.CatchUp{}, false
			}
			return *c, true
		}
	}
	return p.loop.Behind.of(id)
}

// caughtUp notes that a machine has nothing to catch up with.
func (p *Pass) caughtUp(id fleet.MachineID) {
	if c, noted := p.behind[id]; noted && c != nil || p.loop.Behind.Has(id) {
		p.behind[id] = nil
	}
}

// noteLateJoiners notes who has to catch up because it is not in the plan of a rollout
// that has completed: machines that it selects, as far as its release has a system for
// them.
func (p *Pass) noteLateJoiners(ctx context.Context) error {
	list := p.completed
	p.completed = nil
	for _, s := range list {
		release, err := p.Tx.Release(ctx, s.Rollout.Spec.Release)
		if err != nil {
			return err
		}
		err = p.Tx.EachReleaseEntry(ctx, release.Digest, func(body []byte) {
			var e fleet.Entry
			if json.Unmarshal(body, &e) != nil {
				return // it was read when it was registered
			}
			if m, known := p.Machine(e.ID); known && rollout.JoinsLate(*s, m, e) {
				c, _ := p.owed(e.ID)
				c.Machine, c.Rollout, c.Line, c.At = e.ID, s.Rollout.ID, release.Header.Line, p.Now
				p.behind[e.ID] = &c
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeBehind writes who has to catch up, and who has not any more.
func (p *Pass) writeBehind(ctx context.Context) error {
	if err := p.noteLateJoiners(ctx); err != nil {
		return err
	}
	var (
		list  []store.CatchUp
		not   []fleet.MachineID
		lines = map[fleet.RolloutID]fleet.Line{}
	)
	for _, id := range slices.Sorted(maps.Keys(p.behind)) {
		c := p.behind[id]
		if p.behindNow[id] = c; c == nil {
			not = append(not, id)
			continue
		}
		if _, ok := lines[c.Rollout]; !ok && c.Line == "" {
			r, err := p.Tx.Release(ctx, p.released[c.Rollout])
			if err != nil {
				return err
			}
			lines[c.Rollout] = r.Header.Line
		}
		c.Line = cmp.Or(c.Line, lines[c.Rollout])
		list = append(list, *c)
	}
	clear(p.behind)
	if err := p.Tx.DeleteCatchUps(ctx, not); err != nil {
		return err
	}
	return p.Tx.PutCatchUps(ctx, list)
}
