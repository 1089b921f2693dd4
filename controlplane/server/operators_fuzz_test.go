// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzOperatorRequest sends the running server any request of an operator with a
// good key. None is answered by a fault of the server, and one that is refused, or
// that only reads, leaves the audit trail as it was.
func FuzzOperatorRequest(f *testing.F) {
	w := newWorld(f)
	admin := w.admin()
	must[api.Document](f)(admin.PutRoot(w.ctx(), w.fleet.RootEnvelope))
	must[fleet.Machine](f)(admin.RegisterMachine(w.ctx(), api.MachineRequest{ID: "web-01", Lifecycle: fleet.Active, Tags: []fleet.Tag{"web"}}))
	rel := w.release(admin, 1, "", "web-01")
	keys := []string{w.secretOfAdmin, w.secret(admin, fleet.RoleReadonly), w.limited(admin, fleet.RoleAdmin, "web").Secret}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now}, ForceAttemptHTTP2: true}}
	f.Cleanup(c.CloseIdleConnections)
	where := base(w.addrs.Operators)

	spec := must[[]byte](f)(json.Marshal(api.RolloutRequest{Spec: fleet.RolloutSpec{Release: rel.Digest, Select: []string{"web-*"}}, DryRun: true}))
	for i, op := range api.Operations {
		body := []byte("{}")
		if op.ID == "createRollout" {
			body = spec
		}
		f.Add(i, i, "web-01", "limit=1&cursor=MTI", body)
		f.Add(i, i+1, string(rel.Digest), "", []byte(`{"tags":["a\u001b"],"mood":1}`))
	}
	f.Fuzz(func(t *testing.T, operation, who int, id, query string, body []byte) {
		op := api.Operations[uint(operation)%uint(len(api.Operations))]
		if op.ID == "events" || op.ID == "bootstrapKey" { // the one does not end; the other is slowed down for guessers
			return
		}
		path := strings.NewReplacer("{id}", url.PathEscape(id), "{digest}", url.PathEscape(id), "{other}", string(rel.Digest), "{verb}", url.PathEscape(id)).Replace(op.Path)
		ask := func(method, path, key string, body []byte) (int, []byte) {
			req, err := http.NewRequestWithContext(t.Context(), method, where+path, bytes.NewReader(body))
			if err != nil {
				t.Skip("no request: ", err)
			}
			req.Header.Set("Authorization", "Bearer "+key)
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				t.Skip("not sent: ", err)
			}
			defer res.Body.Close()
			reply, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode, reply
		}
		_, before := ask(http.MethodGet, "/api/v1/audit/head", w.secretOfAdmin, nil)
		status, reply := ask(op.Method, path+"?"+query, keys[uint(who)%uint(len(keys))], body)
		_, after := ask(http.MethodGet, "/api/v1/audit/head", w.secretOfAdmin, nil)
		if status >= 500 {
			t.Fatalf("%s %s?%s %q: status %d, %s", op.Method, path, query, body, status, reply)
		}
		if status >= 400 {
			var p api.Problem
			if err := json.Unmarshal(reply, &p); err != nil || !p.Code.Valid() || p.Status != status || len(reply) > 64<<10 {
				t.Fatalf("%s %s: status %d with %q, %v", op.Method, path, status, reply, err)
			}
		}
		if (status >= 400 || op.Method == http.MethodGet) && !bytes.Equal(before, after) {
			t.Fatalf("%s %s?%s %q: status %d, and the audit trail went from %s to %s", op.Method, path, query, body, status, before, after)
		}
	})
}
