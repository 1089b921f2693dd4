// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// E06: a path that names what cannot be a machine, a release or a rollout is refused
// as that; one that names what is not there is not found; a document that is none is
// refused.
func TestOperators_RefuseNamesThatAreNone(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	_, err := admin.Root(t.Context())
	wantCode(t, "a root that nobody has pinned", err, fleet.NotFound)
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	bodies := map[string]string{"setLifecycle": `{"lifecycle":"active"}`, "setTags": `{"tags":[]}`}
	ask := func(op api.Operation, path string, want fleet.Code) {
		t.Helper()
		body := bodies[op.ID]
		if body == "" && op.Method != http.MethodGet {
			body = "{}"
		}
		_, reply := w.raw(op.Method, path, w.secretOfAdmin, body, "Content-Type", "application/json")
		var p api.Problem
		if err := json.Unmarshal(reply, &p); err != nil || p.Code != want {
			t.Errorf("%s %s: %s, want the code %s", op.Method, path, reply, want)
		}
	}
	digest, id := string(fleet.SHA256(nil)), "01J00000000000000000000000"
	tried := 0
	for _, op := range api.Operations {
		noun, _, _ := strings.Cut(strings.TrimPrefix(op.Path, "/api/v1/"), "/")
		if !strings.Contains(op.Path, "{") || noun == "keys" {
			continue
		}
		tried++
		ask(op, strings.NewReplacer("{id}", "No_Such", "{digest}", "No_Such", "{other}", digest, "{verb}", "pause", "{line}", "No_Such").Replace(op.Path), fleet.Invalid)
		there := strings.NewReplacer("{id}", id, "{digest}", digest, "{other}", digest, "{verb}", "pause", "{line}", "nothing").Replace(op.Path)
		if noun == "machines" {
			there = strings.Replace(there, id, "web-09", 1)
		}
		if op.ID != "createToken" { // a token may be made before its machine is known
			ask(op, there, fleet.NotFound)
		}
		if strings.Contains(op.Path, "{other}") {
			ask(op, strings.NewReplacer("{digest}", digest, "{other}", "No_Such").Replace(op.Path), fleet.Invalid)
		}
		if strings.Contains(op.Path, "{verb}") {
			ask(op, strings.NewReplacer("{id}", id, "{verb}", "explode").Replace(op.Path), fleet.NotFound)
		}
	}
	if tried < 12 {
		t.Errorf("tried %d operations only", tried)
	}
	for what, put := range map[string]func() error{
		"root":        func() error { _, err := admin.PutRoot(t.Context(), []byte("{}")); return err },
		"revocations": func() error { _, err := admin.PutRevocations(t.Context(), []byte("{}")); return err },
		"timestamp":   func() error { _, err := admin.PutTimestamp(t.Context(), []byte("{}")); return err },
	} {
		if put() == nil {
			t.Errorf("%s: what is no document is taken", what)
		}
	}
}
