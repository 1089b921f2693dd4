// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"iter"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// eventPage is how many events are read at once.
const eventPage = 500

// Events returns the events after a given one and then those that come, each
// once and in order, until the reader stops, ctx ends or the plane closes. They
// come from the durable log, so that a reader who reconnects misses none. After
// is the last event that the reader has: 0 for all that are kept, -1 for those
// from now on. One that is older than the log, or newer, ends with code
// NotFound: the reader has to read the state anew. When idle is not 0, a zero
// Event comes after so long without an event, so that a stream can show that it
// lives.
func (p *Plane) Events(ctx context.Context, after int64, f fleet.EventFilter, idle time.Duration) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		last, err := p.EventStart(ctx, after)
		if err != nil {
			yield(api.Event{}, err)
			return
		}
		for {
			rang := p.events.wait()
			events, err := p.st.Events(ctx, last, f, eventPage)
			if err != nil {
				if ctx.Err() == nil {
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
			if len(events) == 0 && !p.await(ctx, rang, idle, yield) {
				return
			}
		}
	}
}

// EventStart returns the event after which Events with that After begins. The
// error's code is NotFound if the log does not have what follows it.
func (p *Plane) EventStart(ctx context.Context, after int64) (int64, error) {
	oldest, newest, err := p.st.EventRange(ctx)
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

// await waits for the notifier; false if the stream is over.
func (p *Plane) await(ctx context.Context, rang <-chan struct{}, idle time.Duration, yield func(api.Event, error) bool) bool {
	var tired <-chan time.Time
	if idle > 0 {
		t := time.NewTimer(idle)
		defer t.Stop()
		tired = t.C
	}
	select {
	case <-rang:
		return true
	case <-tired:
		return yield(api.Event{}, nil)
	case <-p.closing:
		return false
	case <-ctx.Done():
		return false
	}
}

// Audit returns a page of the audit trail, oldest first.
func (p *Plane) Audit(ctx context.Context, f fleet.AuditFilter, page fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
	return p.st.Audit(ctx, f, page)
}

// AuditHead returns size and head of the audit chain.
func (p *Plane) AuditHead(ctx context.Context) (fleet.AuditHead, error) { return p.st.AuditHead(ctx) }
