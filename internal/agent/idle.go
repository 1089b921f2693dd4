// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"path/filepath"
	"reflect"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/check"
)

// glance is how often an idle agent looks at its machine by itself.
const glance = 2 * time.Second

// Idle keeps the checks of the running system going and waits for something to
// act on.
func (w *world) Idle(ctx context.Context, j states.Journal) states.Input {
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := check.Runner{Checks: healthChecks(w.cfg), Begin: time.Now().Add(-time.Duration(w.Now().Boot * float64(time.Second)))}
		r.OnChange = w.SetChecks
		r.Run(watching)
	}()
	defer func() { stop(); <-ended }()

	tick := time.NewTicker(glance)
	defer tick.Stop()
	for ctx.Err() == nil {
		if in := w.wanted(ctx, j); in != nil && !reflect.DeepEqual(states.Next(j, in, w.Now()), j) {
			return in
		}
		select {
		case <-ctx.Done():
		case <-w.plane.Wake():
		case <-tick.C:
		}
	}
	return nil
}

// wanted is what an idle agent has to act on, or nil.
func (w *world) wanted(ctx context.Context, j states.Journal) states.Input {
	if !host.LockHeld() { // in the middle of another hand's switch nothing is to be seen
		seen := states.Observed{Generations: w.Generations()}
		if !reflect.DeepEqual(states.Next(j, seen, w.Now()), j) {
			return seen
		}
		// After a switch by hand the agent of that system takes over.
		if w.lastRunning != "" && w.lastRunning != seen.Running {
			w.replace(ctx, 30*time.Second)
		}
		w.lastRunning = seen.Running
	}
	if in := w.adopted(j); in != nil {
		return in
	}
	w.warnOfAge(j)
	v, given := w.plane.Orders()
	if !given {
		return nil
	}
	if in := w.learn(ctx, j, v.Documents); in != nil {
		return in
	}
	if in := w.start(j, v); in != nil {
		return in
	}
	return w.prefetch(ctx, j, v.Prefetch)
}

// warnOfAge warns when half and three quarters of the timestamp's life are
// over: once it is, no release is accepted.
func (w *world) warnOfAge(j states.Journal) {
	used := j.TimestampLife(w.Now().WallMs)
	step := 0
	for _, s := range []int{50, 75, 100} {
		if used >= s {
			step = s
		}
	}
	if step > w.warnedLife {
		w.log.Warn("the fleet's timestamp is getting old", "percent", used, "expires", time.UnixMilli(j.Trust.Timestamp.Expires).UTC())
	}
	w.warnedLife = step
}

// start returns the order to begin with, unless something holds it.
func (w *world) start(j states.Journal, v states.Orders) states.Input {
	o, ok := v.Pick(j)
	if !ok {
		w.repeat(j, v)
		if v.Apply == nil && v.Revert == nil && j.Waiting != "" {
			return states.Withdrawn{} // nothing to wait for
		}
		return nil
	}
	if why := held(filepath.Join(w.cfg.RunDir, "inhibit.d"), time.Now()); why != "" && o.Kind == states.Apply {
		return states.Busy{Why: why}
	}
	key, now := o.Key(), time.Now()
	if now.Before(w.notBefore[key]) {
		return nil
	}
	// Should the attempt be dropped before it has begun, it is tried again,
	// less and less often.
	d := min(max(2*w.delay[key], glance), time.Minute)
	w.notBefore, w.delay = map[string]time.Time{key: now.Add(wait.Spread(d))}, map[string]time.Duration{key: d}
	return states.Ordered{Order: o}
}

// repeat queues the outcome of an order that is given again although it was
// carried out: the control plane may have lost the report.
func (w *world) repeat(j states.Journal, v states.Orders) {
	o, ok := v.First()
	if !ok || !j.Did(o) || w.outbox.Len() > 0 || time.Now().Before(w.notBefore[o.Key()]) {
		return
	}
	all, err := w.history.List()
	if err != nil {
		w.log.Warn("the history cannot be read", "error", err)
		return
	}
	for i := len(all) - 1; i >= 0; i-- {
		if r := all[i]; r.Rollout == o.Rollout && r.Attempt == o.Attempt && r.Digest == o.Digest {
			w.notBefore = map[string]time.Time{o.Key(): time.Now().Add(time.Minute)}
			if err := w.outbox.Put(r); err != nil {
				w.log.Warn("a report cannot be queued", "error", err)
			}
			return
		}
	}
}
