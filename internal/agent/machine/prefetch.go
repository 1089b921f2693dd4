// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// prefetch fetches a release that may be applied soon. It changes only the store.
func (m *Machine) prefetch(ctx context.Context, j states.Journal, d fleet.Digest) states.Input {
	if d == "" || d == m.idle.prefetched || j.Current != nil && j.Current.Digest == d {
		return nil
	}
	m.idle.prefetched = d
	// Another order must not wait for what is not ordered yet.
	urgent := func(v states.Orders) bool {
		o, ok := v.Pick(j)
		return ok && (o.Kind == states.Revert || o.Digest != d)
	}
	m.unlessOrdered(ctx, urgent, func(ctx context.Context) {
		a, in := m.accept(ctx, j, d)
		if in == nil {
			in = m.fetchClosure(ctx, a, prefetchRoot, time.Now())
		}
		switch in.(type) {
		case states.Done, states.Replaced:
		default:
			m.failedFetch(ctx, true)
		}
		if ctx.Err() == nil {
			m.prefetchEnded(j, d, in)
		}
	})
	return nil
}

// prefetchEnded reports a refusal or a failure, as that of an order is: what an
// attacker tried must not depend on the order coming.
func (m *Machine) prefetchEnded(j states.Journal, d fleet.Digest, in states.Input) {
	switch in := in.(type) {
	case states.Done, states.Replaced:
		return
	case states.Refused:
		if !in.Reason.Holds() {
			m.refusedPrefetch(j, d, in.Reason, in.Message)
		}
	case states.Failed:
		m.refusedPrefetch(j, d, in.Reason, in.Message)
	}
	m.log.Warn("the release cannot be prefetched", "release", d.Short(), "result", in)
}

func (m *Machine) refusedPrefetch(j states.Journal, d fleet.Digest, reason fleet.Reason, message string) {
	r := m.Seen().Refusal(j, d, reason, message)
	r.Digest = d
	if err := m.Outbox.Put(r); err != nil {
		m.log.Warn("a report cannot be queued", "error", err)
	}
}
