// SPDX-License-Identifier: MIT

package link

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/wiretest"
)

// answering is a client of a control plane that gives the answer at hand.
func answering(t *testing.T, answer *[]byte) *api.AgentClient {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(*answer) }))
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: s.URL, TLS: &tls.Config{RootCAs: pool}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func text(t *rapid.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The wire rule for orders: whatever they have in whatever place, the others are taken
// in. An order of which something cannot be read is not carried out: without its
// windows it would be another one. What is left out is named.
func TestOrders_WhatIsWrongInOneStaysThere(t *testing.T) {
	var answer []byte
	c := answering(t, &answer)
	rapid.Check(t, func(t *rapid.T) {
		order := func(rollout fleet.RolloutID) *fleet.Order {
			return &fleet.Order{Digest: fleet.SHA256(nil), Rollout: rollout, Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000, Windows: []string{"0 3 * * * 2h"}, Blackouts: []string{"0 3 1 * * 1h"}, Reboot: fleet.RebootWindow, RebootWindows: []string{"0 4 * * * 1h"}}
		}
		want := api.Orders{
			Etag: "a", Epoch: "1.2.", Prefetch: fleet.SHA256(nil), Grants: []fleet.Digest{fleet.SHA256(nil), fleet.SHA256([]byte("g"))}, Apply: order("r1"), Revert: order("r2"),
			Documents: fleet.DocumentDigests{Root: fleet.SHA256(nil), Revocations: fleet.SHA256(nil), Timestamp: fleet.SHA256(nil)}, PollAfterMs: 30_000, WaitMs: 55_000,
		}
		var path string
		answer, path = wiretest.Change(t, text(t, want), "apply.rollout", "revert.rollout") // which may be any word
		v, err := c.CheckIn(t.Context(), api.CheckIn{})
		if path == "" && err != nil {
			return // no orders at all
		}
		if err != nil {
			t.Fatalf("changed %s in %s: %v", path, answer, err)
		}
		got, left := bounded(v)
		field, inner, _ := strings.Cut(path, ".")
		for name, same := range map[string]bool{
			"etag": got.Etag == want.Etag, "epoch": got.Epoch == want.Epoch, "prefetch": got.Prefetch == want.Prefetch, "apply": cmp.Equal(got.Apply, want.Apply),
			"revert": cmp.Equal(got.Revert, want.Revert), "documents": got.Documents == want.Documents, "grants": slices.Equal(got.Grants, want.Grants),
			"pollAfterMs": got.PollAfterMs == want.PollAfterMs, "waitMs": got.WaitMs == want.WaitMs,
		} {
			if !same && name != field {
				t.Fatalf("changed %s in %s: %s is %+v", path, answer, name, got)
			}
		}
		if strings.Contains(string(answer), "null") {
			return // as if it were not there
		}
		for _, o := range [][2]*fleet.Order{{got.Apply, want.Apply}, {got.Revert, want.Revert}} {
			if !cmp.Equal(o[0], o[1]) && (o[0] != nil || len(left) == 0) {
				t.Fatalf("changed %s in %s: the order is %+v, left out is %v", path, answer, o[0], left)
			}
		}
		if d := got.Documents; field == "documents" && inner != "" && d != want.Documents {
			kept := slices.DeleteFunc([]fleet.Digest{d.Root, d.Revocations, d.Timestamp}, func(d fleet.Digest) bool { return d == "" })
			if len(kept) != 2 {
				t.Fatalf("changed %s in %s: documents are %+v", path, answer, d)
			}
		}
	})
}

// The wire rule for acknowledgements: what cannot be read acknowledges nothing, and
// what can counts.
func TestReportsReply_WhatIsWrongAcknowledgesNothing(t *testing.T) {
	var answer []byte
	c := answering(t, &answer)
	rapid.Check(t, func(t *rapid.T) {
		want := api.ReportsReply{Accepted: []string{"1", "2", "3"}, Rejected: []string{"4", "5"}, Reasons: map[string]string{"4": "bad", "5": "bad"}}
		var path string
		answer, path = wiretest.Change(t, text(t, want))
		got, err := c.Reports(t.Context(), nil)
		if err != nil {
			t.Fatalf("changed %s in %s: %v", path, answer, err)
		}
		known := slices.Concat(want.Accepted, []string{"splendid", ""})
		for _, id := range got.Accepted {
			if !slices.Contains(known, id) && !strings.HasPrefix(path, "accepted.") {
				t.Fatalf("changed %s in %s: %q is accepted", path, answer, id)
			}
		}
		if !strings.HasPrefix(path, "accepted") && path != "" && !slices.Equal(got.Accepted, want.Accepted) || !strings.HasPrefix(path, "rejected") && path != "" && !slices.Equal(got.Rejected, want.Rejected) {
			t.Fatalf("changed %s in %s: %+v", path, answer, got)
		}
	})
}

// An order of a later version is not carried out, and is told to operators.
func TestOrders_UnknownOnesAreReported(t *testing.T) {
	var v api.Orders
	unknown := `{"etag":"a","apply":{"digest":"` + string(fleet.SHA256(nil)) + `","rollout":"r1","attempt":"first"},"reboot":{"digest":"` + string(fleet.SHA256(nil)) + `","rollout":"r1","attempt":1,"until":[]},"mood":{"rollout":"r1"}}`
	if err := json.Unmarshal([]byte(unknown), &v); err != nil {
		t.Fatal(err)
	}
	o, left := bounded(v)
	if d := cmp.Diff([]string{"apply", "the unknown order reboot"}, left); d != "" || o.Apply != nil || o.Etag != "a" {
		t.Errorf("orders %+v, left out (-want +got):\n%s", o, d)
	}
	var told []api.CheckIn
	pollFor(t, 10*time.Minute, nil, func(_ int, c api.CheckIn) (api.Orders, error) {
		told = append(told, c)
		return v, nil
	})
	if len(told) < 2 || told[0].Waiting != "" || told[1].Waiting != "cannot read of its orders: apply, the unknown order reboot" {
		t.Errorf("it tells %+v", told)
	}
}
