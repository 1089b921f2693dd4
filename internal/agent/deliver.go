// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

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
			d := wait.BackOff(failures, 20*time.Second)
			if after, ok := api.RetryAfter(err); ok {
				d = after
			}
			if failures == 1 {
				w.log.Warn("reports cannot be sent", "queued", w.outbox.Len(), "error", err)
			}
			if !wait.For(ctx, d) {
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
