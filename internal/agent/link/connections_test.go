// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/internal/config"
)

// News end a held check-in by a newer one, not by a cut: a new TLS connection
// costs the control plane more than all else that the news cause.
func TestPoll_KeepsItsConnectionsWhenTheStateChanges(t *testing.T) {
	var connections atomic.Int64
	var mu sync.Mutex
	newer := make(chan struct{})
	said := make(chan string, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in api.CheckIn
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		mu.Lock()
		close(newer)
		mine := make(chan struct{})
		newer = mine
		mu.Unlock()
		said <- in.Waiting
		if in.Have != "" {
			select {
			case <-mine:
			case <-r.Context().Done():
			}
		}
		_ = json.NewEncoder(w).Encode(api.Orders{Etag: "1", WaitMs: 60_000})
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
	var polling sync.WaitGroup
	polling.Go(func() { l.poll(ctx, client) })
	defer polling.Wait()
	defer cancel()
	<-said
	<-said // this one is held
	for n := range 20 {
		want := fmt.Sprint("change ", n)
		m.set(func() { m.journal.Waiting = want })
		if got := <-said; got != want {
			t.Fatalf("the agent said %q, want %q", got, want)
		}
	}
	if n := connections.Load(); n > 2 {
		t.Errorf("%d connections for 20 changes, want 2", n)
	}
}
