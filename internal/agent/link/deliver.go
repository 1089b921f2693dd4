// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// mostReports is how many reports are sent at once.
const mostReports = 32

// deliver sends the queued reports in order, until ctx ends (A09). When they
// are too large together, or one of them is refused, it sends fewer at once. A
// report that is refused by itself is set aside: an older or a newer control plane
// may not understand it, and the others must not wait for it.
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
		case refused(err) && len(batch) > 1:
			size = len(batch) / 2
		case refused(err) && len(batch) == 1:
			err = l.reject(map[string]string{batch[0].ID: err.Error()})
			if err != nil && !wait.For(ctx, waits.NextBackOff()) {
				return
			}
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
	if !slices.ContainsFunc(batch, func(r fleet.Report) bool {
		return slices.Contains(reply.Accepted, r.ID) || slices.Contains(reply.Rejected, r.ID)
	}) {
		return fleet.Errorf(fleet.Unavailable, "the control plane acknowledged none of %d reports", len(batch))
	}
	stored := make(map[string]bool, len(reply.Accepted))
	for _, id := range reply.Accepted {
		stored[id] = true
	}
	reasons := map[string]string{}
	for _, id := range reply.Rejected {
		if !stored[id] {
			reasons[id] = fleet.CleanText(reply.Reasons[id], fleet.MaxMessage)
		}
	}
	return errors.Join(l.Outbox.Sent(reply.Accepted...), l.reject(reasons))
}

// refused reports whether the request was refused for what is in it: sending the
// same again cannot help.
func refused(err error) bool {
	switch fleet.ErrorCode(err) {
	case fleet.Invalid, fleet.TooLarge:
		return true
	}
	return false
}

// reject sets reports aside.
func (l *Link) reject(reasons map[string]string) error {
	if len(reasons) == 0 {
		return nil
	}
	l.Log.Error("the control plane rejects reports", "reasons", reasons, "kept", l.Outbox.Rejected())
	return l.Outbox.Reject(reasons)
}
