// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// fakePlane answers as a test tells it to.
type fakePlane struct {
	mu      sync.Mutex
	times   []time.Time
	checkIn func(n int, c api.CheckIn) (api.Orders, error) // called by one at a time; a newer check-in begins before the older has ended
	reports func([]fleet.Report) (api.ReportsReply, error)
	roots   map[uint64][]byte
}

func (p *fakePlane) CheckIn(ctx context.Context, c api.CheckIn) (api.Orders, error) {
	p.mu.Lock()
	p.times = append(p.times, time.Now())
	o, err := p.checkIn(len(p.times), c)
	p.mu.Unlock()
	if err == nil && o.Etag == c.Have && c.WaitMs > 0 && o.Etag != "" {
		if !wait.For(ctx, time.Duration(c.WaitMs)*time.Millisecond) {
			return api.Orders{}, ctx.Err()
		}
	}
	return o, err
}

func (p *fakePlane) Reports(_ context.Context, r []fleet.Report) (api.ReportsReply, error) {
	return p.reports(r)
}
func (p *fakePlane) Release(context.Context, fleet.Digest) ([]byte, error)  { return nil, errDown }
func (p *fakePlane) Document(context.Context, fleet.Digest) ([]byte, error) { return nil, errDown }
func (p *fakePlane) Root(_ context.Context, version uint64) ([]byte, error) {
	if b, ok := p.roots[version]; ok {
		return b, nil
	}
	return nil, fleet.Errorf(fleet.NotFound, "no root version %d", version)
}

var errDown = fleet.Errorf(fleet.Unavailable, "the control plane is down")

// fakeMachine is a machine in whatever state a test gives it.
type fakeMachine struct {
	mu      sync.Mutex
	journal states.Journal
	checks  []fleet.HealthCheckResult
	changed chan struct{}

	inventory fleet.Inventory
}

func (m *fakeMachine) System() fleet.System { return "x86_64-linux" }
func (m *fakeMachine) Seen() states.Seen {
	return states.Seen{Machine: "web-01", At: states.Moment{BootID: "boot-1"}}
}

func (m *fakeMachine) Journal() states.Journal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.journal
}

func (m *fakeMachine) Checks() []fleet.HealthCheckResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.checks
}

func (m *fakeMachine) Inventory() fleet.Inventory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inventory
}

func (m *fakeMachine) Changed() <-chan struct{} { return m.changed }

func (m *fakeMachine) set(f func()) {
	m.mu.Lock()
	f()
	m.mu.Unlock()
	m.changed <- struct{}{}
}

func (m *fakeMachine) checked(r []fleet.HealthCheckResult) { m.set(func() { m.checks = r }) }

func testLink(t *testing.T) (*Link, *fakeMachine) {
	t.Helper()
	outbox, err := disk.OpenOutbox(filepath.Join(t.TempDir(), "outbox"))
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMachine{journal: states.New(), changed: make(chan struct{}, 1)}
	return New(Config{
		Agent:   config.Agent{MachineID: "web-01", Line: "main", ControlPlane: config.AgentControlPlane{PollSeconds: 60, LongPollSeconds: 55}},
		Machine: m, Outbox: outbox, Log: slog.New(slog.DiscardHandler),
	}), m
}

func gaps(times []time.Time) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(times); i++ {
		out = append(out, times[i].Sub(times[i-1]))
	}
	return out
}

// pollFor polls for a while and returns when it asked.
func pollFor(t *testing.T, d time.Duration, edit func(*Link), answer func(n int, c api.CheckIn) (api.Orders, error)) (asked []time.Duration) {
	t.Helper()
	p := &fakePlane{checkIn: answer}
	synctest.Test(t, func(t *testing.T) {
		l, _ := testLink(t)
		if edit != nil {
			edit(l)
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		l.poll(ctx, p)
		asked = gaps(p.times)
	})
	return asked
}

// A16: the back-off grows and is spread, and Retry-After is obeyed.
func TestPoll_BacksOffAndObeysRetryAfter(t *testing.T) {
	got := pollFor(t, 30*time.Minute, nil, func(int, api.CheckIn) (api.Orders, error) { return api.Orders{}, errDown })
	if len(got) < 5 || len(got) > 40 {
		t.Fatalf("%d tries in half an hour without an answer", len(got))
	}
	for i, d := range got {
		limit := min(time.Second<<min(i, 10), 5*time.Minute)
		if d < limit/2 || d > limit {
			t.Errorf("gap %d is %s, want between half of %s and it", i, d, limit)
		}
	}
	later := askedToWait(t, http.StatusServiceUnavailable)
	for _, d := range pollFor(t, 5*time.Minute, nil, func(int, api.CheckIn) (api.Orders, error) { return api.Orders{}, later }) {
		if d < 7*time.Second || d > 10*time.Second {
			t.Errorf("asked again after %s, told to wait 7 s", d)
		}
	}
}

// askedToWait is the error of a call that a control plane answers with status
// and a Retry-After of 7 s.
func askedToWait(t *testing.T, status int) error {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: srv.URL, TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	_, later := c.CheckIn(t.Context(), api.CheckIn{})
	if after, ok := api.RetryAfter(later); !ok || after != 7*time.Second || !fleet.ErrorCode(later).Temporary() {
		t.Fatalf("retry after %s, %t: %v", after, ok, later)
	}
	return later
}

// A16: machines that boot together do not ask together.
func TestPoll_BeginsAtARandomMoment(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 5 {
		var first time.Duration
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			p := &fakePlane{}
			ctx, cancel := context.WithCancel(t.Context())
			p.checkIn = func(int, api.CheckIn) (api.Orders, error) {
				first = time.Since(begin)
				cancel()
				return api.Orders{}, nil
			}
			l, _ := testLink(t)
			l.poll(ctx, p)
		})
		if first <= 0 || first > 6*time.Second {
			t.Errorf("first check-in after %s", first)
		}
		seen[first] = true
	}
	if len(seen) == 1 {
		t.Error("always at the same moment")
	}
}

func TestPoll_HoldsLongPollsAndDoesNotSpinWithoutThem(t *testing.T) {
	held := pollFor(t, 10*time.Minute, nil, func(int, api.CheckIn) (api.Orders, error) { return api.Orders{Etag: "1"}, nil })
	for _, d := range held[1:] {
		if d < 55*time.Second || d > 56*time.Second {
			t.Errorf("held polls %s apart", d)
		}
	}
	for name, answer := range map[string]func(int, api.CheckIn) (api.Orders, error){
		"no etag": func(int, api.CheckIn) (api.Orders, error) { return api.Orders{PollAfterMs: 30_000}, nil },
	} {
		for _, d := range pollFor(t, 10*time.Minute, nil, answer) {
			if d < 15*time.Second || d > 30*time.Second {
				t.Errorf("%s: polls %s apart, want 15 to 30 s", name, d)
			}
		}
	}
	// A plain poller announces its own interval, or the one that it was given.
	for _, given := range []int64{0, 20_000} {
		every := int64(60_000)
		plain := pollFor(t, 10*time.Minute, func(l *Link) { l.Agent.ControlPlane.LongPollSeconds = 0 }, func(_ int, c api.CheckIn) (api.Orders, error) {
			if c.WaitMs != 0 || c.PollMs != every {
				t.Errorf("a plain poll asks to be held for %d ms and announces %d ms, want %d", c.WaitMs, c.PollMs, every)
			}
			if given > 0 {
				every = given
			}
			return api.Orders{Etag: "1", PollAfterMs: given}, nil
		})
		for _, d := range plain {
			if d < time.Duration(every/2)*time.Millisecond || d > time.Duration(every)*time.Millisecond {
				t.Errorf("plain polls %s apart", d)
			}
		}
	}
}

func TestPoll_TellsAtOnceWhenTheStateChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePlane{}
		var said []fleet.AgentState
		p.checkIn = func(_ int, c api.CheckIn) (api.Orders, error) {
			said = append(said, c.State)
			return api.Orders{Etag: "1"}, nil
		}
		l, m := testLink(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.poll(ctx, p); close(done) }()
		wait.For(ctx, 20*time.Second) // in the bubble: until the second poll is held
		j := states.New()
		j.Step, j.Work = states.Fetch, &states.Work{}
		m.set(func() { m.journal = j })
		synctest.Wait()
		wait.For(ctx, time.Second)
		cancel()
		<-done
		if d := cmp.Diff(said, []fleet.AgentState{"idle", "idle", "fetching"}); d != "" {
			t.Errorf("-got +want:\n%s", d)
		}
	})
}

// H05: a change of health does not wait for the end of a long poll. The same
// result again is no news.
func TestPoll_TellsAtOnceWhenTheHealthChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePlane{}
		var said []fleet.Health
		p.checkIn = func(_ int, c api.CheckIn) (api.Orders, error) {
			said = append(said, fleet.HealthOf(c.Checks))
			return api.Orders{Etag: "1"}, nil
		}
		l, m := testLink(t)
		m.checked([]fleet.HealthCheckResult{{Name: "app", Required: true, Status: fleet.HealthCheckPending}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.poll(ctx, p); close(done) }()
		wait.For(ctx, 20*time.Second) // in the bubble: until the second poll is held
		for _, s := range []fleet.HealthCheckStatus{fleet.HealthCheckPending, fleet.HealthCheckPassing, fleet.HealthCheckPassing, fleet.HealthCheckFailing} {
			m.checked([]fleet.HealthCheckResult{{Name: "app", Required: true, Status: s}})
			wait.For(ctx, time.Second)
		}
		cancel()
		<-done
		if d := cmp.Diff(said, []fleet.Health{"pending", "pending", "healthy", "unhealthy"}); d != "" {
			t.Errorf("-got +want:\n%s", d)
		}
	})
}

// A09: sent in order, once each, as often as it takes.
func TestDeliver_SendsInOrderUntilAcknowledged(t *testing.T) {
	var got []string
	n := 0
	p := &fakePlane{reports: func(r []fleet.Report) (api.ReportsReply, error) {
		if n++; n < 4 {
			return api.ReportsReply{}, errDown
		}
		var ack api.ReportsReply
		for _, x := range r[:min(len(r), 3)] { // it may accept only some
			got = append(got, x.ID)
			ack.Accepted = append(ack.Accepted, x.ID)
		}
		return ack, nil
	}}
	l, _ := testLink(t)
	var want []string
	for i := range 10 {
		id := fmt.Sprint("r", i)
		want = append(want, id)
		if err := l.Outbox.Put(fleet.Report{ID: id, Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { l.deliver(ctx, p); close(done) }()
	for deadline := time.Now().Add(30 * time.Second); l.Outbox.Len() > 0 && time.Now().Before(deadline); {
		wait.For(ctx, time.Millisecond)
	}
	cancel()
	<-done
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
}

// delivering delivers 40 reports to a control plane that answers as it is told,
// and returns how many came each time, and how long all took.
func delivering(t *testing.T, answer func(call int, r []fleet.Report) error) (sizes []int, took time.Duration) {
	t.Helper()
	const queued = 40
	synctest.Test(t, func(t *testing.T) {
		var got []string
		p := &fakePlane{reports: func(r []fleet.Report) (api.ReportsReply, error) {
			sizes = append(sizes, len(r))
			if err := answer(len(sizes), r); err != nil {
				return api.ReportsReply{}, err
			}
			var ack api.ReportsReply
			for _, x := range r {
				got = append(got, x.ID)
			}
			ack.Accepted = got[len(got)-len(r):]
			return ack, nil
		}}
		l, _ := testLink(t)
		for i := range queued {
			if err := l.Outbox.Put(fleet.Report{ID: fmt.Sprint("r", i), Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			for l.Outbox.Len() > 0 && wait.For(ctx, time.Millisecond) {
			}
			took = time.Since(begin)
			cancel()
		}()
		l.deliver(ctx, p)
		if len(got) != queued || got[0] != "r0" || got[queued-1] != "r39" {
			t.Errorf("%d reports arrived: %v", len(got), got)
		}
	})
	return sizes, took
}

// A16: a machine that is over its budget waits as long as it is told, and loses
// nothing.
func TestDeliver_WaitsWhenItIsOverItsBudget(t *testing.T) {
	later := askedToWait(t, http.StatusTooManyRequests)
	sizes, took := delivering(t, func(call int, _ []fleet.Report) error {
		if call <= 2 {
			return later
		}
		return nil
	})
	if !cmp.Equal(sizes, []int{32, 32, 32, 8}) || took < 14*time.Second || took > 15*time.Second {
		t.Errorf("sent %v in %s, want 32, 32, 32, 8 in 14 s", sizes, took)
	}
}

// A15: reports that are too large together are sent in smaller parts.
func TestDeliver_SendsFewerWhenTheyAreTooLarge(t *testing.T) {
	sizes, took := delivering(t, func(_ int, r []fleet.Report) error {
		if len(r) > 10 {
			return fleet.Errorf(fleet.TooLarge, "request has more than 8 MiB")
		}
		return nil
	})
	if want := []int{32, 16, 8, 32, 16, 8, 24, 12, 6, 18, 9, 9}; !cmp.Equal(sizes, want) || took > time.Second {
		t.Errorf("sent %v in %s, want %v at once", sizes, took, want)
	}
}

// A control plane of another version refuses one report, by itself or with all that
// came with it: the others arrive, and that one is set aside.
func TestDeliver_SetsAsideWhatTheControlPlaneDoesNotTake(t *testing.T) {
	for name, refuse := range map[string]func([]fleet.Report, *api.ReportsReply) error{
		"by id": func(_ []fleet.Report, ack *api.ReportsReply) error {
			ack.Rejected, ack.Reasons = []string{"r7"}, map[string]string{"r7": "bad kind"}
			return nil
		},
		"the request": func([]fleet.Report, *api.ReportsReply) error { return fleet.Errorf(fleet.Invalid, "unknown field") },
		"too large":   func([]fleet.Report, *api.ReportsReply) error { return fleet.Errorf(fleet.TooLarge, "too large") },
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []string
			p := &fakePlane{reports: func(r []fleet.Report) (api.ReportsReply, error) {
				var ack api.ReportsReply
				if slices.ContainsFunc(r, func(x fleet.Report) bool { return x.ID == "r7" }) {
					if err := refuse(r, &ack); err != nil {
						return ack, err
					}
				}
				for _, x := range r {
					if !slices.Contains(ack.Rejected, x.ID) {
						got, ack.Accepted = append(got, x.ID), append(ack.Accepted, x.ID)
					}
				}
				return ack, nil
			}}
			l, _ := testLink(t)
			for i := range 20 {
				if err := l.Outbox.Put(fleet.Report{ID: fmt.Sprint("r", i), Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			go func() {
				for l.Outbox.Len() > 0 && wait.For(ctx, time.Millisecond) {
				}
				cancel()
			}()
			l.deliver(ctx, p)
			kept, err := l.Outbox.SetAside()
			if len(got) != 19 || l.Outbox.Len() != 0 || kept != (disk.SetAside{Kept: 1, Total: 1}) || err != nil {
				t.Errorf("%s: %d arrived, %d queued, %+v set aside, %v", name, len(got), l.Outbox.Len(), kept, err)
			}
		})
	}
}

func TestCheckIn_SaysWhatTheControlPlaneWants(t *testing.T) {
	l, _ := testLink(t)
	l.answered(api.Orders{Etag: "7", Epoch: "e"}, time.Now())
	c := l.checkIn(time.Minute)
	if c.Machine != "web-01" || c.Have != "7" || c.Epoch != "e" || c.WaitMs != 60_000 || c.BootID == "" || !c.System.Valid() {
		b, _ := json.Marshal(c) // to be shown
		t.Errorf("check-in = %s", b)
	}
}

// Before there is an identity the agent works as well: requests to the control
// plane fail until then.
func TestLink_IsUnavailableUntilTheMachineIsEnrolled(t *testing.T) {
	l, _ := testLink(t)
	ask := func() []error {
		_, release := l.Release(t.Context(), "d")
		_, document := l.Document(t.Context(), "d")
		_, roots := l.RootsAfter(t.Context(), 1)
		return []error{release, document, roots, l.Answers(t.Context())}
	}
	for _, err := range ask() {
		if fleet.ErrorCode(err) != fleet.Unavailable {
			t.Errorf("before: %v, want unavailable", err)
		}
	}
	if _, given := l.Orders(); given {
		t.Error("orders without a control plane")
	}
	l.connected(&fakePlane{roots: map[uint64][]byte{2: []byte("2"), 3: []byte("3")}, checkIn: func(int, api.CheckIn) (api.Orders, error) { return api.Orders{}, nil }})
	if err := l.Answers(t.Context()); err != nil {
		t.Errorf("after: %v", err)
	}
	if roots, err := l.RootsAfter(t.Context(), 1); err != nil || len(roots) != 2 {
		t.Errorf("roots %q, %v", roots, err)
	}
}
