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
		orders, err := a.ask(ctx, l, p, long)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNews):
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
		d := time.Duration(0)
		unheld := orders.Etag == before.Etag && time.Since(begin) < long/2 // do not spin if polls are not held
		if long == 0 || unheld {
			if d = every; orders.PollAfterMs > 0 {
				d = time.Duration(orders.PollAfterMs) * time.Millisecond
			}
			d = wait.Spread(d)
		}
		if !l.waitForNews(ctx, max(d, 20*time.Millisecond)) {
			return
		}
	}
}

var errNews = errors.New("the machine has news")

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
	// The call that a newer one took the place of; nil without one.
	superseded <-chan struct{} // closed when it has ended
	cut        func()
}

// ask makes one check-in. It returns errNews when there is news while it is held;
// what it is answered then is left to the next.
func (a *asker) ask(ctx context.Context, l *Link, p controlPlane, long time.Duration) (api.Orders, error) {
	type answer struct {
		orders api.Orders
		err    error
	}
	told, in := l.news(), l.checkIn(long)
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

// waitForNews waits for d, or until there may be news. It reports whether ctx
// lasted.
func (l *Link) waitForNews(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-l.Machine.Changed():
	}
	return true
}
