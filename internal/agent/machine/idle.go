// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"path/filepath"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/check"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// idleInterval is how often an idle agent looks at its machine.
const idleInterval = 2 * time.Second

// idle is what an idle agent remembers. It is forgotten when the agent ends.
type idle struct {
	begun      tried // orders may be dropped before anything has changed
	repeated   tried
	prefetched fleet.Digest
	settle     time.Time                  // when an interrupted fetch may be judged again
	documents  map[fleet.Digest]time.Time // when each may be asked for again
	running    fleet.StorePath            // when it was last observed
	warned     int                        // percent of the timestamp's life that was warned of
}

// tried says when an order may be tried again: less and less often.
type tried struct {
	order string
	after time.Time
	waits *wait.Growing
}

// due reports whether the order may be tried now, and counts that as a try.
func (t *tried) due(o states.Order, first time.Duration, now time.Time) bool {
	if key := o.Key(); t.order != key {
		*t = tried{order: key, waits: wait.BackOff(first, time.Minute)}
	}
	if now.Before(t.after) {
		return false
	}
	t.after = now.Add(t.waits.NextBackOff())
	return true
}

// Idle runs the checks of the running system and waits for something to act on.
func (m *Machine) Idle(ctx context.Context, j states.Journal) states.Input {
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := check.Runner{Checks: healthChecks(m.Agent), Probe: m.Probe, Begin: time.Now().Add(-time.Duration(m.Now().Boot * float64(time.Second)))}
		r.OnChange = m.SetChecks
		r.Run(watching)
	}()
	defer func() { stop(); <-ended }()

	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if in := m.wanted(ctx, j); in != nil && m.changes(j, in) {
			return in
		}
		select {
		case <-ctx.Done():
		case <-m.Plane.Wake():
		case <-tick.C:
		}
	}
	return nil
}

func (m *Machine) changes(j states.Journal, in states.Input) bool {
	_, changed := states.Next(j, in, m.Now())
	return changed
}

// wanted is what an idle agent has to act on, or nil.
func (m *Machine) wanted(ctx context.Context, j states.Journal) states.Input {
	if !host.LockHeld() { // during a switch that someone else started, what runs is not certain
		seen := states.Observed{Generations: m.Generations()}
		if m.changes(j, seen) {
			return seen
		}
		// After a switch by hand the agent of that system takes over.
		if m.idle.running != "" && m.idle.running != seen.Running {
			m.replace(ctx, replaceLimit)
		}
		m.idle.running = seen.Running
	}
	if in := m.adopted(j); in != nil {
		return in
	}
	m.settleIdle(ctx, j)
	m.warnOfAge(j)
	v, given := m.Plane.Orders()
	if !given {
		return nil
	}
	if in := m.learn(ctx, j, v.Documents); in != nil {
		return in
	}
	if in := m.learnGrants(ctx, j, v.Grants); m.changes(j, in) {
		return in
	}
	if in := m.start(j, v); in != nil {
		return in
	}
	return m.prefetch(ctx, j, v.Prefetch)
}

// warnOfAge warns when half and three quarters of the timestamp's life are over.
// After its end no release is accepted.
func (m *Machine) warnOfAge(j states.Journal) {
	used := j.TimestampLife(m.Now().WallMs)
	step := trust.LifeStep(used)
	if step > m.idle.warned {
		m.log.Warn("the fleet's timestamp is getting old", "percent", used, "expires", time.UnixMilli(j.Trust.Timestamp.Expires).UTC())
	}
	m.idle.warned = step
}

// start returns the order to begin, unless something holds it.
func (m *Machine) start(j states.Journal, v states.Orders) states.Input {
	o, ok := v.Pick(j)
	if !ok {
		m.repeat(j, v)
		if v.Apply == nil && v.Revert == nil && j.Waiting != "" {
			return states.Withdrawn{} // nothing to wait for
		}
		return nil
	}
	if why := held(filepath.Join(m.Agent.RunDir, "inhibit.d"), time.Now()); why != "" && o.Kind == states.Apply {
		return states.Held{Why: why}
	}
	if !m.idle.begun.due(o, idleInterval, time.Now()) {
		return nil
	}
	return states.Ordered{Order: o}
}

// repeat queues the outcome of an order that was carried out and is given again:
// the control plane may have lost the report.
func (m *Machine) repeat(j states.Journal, v states.Orders) {
	o, ok := v.First()
	if !ok || !j.Did(o) || m.Outbox.Len() > 0 || !m.idle.repeated.due(o, time.Minute, time.Now()) {
		return
	}
	all, err := m.dir().History().List()
	if err != nil {
		m.log.Warn("the history cannot be read", "error", err)
		return
	}
	for i := len(all) - 1; i >= 0; i-- {
		if r := all[i]; r.Rollout == o.Rollout && r.Attempt == o.Attempt && r.Digest == o.Digest {
			if err := m.Outbox.Put(r); err != nil {
				m.log.Warn("a report cannot be queued", "error", err)
			}
			return
		}
	}
}
