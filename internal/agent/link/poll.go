// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"errors"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// poll asks for orders until ctx ends: by long polls where the control plane
// holds them, with back-off where it does not answer (A09, A16).
func (l *Link) poll(ctx context.Context, p controlPlane) {
	every := time.Duration(l.Agent.ControlPlane.PollSeconds * float64(time.Second))
	long := time.Duration(l.Agent.ControlPlane.LongPollSeconds * float64(time.Second))
	if !wait.For(ctx, wait.Spread(min(every/10, 6*time.Second))) { // machines may boot at the same time
		return
	}
	failures, waits := 0, backOff(every)
	var a asker
	defer a.calls.Wait()
	for ctx.Err() == nil {
		before, _ := l.reply()
		begin := time.Now()
		hold, carried := a.plan(l, long)
		orders, err := a.ask(ctx, l, p, hold, carried)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNews), errors.Is(err, errNotCarried):
			continue
		case err != nil:
			failures++
			d := waits.NextBackOff()
			if after, ok := api.RetryAfter(err); ok {
				d = wait.Asked(after)
			}
			if failures == 1 || failures%20 == 0 {
				l.Log.Warn("the control plane does not answer", "error", err, "hint", fleet.ErrorHint(err), "failures", failures, "next", d.Round(time.Millisecond))
			}
			l.failed()
			if !wait.For(ctx, d) {
				return
			}
			continue
		}
		if failures > 0 {
			l.Log.Info("the control plane answers again", "failures", failures)
			failures = 0
			waits.Reset()
		}
		orders, left := bounded(orders)
		if len(left) > 0 {
			l.Log.Warn("the control plane gives orders that are not valid", "leftOut", left)
		}
		l.leaveOut(left)
		l.answered(orders, time.Now())
		if long > 0 && orders.WaitMs > 0 {
			long = time.Duration(orders.WaitMs) * time.Millisecond
		}
		d := a.settles()
		unheld := orders.Etag == before.Etag && time.Since(begin) < long/2 // do not spin if polls are not held
		if hold == long && (long == 0 || unheld) {
			d = unheldWait(every, orders)
		}
		if !l.waitForNews(ctx, max(d, 20*time.Millisecond), a.told) {
			return
		}
	}
}

// unheldWait is how long to wait after a check-in that was not held.
func unheldWait(every time.Duration, o api.Orders) time.Duration {
	if o.PollAfterMs > 0 {
		every = time.Duration(o.PollAfterMs) * time.Millisecond
	}
	return wait.Spread(every)
}

var (
	errNews       = errors.New("the machine has news")
	errNotCarried = errors.New("the control plane takes no reports with a check-in")
)

// settleTime is for how long a machine at work has no check-in held after news of it:
// more of them may follow soon, and a held one would take a second connection then.
const settleTime = 5 * time.Second

// A held check-in is answered at once when a newer one begins. One that is not is
// cut after supersededTime, and before a third one begins.
const (
	supersededTime = 5 * time.Second
	thirdWaits     = 250 * time.Millisecond
)

// asker makes check-ins, one after the other. One that is held when there is news
// is not cut, which would cost its connection: it ends when the next one begins.
type asker struct {
	calls sync.WaitGroup
	told  news      // by the last check-in
	since time.Time // that it is so
	posts time.Time // until then, reports are sent by themselves
	// The call that a newer one took the place of; nil without one.
	superseded <-chan struct{} // closed when it has ended
	cut        func()
}

// plan says for how long the next check-in may be held, of at most long, and which
// reports go with it. Until ask is done with those, nothing else sends reports.
func (a *asker) plan(l *Link, long time.Duration) (hold time.Duration, carried []fleet.Report) {
	if n := l.news(); n != a.told {
		a.told, a.since = n, time.Now()
	}
	if time.Now().After(a.posts) {
		carried = l.carry()
	}
	if len(carried) > 0 || a.settles() > 0 {
		return 0, carried
	}
	return long, nil
}

// settles is for how long more news of a machine at work may follow soon.
func (a *asker) settles() time.Duration {
	if a.told.state == fleet.AgentIdle {
		return 0
	}
	return max(0, settleTime-time.Since(a.since))
}

// ask makes one check-in. It returns errNews when there is news while it is held;
// what it is answered then is left to the next. It returns errNotCarried when the
// check-in is refused and carried reports: the next is to carry none.
func (a *asker) ask(ctx context.Context, l *Link, p controlPlane, long time.Duration, carried []fleet.Report) (api.Orders, error) {
	type answer struct {
		orders api.Orders
		err    error
	}
	told, in := l.news(), l.checkIn(long)
	in.Reports = carried
	answered, ended := make(chan answer, 1), make(chan struct{})
	call, cancel := context.WithCancel(ctx)
	a.calls.Go(func() {
		defer close(ended)
		defer cancel()
		from := ""
		orders, err := p.CheckIn(traced(call, &from), in)
		if err == nil {
			l.took(in.Inventory, from)
		}
		if len(carried) > 0 {
			err = a.delivered(l, carried, orders.Reports, err)
			<-l.sending
		}
		answered <- answer{orders, err}
	})
	var changed <-chan struct{}
	if long > 0 {
		changed = l.Machine.Changed()
	}
	for {
		select {
		case v := <-answered:
			return v.orders, v.err
		case <-changed:
		}
		if l.news() == told {
			continue
		}
		if a.superseded != nil { // two at once are enough
			late := time.AfterFunc(thirdWaits, a.cut)
			<-a.superseded
			late.Stop()
		}
		a.superseded, a.cut = ended, cancel
		time.AfterFunc(supersededTime, cancel)
		return api.Orders{}, errNews
	}
}

// traced has the local address of a call's connection noted.
func traced(ctx context.Context, from *string) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if a, err := netip.ParseAddrPort(c.Conn.LocalAddr().String()); err == nil {
			*from = a.Addr().Unmap().WithZone("").String()
		}
	}})
}

// waitForNews waits for d, or until there is other news than what was told. It reports
// whether ctx lasted.
func (l *Link) waitForNews(ctx context.Context, d time.Duration, told news) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for l.news() == told {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-l.Machine.Changed():
		}
	}
	return true
}
