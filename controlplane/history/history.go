// SPDX-License-Identifier: AGPL-3.0-only

// Package history tells what happened: the audit trail, and the event log that
// streams follow.
//
// It never writes: what happens is written in the transaction that does it.
package history

import (
	"context"
	"iter"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/fleet"
)

// Log reads the audit trail and the event log.
type Log struct {
	loop *loop.Loop
}

// New returns the history that a loop writes.
func New(l *loop.Loop) *Log { return &Log{loop: l} }

// Audit returns a page of the audit trail, oldest first.
func (l *Log) Audit(ctx context.Context, f fleet.AuditFilter, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
	return l.loop.Store.Audit(ctx, f, p)
}

// AuditHead returns size and head of the audit chain.
func (l *Log) AuditHead(ctx context.Context) (fleet.AuditHead, error) {
	return l.loop.Store.AuditHead(ctx)
}

// eventPage is how many events are read at once.
const eventPage = 500

// Events returns the events after a given one and then those that come, each
// once and in order, until the reader stops, ctx ends or the control plane
// closes. They come from the durable log, so that a reader who reconnects
// misses none. After is the last event that the reader has: 0 for all that are
// kept, -1 for those from now on. One that is older than the log, or newer,
// ends with code NotFound: the reader has to read the state anew. When idle is
// not 0, a zero Event comes after so long without an event, so that a stream
// can send a heartbeat.
func (l *Log) Events(ctx context.Context, after int64, f fleet.EventFilter, idle time.Duration) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		last, err := l.EventStart(ctx, after)
		if err != nil {
			yield(api.Event{}, err)
			return
		}
		for {
			next := l.loop.Events.Next()
			// What a filter leaves out up to here is not read again.
			_, newest, err := l.loop.Store.EventRange(ctx)
			var events []api.Event
			if err == nil {
				events, err = l.loop.Store.Events(ctx, last, f, eventPage)
			}
			if err != nil {
				if ctx.Err() == nil && !l.ending() {
					yield(api.Event{}, err)
				}
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
				last = e.ID
			}
			if len(events) < eventPage {
				last = max(last, newest)
			}
			if len(events) == 0 && !l.wait(ctx, next, idle, yield) {
				return
			}
		}
	}
}

// ending reports whether streams have to end: then the store may be closed.
func (l *Log) ending() bool {
	select {
	case <-l.loop.Ending():
		return true
	default:
		return false
	}
}

// EventStart returns the event after which Events with that after begins. The
// error's code is NotFound if the log does not have what follows it.
func (l *Log) EventStart(ctx context.Context, after int64) (int64, error) {
	oldest, newest, err := l.loop.Store.EventRange(ctx)
	switch {
	case err != nil:
		return 0, err
	case after < 0:
		return newest, nil
	case after > newest || after > 0 && after < oldest-1:
		return 0, fleet.Errorf(fleet.NotFound, "event %d is not in the log, which has %d to %d", after, oldest, newest).
			WithHint("read the present state, then follow from there")
	}
	return after, nil
}

// wait waits for the next event, or yields a zero one after idle; false if the
// stream is over.
func (l *Log) wait(ctx context.Context, next <-chan struct{}, idle time.Duration, yield func(api.Event, error) bool) bool {
	var timeout <-chan time.Time
	if idle > 0 {
		t := time.NewTimer(idle)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-next:
		return true
	case <-timeout:
		return yield(api.Event{}, nil)
	case <-l.loop.Ending():
		return false
	case <-ctx.Done():
		return false
	}
}
