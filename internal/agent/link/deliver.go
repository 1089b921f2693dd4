// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// mostReports is how many reports are sent at once.
const mostReports = 32

// deliver sends the queued reports in order, until ctx ends (A09). When they
// are too large together it sends fewer at once.
func (l *Link) deliver(ctx context.Context, p controlPlane) {
	failures, waits := 0, backOff(20*time.Second)
	size := mostReports
	for {
		batch, err := l.Outbox.Batch(size)
		if err == nil && len(batch) > 0 {
			err = l.send(ctx, p, batch)
		}
		switch {
		case ctx.Err() != nil:
			return
		case fleet.ErrorCode(err) == fleet.TooLarge && len(batch) > 1:
			size = len(batch) / 2
		case err != nil:
			failures++
			d := waits.NextBackOff()
			if after, ok := api.RetryAfter(err); ok {
				d = after
			}
			if failures == 1 {
				l.Log.Warn("reports cannot be sent", "queued", l.Outbox.Len(), "error", err)
			}
			if !wait.For(ctx, d) {
				return
			}
		case len(batch) == 0:
			select {
			case <-ctx.Done():
				return
			case <-l.Outbox.Wake():
			}
		default:
			failures, size = 0, mostReports
			waits.Reset()
		}
	}
}

func (l *Link) send(ctx context.Context, p controlPlane, batch []fleet.Report) error {
	reply, err := p.Reports(ctx, batch)
	if err != nil {
		return err
	}
	if len(reply.Rejected) > 0 {
		l.Log.Error("the control plane rejects reports", "ids", reply.Rejected, "reasons", reply.Reasons)
	}
	if len(reply.Accepted)+len(reply.Rejected) == 0 {
		return fleet.Errorf(fleet.Unavailable, "the control plane acknowledged none of %d reports", len(batch))
	}
	return l.Outbox.Sent(append(reply.Accepted, reply.Rejected...)...)
}
