// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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
	"github.com/arcanesys/nixfleet/internal/trust"
)

// fakePlane answers as it is told to.
type fakePlane struct {
	mu      sync.Mutex
	times   []time.Time
	checkIn func(n int, c api.CheckIn) (api.Orders, error)
	reports func([]fleet.Report) (api.ReportsReply, error)
	roots   map[uint64][]byte
	docs    map[fleet.Digest][]byte
}

func (p *fakePlane) CheckIn(ctx context.Context, c api.CheckIn) (api.Orders, error) {
	p.mu.Lock()
	p.times = append(p.times, time.Now())
	n := len(p.times)
	p.mu.Unlock()
	o, err := p.checkIn(n, c)
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
func (p *fakePlane) Release(context.Context, fleet.Digest) ([]byte, error) { return nil, errDown }
func (p *fakePlane) Document(_ context.Context, d fleet.Digest) ([]byte, error) {
	if b, ok := p.docs[d]; ok {
		return b, nil
	}
	return nil, errDown
}
func (p *fakePlane) Root(_ context.Context, version uint64) ([]byte, error) {
	if b, ok := p.roots[version]; ok {
		return b, nil
	}
	return nil, fleet.Errorf(fleet.NotFound, "no root version %d", version)
}

var errDown = fleet.Errorf(fleet.Unavailable, "the control plane is down")

func testWorld(t *testing.T, p controlPlane) *world {
	t.Helper()
	dir := t.TempDir()
	outbox, err := disk.OpenOutbox(filepath.Join(dir, "outbox"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		cfg: config.Agent{MachineID: "web-01", Line: "main", StateDir: dir, RunDir: dir, ControlPlane: config.AgentControlPlane{PollSeconds: 60, LongPollSeconds: 55}},
		cp:  p, orders: newOrders(), outbox: outbox, history: disk.History{File: filepath.Join(dir, "history.jsonl")}, log: slog.New(slog.DiscardHandler),
		snapshot: &snapshot{moved: make(chan struct{}, 1)}, contact: &contact{},
		notBefore: map[string]time.Time{}, delay: map[string]time.Duration{}, notBeforeDoc: map[fleet.Digest]time.Time{},
	}
	w.engine = &engine{report: outbox.Put, effects: w, machine: "web-01", log: w.log}
	return w
}

func gaps(times []time.Time) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(times); i++ {
		out = append(out, times[i].Sub(times[i-1]))
	}
	return out
}

// pollFor polls for a while and returns when it asked.
func pollFor(t *testing.T, d time.Duration, edit func(*world), answer func(n int, c api.CheckIn) (api.Orders, error)) (asked []time.Duration) {
	t.Helper()
	p := &fakePlane{checkIn: answer}
	w := testWorld(t, p)
	if edit != nil {
		edit(w)
	}
	synctest.Test(t, func(t *testing.T) {
		w.orders, w.snapshot = newOrders(), &snapshot{moved: make(chan struct{}, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		w.poll(ctx)
		asked = gaps(p.times)
	})
	return asked
}

// A16: back-off that grows and is spread, and what the control plane asks for
// is obeyed.
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
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: srv.URL, TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	_, busy := c.CheckIn(t.Context(), api.CheckIn{})
	if after, ok := api.RetryAfter(busy); !ok || after != 7*time.Second {
		t.Fatalf("retry after %s, %t: %v", after, ok, busy)
	}
	for _, d := range pollFor(t, 5*time.Minute, nil, func(int, api.CheckIn) (api.Orders, error) { return api.Orders{}, busy }) {
		if d < 7*time.Second || d > 10*time.Second {
			t.Errorf("asked again after %s, told to wait 7 s", d)
		}
	}
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
			w := testWorld(t, p)
			w.poll(ctx)
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
	plain := pollFor(t, 10*time.Minute, func(w *world) { w.cfg.ControlPlane.LongPollSeconds = 0 }, func(_ int, c api.CheckIn) (api.Orders, error) {
		if c.WaitMs != 0 {
			t.Errorf("a plain poll asks to be held for %d ms", c.WaitMs)
		}
		return api.Orders{Etag: "1"}, nil
	})
	for _, d := range plain {
		if d < 30*time.Second || d > time.Minute {
			t.Errorf("plain polls %s apart", d)
		}
	}
}

func TestPoll_TellsAtOnceWhenTheStateMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePlane{}
		var said []fleet.AgentState
		p.checkIn = func(_ int, c api.CheckIn) (api.Orders, error) {
			said = append(said, c.State)
			return api.Orders{Etag: "1"}, nil
		}
		w := testWorld(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.poll(ctx); close(done) }()
		wait.For(ctx, 20*time.Second) // in the bubble: until the second poll is held
		j := states.New()
		j.Step, j.Work = states.Fetch, &states.Work{}
		w.snapshot.set(j)
		synctest.Wait()
		wait.For(ctx, time.Second)
		cancel()
		<-done
		if d := cmp.Diff(said, []fleet.AgentState{"idle", "idle", "fetching"}); d != "" {
			t.Errorf("-got +want:\n%s", d)
		}
	})
}

// H05: what the control plane shows of a machine's health is not as old as a
// long poll; a check that says the same again is no news.
func TestPoll_TellsAtOnceWhenTheHealthChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePlane{}
		var said []fleet.Health
		p.checkIn = func(_ int, c api.CheckIn) (api.Orders, error) {
			said = append(said, fleet.HealthOf(c.Checks))
			return api.Orders{Etag: "1"}, nil
		}
		w := testWorld(t, p)
		w.checked([]fleet.HealthCheckResult{{Name: "app", Required: true, Status: fleet.HealthCheckPending}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.poll(ctx); close(done) }()
		wait.For(ctx, 20*time.Second) // in the bubble: until the second poll is held
		for _, s := range []fleet.HealthCheckStatus{fleet.HealthCheckPending, fleet.HealthCheckPassing, fleet.HealthCheckPassing, fleet.HealthCheckFailing} {
			w.checked([]fleet.HealthCheckResult{{Name: "app", Required: true, Status: s}})
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
		for _, x := range r[:min(len(r), 3)] { // it may take a part only
			got = append(got, x.ID)
			ack.Accepted = append(ack.Accepted, x.ID)
		}
		return ack, nil
	}}
	w := testWorld(t, p)
	var want []string
	for i := range 10 {
		id := fmt.Sprint("r", i)
		want = append(want, id)
		if err := w.outbox.Put(fleet.Report{ID: id, Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { w.deliver(ctx); close(done) }()
	for deadline := time.Now().Add(30 * time.Second); w.outbox.Len() > 0 && time.Now().Before(deadline); {
		wait.For(ctx, time.Millisecond)
	}
	cancel()
	<-done
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
}

// An outcome that the control plane lost is told again.
func TestRepeat_QueuesTheOutcomeOfAnOrderThatIsGivenAgain(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	r := fleet.Report{ID: "x", Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Rollout: "r1", Attempt: 1, Digest: simOrder.Digest}
	if err := w.history.Add(r); err != nil {
		t.Fatal(err)
	}
	j := states.New()
	j.Done = []string{simOrder.Key()}
	for range 3 {
		w.repeat(j, states.Orders{Apply: &simOrder.Order})
	}
	if n := w.outbox.Len(); n != 1 {
		t.Errorf("%d reports queued, want 1", n)
	}
}

func TestHeld_NamesTheHoldUntilItIsTooOld(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	if got := held(filepath.Join(dir, "none"), now); got != "" {
		t.Errorf("no folder: %q", got)
	}
	file := filepath.Join(dir, "backup")
	if err := os.WriteFile(file, []byte("restic runs\nmore"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := held(dir, now); got != "held-locally: backup: restic runs" {
		t.Errorf("hold = %q", got)
	}
	if got := held(dir, now.Add(25*time.Hour)); got != "" {
		t.Errorf("after a day: %q", got)
	}
}

// A17: a floor is adopted when a person says so, and only when none is known.
func TestAdopted_TakesUpWhatThePersonLeft(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	if err := requestFloor(w.cfg, floorAt(7)); err != nil {
		t.Fatal(err)
	}
	in := w.adopted(states.New())
	j := states.Next(states.New(), in, states.Moment{})
	if j.Trust.Floor == nil || j.Trust.Floor.Lines["main"].Sequence != 7 {
		t.Fatalf("floor = %+v", j.Trust.Floor)
	}
	if w.adopted(states.New()) != nil {
		t.Error("adopted twice")
	}
	if err := requestFloor(w.cfg, floorAt(1)); err != nil {
		t.Fatal(err)
	}
	if in := w.adopted(j); in != nil {
		t.Errorf("a floor that is known was given up: %+v", in)
	}
}

func floorAt(n fleet.Sequence) trust.Floor {
	return trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: n}}}
}

func TestWindowOpen(t *testing.T) {
	for _, tc := range []struct {
		window, at string
		want       bool
	}{
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T02:00:00Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T03:59:59Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T04:00:01Z", false},
		{"0 3 * * * 2h Europe/Paris", "2026-07-24T01:30:00Z", true}, // summer time
		{"0 3 * * * 2h", "2026-11-24T02:30:00Z", false},
		{"0 23 * * 6 4h", "2026-11-29T02:00:00Z", true}, // Saturday's goes on into Sunday
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := windowOpen(tc.window, at); err != nil || got != tc.want {
			t.Errorf("%s at %s: %t, %v; want %t", tc.window, tc.at, got, err, tc.want)
		}
	}
	for _, bad := range []string{"", "0 3 * * *", "0 3 * * * soon", "0 3 * * * 2h Mars/Olympus", "x 3 * * * 2h"} {
		if _, err := windowOpen(bad, time.Now()); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
}

func TestMetrics_AreTextThatPrometheusReads(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	w.version = "1.2 \"x\"\n"
	w.checks.Store(&[]fleet.HealthCheckResult{{Name: "app", Kind: fleet.HealthCheckUnit, Status: fleet.HealthCheckPassing, Required: true, DurationMs: 12}})
	w.contact.ok(time.Unix(1000, 0))
	w.contact.fail(errors.New("x"))
	text := string(w.metrics())
	for _, want := range []string{
		"nixfleet_agent_state{state=\"idle\"} 1\n", "nixfleet_agent_state{state=\"fetching\"} 0\n", `version="1.2 \"x\"\n"`,
		"nixfleet_agent_polls_total{result=\"failed\"} 1\n", "nixfleet_agent_last_contact_seconds 1000\n",
		"nixfleet_agent_check_passing{check=\"app\",kind=\"unit\",required=\"true\"} 1\n", "nixfleet_agent_check_duration_seconds{check=\"app\"} 0.012\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestCheckIn_SaysWhatTheControlPlaneWants(t *testing.T) {
	w := testWorld(t, &fakePlane{})
	w.orders.set(api.Orders{Etag: "7", Epoch: "e"})
	c := w.checkIn(time.Minute)
	if c.Machine != "web-01" || c.Have != "7" || c.Epoch != "e" || c.WaitMs != 60_000 || c.BootID == "" || !c.System.Valid() {
		b, _ := json.Marshal(c) // to be shown
		t.Errorf("check-in = %s", b)
	}
}
