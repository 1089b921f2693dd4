// SPDX-License-Identifier: MIT

package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// Wire rule: a field of an item that a control plane of another version writes in
// another type is left out and told; the other fields and items go on.
func TestReply_LeavesOutWhatHasAnotherType(t *testing.T) {
	reply := ""
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, reply) }))
	defer srv.Close()
	var told []string
	c, err := NewClient(ClientConfig{BaseURL: srv.URL, TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig, LeftOut: func(f string) { told = append(told, f) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard := func(want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
		told = nil
	}
	reply = `{"items":[{"id":"web-01","health":{"level":3},"lifecycle":"active"},7,{"id":"web-02","tags":{"effective":"prod"},"online":true},null,{"id":"web-03","health":4}],"next":"n"}`
	page, err := c.Machines(t.Context(), fleet.MachineFilter{}, fleet.PageRequest{})
	if err != nil || len(page.Items) != 3 || page.Next != "n" {
		t.Fatalf("%+v, %v", page, err)
	}
	if m := page.Items[0]; m.ID != "web-01" || m.Lifecycle != fleet.Active || m.Health != "" || page.Items[1].ID != "web-02" || page.Items[2].ID != "web-03" {
		t.Errorf("machines %+v", page.Items)
	}
	heard("health", "an item", "tags.effective")

	reply = `[{"name":"a","max":"many"},{"name":"b","max":"2","createdBy":7}]` // "many" is no amount
	budgets, err := c.Budgets(t.Context())
	if err != nil || len(budgets) != 1 || budgets[0].Name != "b" || budgets[0].Max.N != 2 {
		t.Errorf("budgets %+v, %v", budgets, err)
	}
	heard("an item", "Budget.createdBy") // as encoding/json names it

	reply = `{"id":"web-01","lifecycle":["active"],"health":"healthy"}`
	var m fleet.Machine
	if m, err = c.Machine(t.Context(), "web-01"); err != nil || m.ID != "web-01" || m.Lifecycle != "" || m.Health != fleet.Healthy {
		t.Errorf("machine %+v, %v", m, err)
	}
	heard("lifecycle")

	for _, reply = range []string{`{"items":7}`, `{"items":[{]}`, `[]`, `<html>`, ``} {
		if page, err = c.Machines(t.Context(), fleet.MachineFilter{}, fleet.PageRequest{}); err == nil && len(page.Items) > 0 || err == nil && !strings.HasPrefix(reply, `{"items":7`) && reply != "[]" {
			t.Errorf("%s: %+v, %v", reply, page, err)
		}
	}
	told = nil
	reply = `{"key":{"id":"k"},"secret":7}` // what is carried out is answered as it is known, or not
	if made, refused := c.CreateKey(t.Context(), KeyRequest{}); refused == nil {
		t.Errorf("made %+v", made)
	}
	heard()
	var again Page[fleet.Machine]
	b, err := json.Marshal(page)
	if err != nil || json.Unmarshal(b, &again) != nil || len(again.Items) != len(page.Items) || strings.Contains(string(b), "leftOut") {
		t.Errorf("%s, %v", b, err)
	}
}
