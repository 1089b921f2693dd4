// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// What the machine says of itself is in a check-in only when it is news, or when the
// control plane may have lost it; with it the address that the control plane is
// reached from.
func TestPoll_TellsTheInventoryWhenItIsNews(t *testing.T) {
	l, m := testLink(t)
	l.Agent.ControlPlane.PollSeconds, l.Agent.ControlPlane.LongPollSeconds = 0.05, 0
	m.inventory = fleet.Inventory{BootedAt: 1, Kernel: "6.12"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []*fleet.Inventory
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in api.CheckIn
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		got = append(got, in.Inventory)
		switch len(got) {
		case 3:
			m.mu.Lock()
			m.inventory.DiskFree = 1 << 30
			m.mu.Unlock()
		case 5:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case 7:
			cancel()
		}
		_ = json.NewEncoder(w).Encode(api.Orders{Etag: "1", PollAfterMs: 20})
	}))
	defer srv.Close()
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: srv.URL, TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	l.poll(ctx, c)
	small := fleet.Inventory{BootedAt: 1, Kernel: "6.12"}
	here, full := small, small
	here.Address, full.Address, full.DiskFree = "127.0.0.1", "127.0.0.1", 1<<30
	if d := cmp.Diff([]*fleet.Inventory{&small, &here, nil, &full, nil, &full, nil}, got); d != "" {
		t.Errorf("check-ins said (-want +got):\n%s", d)
	}
}
