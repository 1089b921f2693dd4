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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan states.Input, 1)
	go func() {
		a, in := m.accept(ctx, j, d)
		if in == nil {
			in = m.fetchClosure(ctx, a, prefetchRoot, time.Now())
		}
		ended <- in
	}()
	for {
		select {
		case in := <-ended:
			if ctx.Err() == nil {
				m.prefetchEnded(j, d, in)
			}
			return nil
		case <-m.Plane.Wake():
			// Another order must not wait for what is not ordered yet.
			if v, _ := m.Plane.Orders(); v.Revert != nil || v.Apply != nil && v.Apply.Digest != d {
				cancel()
			}
		}
	}
}

// prefetchEnded reports a refusal, as that of an order is: what an attacker tried
// must not depend on the order coming.
func (m *Machine) prefetchEnded(j states.Journal, d fleet.Digest, in states.Input) {
	switch in := in.(type) {
	case states.Done:
		return
	case states.Refused:
		if in.Reason.Holds() {
			break
		}
		r := m.Seen().Refusal(j, d, in.Reason, in.Message)
		r.Digest = d
		r.Clean()
		if err := m.Outbox.Put(r); err != nil {
			m.log.Warn("a report cannot be queued", "error", err)
		}
	}
	m.log.Warn("the release cannot be prefetched", "release", d.Short(), "result", in)
}
