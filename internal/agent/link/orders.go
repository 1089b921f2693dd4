// SPDX-License-Identifier: MIT

package link

import (
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Limits of what a control plane may ask for, in milliseconds. It cannot end a
// machine's contact by them, nor have a time overflow.
const (
	maxPollMs  = int64(time.Hour / time.Millisecond)
	maxOrderMs = 30 * 24 * maxPollMs
	maxEtag    = 1024 // bytes of what the agent sends back
)

// bounded returns orders as the agent may keep and show them: times within their
// limits, and without what names nothing. What was left out is named, also what
// could not be read.
func bounded(v api.Orders) (o api.Orders, left []string) {
	left = slices.Clone(v.LeftOut)
	drop := func(what string) { left = append(left, what) }
	order := func(what string, o *fleet.Order) *fleet.Order {
		if o == nil {
			return nil
		}
		if !o.Digest.Valid() || !o.Rollout.Valid() || o.Attempt < 1 {
			drop(what)
			return nil
		}
		if _, err := fleet.ParseCalendar(o.Windows, o.Blackouts); err != nil {
			drop(what + " for its windows")
			return nil
		}
		if _, err := fleet.ParseCalendar(o.RebootWindows, nil); err != nil {
			drop(what + " for its reboot windows")
			return nil
		}
		if o.Reboot != "" && !o.Reboot.Valid() || (o.Reboot == fleet.RebootWindow) != (len(o.RebootWindows) > 0) {
			drop(what + " for its reboot policy")
			return nil
		}
		c := *o
		c.MinHealthyMs, c.DeadlineMs = min(max(c.MinHealthyMs, 0), maxOrderMs), min(c.DeadlineMs, maxOrderMs)
		return &c
	}
	digest := func(what string, d fleet.Digest) fleet.Digest {
		if d != "" && !d.Valid() {
			drop(what)
			return ""
		}
		return d
	}
	text := func(what, s string) string {
		if len(s) > maxEtag || s != fleet.CleanLine(s, maxEtag) {
			drop(what)
			return ""
		}
		return s
	}
	var grants []fleet.Digest
	for _, g := range v.Grants {
		if d := digest("grant", g); d != "" && len(grants) < trust.MaxGrants {
			grants = append(grants, d)
		}
	}
	o = api.Orders{
		Etag: text("etag", v.Etag), Epoch: text("epoch", v.Epoch),
		Prefetch: digest("prefetch", v.Prefetch), Apply: order("apply", v.Apply), Revert: order("revert", v.Revert),
		Documents: fleet.DocumentDigests{
			Root: digest("root", v.Documents.Root), Revocations: digest("revocations", v.Documents.Revocations), Timestamp: digest("timestamp", v.Documents.Timestamp),
		},
		Grants:      grants,
		PollAfterMs: min(max(v.PollAfterMs, 0), maxPollMs), WaitMs: min(max(v.WaitMs, 0), api.MaxWaitMs),
	}
	return o, left
}

// notCarriedOut says which of its orders the agent cannot carry out; "" for none. It
// is told to operators with the next check-in.
func notCarriedOut(left []string) string {
	if len(left) == 0 {
		return ""
	}
	return "cannot read of its orders: " + strings.Join(left, ", ")
}
