// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// poll asks for orders until ctx ends: by long polls where the control plane
// holds them, with back-off and jitter where it does not answer (A09, A16).
func (w *world) poll(ctx context.Context) {
	every := time.Duration(w.cfg.ControlPlane.PollSeconds * float64(time.Second))
	long := time.Duration(w.cfg.ControlPlane.LongPollSeconds * float64(time.Second))
	if !wait.For(ctx, wait.Spread(min(every/10, 6*time.Second))) { // they all boot at the same time
		return
	}
	failures := 0
	for ctx.Err() == nil {
		before, _ := w.orders.get()
		begin := time.Now()
		orders, err := w.ask(ctx, long)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errMoved):
			continue
		case err != nil:
			failures++
			d := wait.BackOff(failures, every)
			if after, ok := api.RetryAfter(err); ok {
				d = after + wait.Spread(after/4+time.Millisecond)
			}
			if failures == 1 || failures%20 == 0 {
				w.log.Warn("the control plane does not answer", "error", err, "hint", fleet.ErrorHint(err), "failures", failures, "next", d.Round(time.Millisecond))
			}
			w.contact.fail(err)
			if !wait.For(ctx, d) {
				return
			}
			continue
		}
		if failures > 0 {
			w.log.Info("the control plane answers again", "failures", failures)
		}
		failures = 0
		w.contact.ok(time.Now())
		w.orders.set(orders)
		if long > 0 && orders.WaitMs > 0 {
			long = time.Duration(min(orders.WaitMs, api.MaxWaitMs)) * time.Millisecond
		}
		d := time.Duration(0)
		unheld := orders.Etag == before.Etag && time.Since(begin) < long/2 // a poll that nobody holds must not spin
		if long == 0 || unheld {
			if d = every; orders.PollAfterMs > 0 {
				d = time.Duration(orders.PollAfterMs) * time.Millisecond
			}
			d = wait.Spread(d)
		}
		if !w.pauseOrMoved(ctx, max(d, 20*time.Millisecond)) {
			return
		}
	}
}

var errMoved = errors.New("the machine's state moved on")

// ask makes one check-in; a held one ends when there is something new to say.
func (w *world) ask(ctx context.Context, long time.Duration) (api.Orders, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	said, health := w.snapshot.get(), w.health()
	if long > 0 {
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-w.snapshot.moved:
				}
				if j := w.snapshot.get(); j.Step.State() != said.Step.State() || j.Waiting != said.Waiting || j.Drift != said.Drift || w.health() != health {
					cancel(errMoved)
					return
				}
			}
		}()
	}
	orders, err := w.cp.CheckIn(ctx, w.checkIn(long))
	if errors.Is(context.Cause(ctx), errMoved) && err != nil {
		return orders, errMoved
	}
	return orders, err
}

// pauseOrMoved waits, but not once there is something new to say.
func (w *world) pauseOrMoved(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-w.snapshot.moved:
	}
	return true
}

// contact is when the control plane was reached last.
type contact struct {
	mu   sync.Mutex
	last time.Time
	err  error
	n    int64 // polls that were answered
	bad  int64 // that were not
}

func (c *contact) ok(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.err = t, nil
	c.n++
}

func (c *contact) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.bad++
}
