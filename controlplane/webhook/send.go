// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/controlplane/store/deliveries"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// lookEvery is how often webhooks look whether something was audited.
	lookEvery = time.Second
	// shortestWait keeps a clock that stands still from spinning it.
	shortestWait = 5 * time.Millisecond
	// queuePage is how many audit entries are read at once, and by how many the cursor
	// that the store has may be behind while none is sent.
	queuePage = 500
	// maxWaiting is with how many messages that wait no more of a webhook are queued:
	// what comes after them stays in the audit trail until there is room. One read of
	// queuePage entries may go above it.
	maxWaiting = 1000
	// maxDead is how many dead letters of a webhook are kept; the newest are.
	maxDead = 10_000
	// pruneEvery is how often dead letters are looked for that are too old or too many.
	pruneEvery = time.Hour
	// actionTest is that of test messages. It is not audited.
	actionTest = "webhook.test"
)

// Run sends messages until ctx ends, and returns when nothing is on its way. What an
// attempt came to is written, or the message is sent again at the next start.
func (s *Sender) Run(ctx context.Context) {
	defer s.client.transport.CloseIdleConnections()
	var sends sync.WaitGroup
	defer sends.Wait()
	look := time.NewTimer(0)
	defer look.Stop()
	var pruned int64              // Unix milliseconds
	unqueued := map[string]bool{} // webhooks of which that was logged
	for {
		hooks := s.all()
		if now := s.Loop.Clock.UnixMilli(); now-pruned >= pruneEvery.Milliseconds() {
			pruned = now
			s.prune(ctx, hooks, now)
		}
		for _, h := range hooks {
			err := s.queue(ctx, h)
			if err != nil && ctx.Err() == nil && !unqueued[h.ID] {
				s.Loop.Log.Error("messages of a webhook were not queued; trying again every second", "webhook", h.ID, "err", err)
			}
			unqueued[h.ID] = err != nil
		}
		next := lookEvery
		for _, h := range s.all() {
			next = min(next, s.begin(ctx, h, &sends))
		}
		var again <-chan time.Time
		if len(hooks) > 0 {
			look.Reset(max(next, shortestWait))
			again = look.C
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-again:
		}
	}
}

// prune forgets dead letters that are too old or too many.
func (s *Sender) prune(ctx context.Context, hooks []hook, now int64) {
	for _, h := range hooks {
		err := s.Loop.Store.Write(ctx, func(tx *store.Tx) error { return deliveries.Prune(ctx, tx, h.ID, now-keepDead.Milliseconds(), maxDead) })
		if err != nil && ctx.Err() == nil {
			s.Loop.Log.Error("dead letters of a webhook were not deleted; trying again in an hour", "webhook", h.ID, "err", err)
		}
	}
}

// queue decides what of the audit trail a webhook sends, as far as there is room.
func (s *Sender) queue(ctx context.Context, h hook) error {
	head := s.Loop.Store.Committed().Size
	for h.Cursor < head {
		if waiting, _, err := deliveries.Count(ctx, s.Loop.Store.Reader, h.ID, maxWaiting); err != nil || waiting >= maxWaiting {
			return err
		}
		entries, err := deliveries.Entries(ctx, s.Loop.Store.Reader, h.Cursor, queuePage)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		now := s.Loop.Clock.UnixMilli()
		var messages []fleet.WebhookDelivery
		for _, e := range entries {
			v, unread := e.Event()
			if unread != nil {
				return unread
			}
			if h.Wants(v.Action) {
				messages = append(messages, fleet.WebhookDelivery{Seq: e.Seq, Mark: e.Hash.Short(), Action: v.Action, At: v.At, Queued: now, Next: now})
			}
		}
		h.Cursor = entries[len(entries)-1].Seq
		if len(messages) > 0 || h.Cursor-h.kept >= queuePage {
			if err = s.Loop.Store.Write(ctx, func(tx *store.Tx) error { return deliveries.Queue(ctx, tx, h.ID, h.Cursor, messages) }); err != nil {
				return err
			}
			h.kept = h.Cursor
		}
		s.mu.Lock()
		if v, ok := s.hooks[h.ID]; ok {
			if v.Cursor, v.kept = h.Cursor, h.kept; len(messages) > 0 {
				v.due = 0
			}
			s.hooks[h.ID] = v
		}
		s.mu.Unlock()
	}
	return nil
}

// begin begins an attempt if one is due and none is at work. It returns for how long
// there is nothing to do, at most lookEvery.
func (s *Sender) begin(ctx context.Context, h hook, sends *sync.WaitGroup) time.Duration {
	now := s.Loop.Clock.UnixMilli()
	if h.busy || h.due < 0 || ctx.Err() != nil {
		return lookEvery
	}
	if left := s.Retry.until(max(h.due, h.notBefore), now); left > 0 {
		return left
	}
	d, waits, err := deliveries.Next(ctx, s.Loop.Store.Reader, h.ID)
	if err != nil {
		if ctx.Err() == nil {
			s.Loop.Log.Error("messages of a webhook cannot be read; trying again", "webhook", h.ID, "err", err)
		}
		return lookEvery
	}
	s.mu.Lock()
	v, ok := s.hooks[h.ID]
	defer s.mu.Unlock()
	if !ok || v.changes != h.changes { // what was read may be of before the change
		return shortestWait
	}
	next := lookEvery
	switch {
	case !waits:
		v.due = -1
	case s.Retry.until(d.Next, now) > 0:
		v.due, next = d.Next, s.Retry.until(d.Next, now)
	default:
		v.busy = true
		sends.Go(func() { s.attempt(ctx, v, d) })
	}
	s.hooks[h.ID] = v
	return next
}

// attempt makes an attempt and writes what it came to.
func (s *Sender) attempt(ctx context.Context, h hook, d fleet.WebhookDelivery) {
	err := s.deliver(ctx, h, d)
	now := s.Loop.Clock.UnixMilli()
	if err != nil && ctx.Err() != nil { // cut by the stop
		s.change(h.ID, func(v *hook) { v.busy = false })
		return
	}
	d, failures, pause := s.Retry.outcome(h.failures, d, err, now)
	gone := int64(0)
	// The attempt was made: what it came to is written also while the program stops.
	written := s.Loop.Store.Write(context.WithoutCancel(ctx), func(tx *store.Tx) (fault error) {
		if err == nil {
			return deliveries.Delivered(ctx, tx, h.ID, d.Seq, now)
		}
		if fault = deliveries.Undelivered(ctx, tx, d, now); fault == nil {
			// Those that were queued before had the same receiver all the time.
			gone, fault = deliveries.GiveUp(ctx, tx, h.ID, now-s.Retry.GiveUp.Milliseconds(), now, d.Error)
		}
		return fault
	})
	if written != nil {
		s.Loop.Log.Error("what came of a webhook's message was not written; it is sent again", "webhook", h.ID, "message", d.ID, "err", written)
		failures = h.failures + 1
		pause = max(pause, s.Retry.pause(failures, nil))
	}
	if d.Dead || gone > 0 {
		s.Loop.Log.Warn("messages of a webhook are dead letters", "webhook", h.ID, "message", d.ID, "attempts", d.Attempts, "others", gone, "err", err)
	}
	s.change(h.ID, func(v *hook) {
		v.busy, v.due, v.failures, v.notBefore = false, 0, failures, now+pause.Milliseconds()
	})
}

// deliver sends the audit entry that a message is about.
func (s *Sender) deliver(ctx context.Context, h hook, d fleet.WebhookDelivery) error {
	e, ok, err := s.Loop.Store.AuditEntry(ctx, d.Seq)
	if err != nil {
		return err
	}
	if !ok || e.Hash.Short() != d.Mark {
		return &refusal{status: http.StatusGone, why: "the audit entry is not there any more"}
	}
	v, err := e.Event()
	if err != nil {
		return err
	}
	m := api.WebhookMessage{ID: d.ID, FleetID: s.FleetID(), Event: v, Audit: fleet.AuditHead{Size: e.Seq, Head: e.Hash}}
	_, err = s.client.send(ctx, h, s.secret(h.ID), m, s.Loop.Clock.Now())
	return err
}

// outcome is what follows from an attempt, with the failures in a row before it: the
// message, the failures now, and how long the receiver is left alone. The message
// waits by its own failures: one that the receiver never takes does not hold up the
// others.
func (r Retry) outcome(failures int, d fleet.WebhookDelivery, err error, now int64) (fleet.WebhookDelivery, int, time.Duration) {
	if err == nil {
		return d, 0, 0
	}
	failures++
	return r.failed(d, err, now), failures, r.pause(failures, err)
}

// until is how long it is until a time. No wait is twice the longest: such a time is of
// before the clock stepped back, and is now (H20).
func (r Retry) until(at, now int64) time.Duration {
	left := time.Duration(at-now) * time.Millisecond
	if left > 2*r.Longest {
		return 0
	}
	return left
}

// pause is how long to wait after so many failures: three times as long after each,
// spread by a fifth, or as long as the receiver asks for.
func (r Retry) pause(failures int, err error) time.Duration {
	d := r.First
	for i := 1; i < failures && d < r.Longest; i++ {
		d *= 3
	}
	d = min(d, r.Longest)
	d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d))
	var v *refusal
	if errors.As(err, &v) {
		d = max(d, min(v.after, r.Longest))
	}
	return d
}

// failed is a message after an attempt that failed. It is dead after a day, or when
// the receiver says that it is gone for good.
func (r Retry) failed(d fleet.WebhookDelivery, err error, now int64) fleet.WebhookDelivery {
	d.Attempts++
	d.Error, d.Next = fleet.CleanLine(err.Error(), 300), now+r.pause(d.Attempts, err).Milliseconds()
	var v *refusal
	if gone := errors.As(err, &v) && v.status == http.StatusGone; gone || now-d.Queued >= r.GiveUp.Milliseconds() {
		d.Dead, d.Next = true, now
	}
	return d
}

// Test sends a message of the action webhook.test at once, whatever the webhook's
// events are, and says how the receiver answered. The error's code is NotFound.
func (s *Sender) Test(ctx context.Context, id, actor string) (api.WebhookTest, error) {
	h, err := s.named(id)
	if err != nil {
		return api.WebhookTest{}, err
	}
	begin := s.Loop.Clock.Now()
	m := api.WebhookMessage{
		ID: id + "-test-" + randomID(), FleetID: s.FleetID(), Audit: s.Loop.Store.Committed(),
		Event: fleet.AuditEvent{At: begin.UnixMilli(), Actor: actor, Action: actionTest, Subject: "webhook:" + id},
	}
	status, err := s.client.send(ctx, h, s.secret(id), m, begin)
	out := api.WebhookTest{Delivered: err == nil, Status: status, TookMs: s.Loop.Clock.Now().Sub(begin).Milliseconds()}
	if err != nil {
		out.Error = err.Error()
	}
	// The same call again is told the same, and sends nothing.
	err = s.Loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		return once.Do(ctx, p.Tx, &out, func() error { return nil })
	})
	return out, err
}

// seqOf is the audit entry that a message of a webhook is about.
func seqOf(webhook, message string) (int64, error) {
	rest, ours := strings.CutPrefix(message, webhook+"-")
	number, _, _ := strings.Cut(rest, "-")
	seq, err := strconv.ParseInt(number, 10, 64)
	if !ours || err != nil || seq <= 0 {
		return 0, fleet.Errorf(fleet.Invalid, "%.80q is not a message of webhook %s", message, webhook).WithHint("nixfleet webhook deadletters %s shows them", webhook)
	}
	return seq, nil
}
