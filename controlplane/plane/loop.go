// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// drainLimit bounds how many reports share a transaction.
	drainLimit = 500
	// flushEvery is how often last contacts are written.
	flushEvery = 30 * time.Second
	// sweepEvery is how often what is past its retention is deleted.
	sweepEvery = time.Hour
	// retryAfter is how long the loop rests after an error of the store.
	retryAfter = time.Second
	// shortestWait keeps a clock that stands still from spinning the loop.
	shortestWait = 5 * time.Millisecond

	dayMs             = 24 * 3600 * 1000
	eventRetentionMs  = 7 * dayMs
	reportRetentionMs = 90 * dayMs
	tokenRetentionMs  = 7 * dayMs
)

// command is a change that the loop makes for a caller.
type command struct {
	run  func() error
	done chan error
}

type loopState struct {
	stopped     chan struct{} // closed when Run has returned
	failed      bool          // the last try did; of the loop's goroutine
	reconnected reconnected
}

// reconnected are machines that were offline and are online again.
type reconnected struct {
	mu  sync.Mutex
	ids map[fleet.MachineID]bool
}

func (c *reconnected) add(id fleet.MachineID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = map[fleet.MachineID]bool{}
	}
	c.ids[id] = true
}

func (c *reconnected) take() []fleet.MachineID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := slices.Sorted(maps.Keys(c.ids))
	c.ids = nil
	return ids
}

// act runs fn on the loop's goroutine as one pass: everything fn does is
// committed together, and then shown to machines and streams.
func (p *Plane) act(ctx context.Context, fn func(ctx context.Context, t *pass) error) error {
	c := command{done: make(chan error, 1), run: func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return p.inPass(ctx, fn)
	}}
	select {
	case p.commands <- c:
		return <-c.done // begun: it ends soon, and the caller has to know how
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closing:
		return errClosed()
	case <-p.loop.stopped:
		return errClosed()
	}
}

// Run drives rollouts until ctx ends or Close is called. It must be called
// once. An error of the store is logged and tried again; nothing is lost by
// it, for what was not committed is still in the inbox.
func (p *Plane) Run(ctx context.Context) error {
	if !p.mayRun() {
		return nil
	}
	defer p.running.Done()
	defer close(p.loop.stopped)
	if err := p.noteStart(ctx); err != nil {
		return err
	}
	flush, sweep := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer sweep.Stop()
	work := time.NewTimer(0)
	defer work.Stop()
	p.wakeForInbox() // what a stop left behind
	for {
		again := time.Duration(-1)
		select {
		case <-ctx.Done():
			return nil
		case <-p.closing:
			return nil
		case c := <-p.commands:
			c.done <- c.run()
		case <-p.inbox:
			again = p.try(ctx, "take in reports", p.drain)
		case <-work.C:
			if p.loop.failed || p.due() {
				again = p.try(ctx, "look at rollouts", p.drain)
			}
		case <-flush.C:
			again = p.try(ctx, "write last contacts", func(ctx context.Context) error { return errors.Join(p.flush(ctx), p.refreshEpoch(ctx)) })
		case <-sweep.C:
			again = p.try(ctx, "delete what is old", p.sweep)
		}
		if again < 0 {
			again = p.untilNextWake()
		}
		work.Reset(again)
	}
}

// mayRun lets the loop begin, unless Close was first; Close waits for it then.
func (p *Plane) mayRun() bool {
	p.runMu.Lock()
	defer p.runMu.Unlock()
	select {
	case <-p.closing:
		return false
	default:
		p.running.Add(1)
		return true
	}
}

// noteStart notes the start in the audit trail.
func (p *Plane) noteStart(ctx context.Context) error {
	return p.inPass(ctx, func(ctx context.Context, t *pass) error {
		return t.audit(ctx, engineActor, fleet.ActionControlPlaneStart, engineActor, map[string]string{"version": p.conf.Version})
	})
}

// try does a part of the work. If it fails it says for how long to rest.
func (p *Plane) try(ctx context.Context, what string, do func(context.Context) error) time.Duration {
	err := do(ctx)
	p.loop.failed = err != nil && ctx.Err() == nil
	if !p.loop.failed {
		return -1
	}
	p.log.Error("the store failed; trying again", "work", what, "err", err)
	return retryAfter
}

func (p *Plane) wakeForInbox() {
	select {
	case p.inbox <- struct{}{}:
	default:
	}
}

// nap is how long the loop may rest: until the first rollout wants to be
// looked at.
func (p *Plane) untilNextWake() time.Duration {
	wake := int64(0)
	for _, s := range p.active {
		if w := s.Rollout.WakeAt; w > 0 && (wake == 0 || w < wake) {
			wake = w
		}
	}
	if wake == 0 {
		return sweepEvery
	}
	return max(time.Duration(wake-p.ms())*time.Millisecond, shortestWait)
}

// drain applies the reports that wait, then looks at the rollouts that this
// made due. With more reports than fit it asks for another pass.
func (p *Plane) drain(ctx context.Context) error {
	full := false
	back := p.loop.reconnected.take()
	err := p.inPass(ctx, func(ctx context.Context, t *pass) error {
		waiting, err := t.tx.WaitingReports(ctx, drainLimit)
		if err != nil {
			return err
		}
		full = len(waiting) == drainLimit
		for _, w := range waiting {
			if err := t.apply(ctx, w); err != nil {
				return err
			}
		}
		if err := t.tellReconnected(ctx, back); err != nil || full {
			return err
		}
		return t.tickDue(ctx)
	})
	if err == nil && full {
		p.wakeForInbox()
	}
	return err
}

// due reports whether a rollout wants to be looked at.
func (p *Plane) due() bool {
	now := p.ms()
	for _, s := range p.active {
		if w := s.Rollout.WakeAt; w > 0 && w <= now {
			return true
		}
	}
	return false
}

// sweep deletes what is past its retention.
func (p *Plane) sweep(ctx context.Context) error {
	now := p.ms()
	return p.st.Write(ctx, func(tx *store.Tx) error {
		return errors.Join(
			tx.DeleteEventsBefore(ctx, now-eventRetentionMs),
			tx.DeleteReportsBefore(ctx, now-reportRetentionMs),
			tx.DeleteTokensBefore(ctx, now-tokenRetentionMs),
			tx.DeleteCertificatesBefore(ctx, now-dayMs),
		)
	})
}
