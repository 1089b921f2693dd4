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
			in = m.fetchClosure(ctx, a, "prefetch", time.Now())
		}
		ended <- in
	}()
	for {
		select {
		case in := <-ended:
			if _, ok := in.(states.Done); !ok && ctx.Err() == nil {
				m.log.Warn("the release cannot be prefetched", "release", d.Short(), "result", in)
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
