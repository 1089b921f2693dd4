// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// snapshot is what the engine has told of itself last.
type snapshot struct {
	mu      sync.Mutex
	journal states.Journal
	moved   chan struct{}
}

func (s *snapshot) set(j states.Journal) {
	s.mu.Lock()
	s.journal = j
	s.mu.Unlock()
	s.ring()
}

// ring tells that there may be something new to say.
func (s *snapshot) ring() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

func (s *snapshot) get() states.Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal
}

// checked keeps what the checks say; a change for better or worse is told at
// once.
func (w *world) checked(r []fleet.HealthCheckResult) {
	before := w.health()
	if w.checks.Store(&r); w.health() != before {
		w.snapshot.ring()
	}
}

func (w *world) health() fleet.Health {
	r := w.checks.Load()
	if r == nil {
		return ""
	}
	return fleet.HealthOf(*r)
}

// checkIn says how the machine is now.
func (w *world) checkIn(wait time.Duration) api.CheckIn {
	j, g, now := w.snapshot.get(), w.Generations(), w.Now()
	c := api.CheckIn{
		Machine: w.cfg.MachineID, AgentVersion: w.version, System: w.trustState(j).System, Line: w.cfg.Line, BootID: now.BootID,
		State: j.Step.State(), Waiting: fleet.CleanText(j.Waiting, 500), Tags: w.cfg.Tags, Drift: j.Drifted(g.Running), RunsRelease: j.RunsRelease(g.Running),
		Documents: fleet.DocumentDigests{Root: j.Learned.Root, Revocations: j.Learned.Revocations, Timestamp: j.Learned.Timestamp},
		WaitMs:    wait.Milliseconds(), Generations: g,
	}
	if r := w.checks.Load(); r != nil {
		c.Checks = *r
	}
	if v, any := w.orders.get(); any {
		c.Epoch = v.Epoch
		if wait > 0 {
			c.Have = v.Etag
		}
	}
	return c
}

// poll asks for orders until ctx ends: by long polls where the control plane
// holds them, with back-off and jitter where it does not answer (A09, A16).
func (w *world) poll(ctx context.Context) {
	every := time.Duration(w.cfg.ControlPlane.PollSeconds * float64(time.Second))
	long := time.Duration(w.cfg.ControlPlane.LongPollSeconds * float64(time.Second))
	if !pause(ctx, jitter(min(every/10, 6*time.Second))) { // they all boot at the same time
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
			d := backOff(failures, every)
			if after, ok := api.RetryAfter(err); ok {
				d = after + jitter(after/4+time.Millisecond)
			}
			if failures == 1 || failures%20 == 0 {
				w.log.Warn("the control plane does not answer", "error", err, "hint", fleet.ErrorHint(err), "failures", failures, "next", d.Round(time.Millisecond))
			}
			w.contact.fail(err)
			if !pause(ctx, d) {
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
			d = jitter(d)
		}
		if !w.pauseOrMoved(ctx, max(d, 20*time.Millisecond)) {
			return
		}
	}
}

// backOff is how long to wait after so many failures in a row.
func backOff(failures int, every time.Duration) time.Duration {
	d := min(every, time.Second) << min(failures-1, 10)
	return jitter(min(d, max(5*every, time.Second), 5*time.Minute))
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

// deliver sends queued reports, in order (A09).
func (w *world) deliver(ctx context.Context) {
	failures := 0
	for {
		batch, err := w.outbox.Batch(32)
		if err == nil && len(batch) > 0 {
			err = w.send(ctx, batch)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			d := backOff(failures, 20*time.Second)
			if after, ok := api.RetryAfter(err); ok {
				d = after
			}
			if failures == 1 {
				w.log.Warn("reports cannot be sent", "queued", w.outbox.Len(), "error", err)
			}
			if !pause(ctx, d) {
				return
			}
		case len(batch) == 0:
			failures = 0
			select {
			case <-ctx.Done():
				return
			case <-w.outbox.Wake():
			}
		default:
			failures = 0
		}
	}
}

func (w *world) send(ctx context.Context, batch []fleet.Report) error {
	reply, err := w.cp.Reports(ctx, batch)
	if err != nil {
		return err
	}
	if len(reply.Rejected) > 0 {
		w.log.Error("the control plane rejects reports", "ids", reply.Rejected)
	}
	if len(reply.Accepted)+len(reply.Rejected) == 0 {
		return fleet.Errorf(fleet.Unavailable, "the control plane acknowledged none of %d reports", len(batch))
	}
	return w.outbox.Sent(append(reply.Accepted, reply.Rejected...)...)
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
