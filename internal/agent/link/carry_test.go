// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// at gives the machine a step, and queues what it reports of it before, as the agent does.
func (m *fakeMachine) at(t *testing.T, l *Link, step states.Step, report string) {
	t.Helper()
	if err := l.Outbox.Put(fleet.Report{ID: report, Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
		t.Error(err)
	}
	j := states.New()
	if step != states.Idle {
		j.Step, j.Work = step, &states.Work{}
	}
	m.set(func() { m.journal = j })
}

// accepted acknowledges reports.
func accepted(reports []fleet.Report) *api.ReportsReply {
	var ack api.ReportsReply
	for _, r := range reports {
		ack.Accepted = append(ack.Accepted, r.ID)
	}
	return &ack
}

// A09: reports go with the check-ins that tell the same, which are answered at once.
// A control plane that takes none so, because it is of the version before or refuses
// such a check-in, gets them by themselves. Each arrives once, in order.
func TestPoll_CarriesReports(t *testing.T) {
	type call struct {
		Held   bool
		State  fleet.AgentState
		Report string
	}
	first := call{true, "idle", ""}
	for name, test := range map[string]struct {
		take    func(api.CheckIn, *api.Orders) error
		calls   []call
		reports []string // by themselves
	}{
		"taken in": {
			func(c api.CheckIn, o *api.Orders) error { o.Reports = accepted(c.Reports); return nil },
			[]call{first, first, {false, "fetching", "r1"}, {false, "applying", "r2"}, {true, "applying", ""}, {false, "idle", "r3"}, first}, nil,
		},
		"version before": {
			func(api.CheckIn, *api.Orders) error { return nil },
			[]call{first, first, {false, "fetching", "r1"}, {false, "applying", ""}, {true, "applying", ""}, first}, []string{"r1", "r2", "r3"},
		},
		"refused": {
			func(c api.CheckIn, _ *api.Orders) error {
				if len(c.Reports) > 0 {
					return fleet.Errorf(fleet.Invalid, "unknown field")
				}
				return nil
			},
			[]call{first, first, {false, "fetching", "r1"}, {false, "fetching", ""}, {false, "applying", ""}, {true, "applying", ""}, first}, []string{"r1", "r2", "r3"},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var calls []call
			var posted []string
			p := &fakePlane{reports: func(r []fleet.Report) (api.ReportsReply, error) {
				posted = append(posted, accepted(r).Accepted...)
				return *accepted(r), nil
			}}
			p.checkIn = func(_ int, c api.CheckIn) (api.Orders, error) {
				v := call{Held: c.WaitMs > 0, State: c.State}
				if len(c.Reports) > 0 {
					v.Report = c.Reports[0].ID
				}
				calls = append(calls, v)
				o := api.Orders{Etag: "1"}
				err := test.take(c, &o)
				return o, err
			}
			l, m := testLink(t)
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { l.poll(ctx, p) })
			running.Go(func() { l.deliver(ctx, p) })
			wait.For(ctx, 20*time.Second) // in the bubble: until the second poll is held
			m.at(t, l, states.Fetch, "r1")
			wait.For(ctx, time.Second)
			m.at(t, l, states.Switch, "r2")
			wait.For(ctx, 10*time.Second) // no news for long: held again
			m.at(t, l, states.Idle, "r3")
			wait.For(ctx, time.Second)
			cancel()
			running.Wait()
			if d := cmp.Diff(calls, test.calls); d != "" {
				t.Errorf("%s: check-ins -got +want:\n%s", name, d)
			}
			if d := cmp.Diff(posted, test.reports); d != "" || l.Outbox.Len() != 0 {
				t.Errorf("%s: %d reports are queued; by themselves went -got +want:\n%s", name, l.Outbox.Len(), d)
			}
		})
	}
}

// All that a machine says of an attempt goes over the connection that brought the
// order: a second one costs the control plane a handshake for each machine of a batch.
func TestPoll_TakesOneConnectionForAnAttempt(t *testing.T) {
	var connections atomic.Int64
	said, order := make(chan api.CheckIn, 8), make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in api.CheckIn
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		said <- in
		if in.WaitMs > 0 && in.Have != "" {
			select {
			case <-order:
			case <-r.Context().Done():
			}
		}
		_ = json.NewEncoder(w).Encode(api.Orders{Etag: "1", WaitMs: 60_000, Reports: accepted(in.Reports)})
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	client, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: srv.URL, TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l, m := testLink(t)
	l.Agent.ControlPlane = config.AgentControlPlane{PollSeconds: 0.1, LongPollSeconds: 55}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.poll(ctx, client) })
	running.Go(func() { l.deliver(ctx, client) })
	defer running.Wait()
	defer cancel()
	<-said
	<-said // this one is held
	close(order)
	for _, step := range []states.Step{states.Fetch, states.Switch, states.Verify, states.Idle} {
		m.at(t, l, step, string(step))
		for in := range said {
			if len(in.Reports) > 0 {
				if in.Reports[0].ID != string(step) || in.WaitMs > 0 {
					t.Errorf("%s: a check-in carries %s, to be held for %d ms", step, in.Reports[0].ID, in.WaitMs)
				}
				break
			}
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
