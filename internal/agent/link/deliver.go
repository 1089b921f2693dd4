// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

const (
	mostReports = 32 // that are sent at once
	// rideTime is for how long new reports wait for a check-in that carries them: what is
	// reported is most often news too.
	rideTime = 250 * time.Millisecond
	// rideSize is how much of reports a check-in carries, in bytes.
	rideSize = 128 << 10
	// postsTime is for how long reports are sent by themselves once a check-in did not
	// deliver them.
	postsTime = 5 * time.Minute
)

// carry returns reports that the next check-in delivers. If there are any, sending is
// full.
func (l *Link) carry() []fleet.Report {
	if l.Outbox.Len() == 0 {
		return nil
	}
	select {
	case l.sending <- struct{}{}:
	default:
		return nil
	}
	batch, err := l.Outbox.Batch(api.MaxRiding)
	if err != nil {
		l.Log.Error("queued reports cannot be read", "error", err)
	}
	size := 0
	for i, r := range batch {
		b, _ := json.Marshal(r) // it was read as JSON
		if size += len(b); size > rideSize {
			batch = batch[:i]
			break
		}
	}
	if len(batch) == 0 {
		<-l.sending
	}
	return batch
}

// delivered takes in what became of reports that a check-in carried.
func (a *asker) delivered(l *Link, carried []fleet.Report, reply *api.ReportsReply, err error) error {
	if err != nil && !refused(err) {
		return err
	}
	if err == nil && reply != nil && l.acknowledged(carried, *reply) == nil {
		return nil
	}
	a.posts = time.Now().Add(postsTime)
	if err != nil {
		l.Log.Warn("a check-in with reports is refused; they are sent by themselves", "error", err)
		return errNotCarried
	}
	return nil
}

// deliver sends the queued reports that no check-in carries, in order, until ctx ends
// (A09). When they are too large together, or one of them is refused, it sends fewer
// at once. A report that is refused by itself is set aside: an older or a newer control
// plane may not understand it, and the others must not wait for it.
func (l *Link) deliver(ctx context.Context, p controlPlane) {
	failures, waits := 0, backOff(20*time.Second)
	size := mostReports
	for {
		select {
		case l.sending <- struct{}{}:
		case <-ctx.Done():
			return
		}
		batch, err := l.Outbox.Batch(size)
		if err == nil && len(batch) > 0 {
			err = l.send(ctx, p, batch)
		}
		<-l.sending
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
			if !wait.For(ctx, rideTime) {
				return
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
	return l.acknowledged(batch, reply)
}

// acknowledged takes in what the control plane says of reports.
func (l *Link) acknowledged(batch []fleet.Report, reply api.ReportsReply) error {
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
