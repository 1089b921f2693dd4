// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"crypto/tls"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

var update = flag.Bool("update", false, "write golden files anew")

const openAPIFile = "../../docs/reference/openapi.json"

var roles = []fleet.Role{fleet.RoleAuditor, fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin}

// raw sends a request as it is and returns the reply with its body.
func (w *world) raw(method, path, key, body string, header ...string) (*http.Response, []byte) {
	w.tb.Helper()
	req := must[*http.Request](w.tb)(http.NewRequestWithContext(w.ctx(), method, base(w.addrs.Operators)+path, strings.NewReader(body)))
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now}, ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	res := must[*http.Response](w.tb)(c.Do(req))
	defer res.Body.Close()
	return res, must[[]byte](w.tb)(io.ReadAll(res.Body))
}

// secret returns a key of a role.
func (w *world) secret(admin *api.Client, role fleet.Role) string {
	w.tb.Helper()
	return must[api.NewKey](w.tb)(admin.CreateKey(w.ctx(), api.KeyRequest{Owner: "some-" + string(role), Role: role})).Secret
}

func wantCode(t *testing.T, what string, err error, want fleet.Code) {
	t.Helper()
	if got := fleet.ErrorCode(err); got != want {
		t.Errorf("%s: got %v (code %q), want code %q", what, err, got, want)
	}
}

func TestOpenAPI_DescribesExactlyTheOperations(t *testing.T) {
	w := newWorld(t)
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string                     `json:"operationId"`
			Security    []map[string][]string      `json:"security"`
			Responses   map[string]json.RawMessage `json:"responses"`
		} `json:"paths"`
	}
	_, served := w.raw("GET", "/api/v1/openapi.json", "", "")
	if err := json.Unmarshal(served, &doc); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for path, methods := range doc.Paths {
		for method, op := range methods {
			status := ""
			for s := range op.Responses {
				if strings.HasPrefix(s, "2") {
					status += s
				}
			}
			got = append(got, fmt.Sprint(op.OperationID, " ", strings.ToUpper(method), " ", path, " ", status, " key:", len(op.Security) > 0))
		}
	}
	for _, op := range api.Operations {
		want = append(want, fmt.Sprint(op.ID, " ", op.Method, " ", op.Path, " ", op.Status, " key:", op.Scope != api.Public))
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("operations (-want +got):\n%s", d)
	}
}

func TestOpenAPI_IsTheOneInTheDocumentation(t *testing.T) {
	_, got := newWorld(t).raw("GET", "/api/v1/openapi.json", "", "")
	if *update {
		if err := os.WriteFile(openAPIFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := must[[]byte](t)(os.ReadFile(openAPIFile))
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the server serves; run the test with -update", openAPIFile)
	}
}

// path fills a path's parameters with values that name nothing there is.
func path(op api.Operation) string {
	r := strings.NewReplacer("{digest}", string(fleet.SHA256(nil)), "{other}", string(fleet.SHA256(nil)), "{id}", "nothing", "{verb}", "pause")
	return r.Replace(op.Path)
}

// E09: each operation wants its role, before it looks at anything else.
func TestOperators_EachWantsItsRole(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	keys := map[fleet.Role]string{}
	for _, role := range roles {
		keys[role] = w.secret(admin, role)
	}
	for _, op := range api.Operations {
		if op.Scope == api.Public || op.ID == "events" {
			continue
		}
		if res, _ := w.raw(op.Method, path(op), "", "{"); res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusTooManyRequests {
			t.Errorf("%s without a key: status %d, want 401", op.ID, res.StatusCode)
		}
		for role, key := range keys {
			res, body := w.raw(op.Method, path(op), key, `{"nonsense":1}`)
			if forbidden := res.StatusCode == http.StatusForbidden; forbidden == op.Allows(role) {
				t.Errorf("%s as %s: status %d, %s", op.ID, role, res.StatusCode, body)
			}
			if res.StatusCode >= 500 {
				t.Errorf("%s as %s: status %d, %s", op.ID, role, res.StatusCode, body)
			}
		}
	}
}

// E09: a key that is revoked, expired or rotated is refused.
func TestOperators_RefuseKeysThatEnded(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	revoked, key := w.as(admin, fleet.RoleDeploy)
	if _, err := revoked.Whoami(t.Context()); err != nil {
		t.Fatal(err)
	}
	must[fleet.Key](t)(admin.RevokeKey(t.Context(), key.ID))
	_, err := revoked.Whoami(t.Context())
	wantCode(t, "revoked", err, fleet.Unauthenticated)

	rotated, key := w.as(admin, fleet.RoleDeploy)
	next := must[api.NewKey](t)(admin.RotateKey(t.Context(), key.ID))
	_, err = rotated.Whoami(t.Context())
	wantCode(t, "the old secret of a rotated key", err, fleet.Unauthenticated)
	got, err := w.operator(next.Secret).Whoami(t.Context())
	if err != nil || got.ID != key.ID {
		t.Errorf("the new secret: got %+v, %v", got, err)
	}

	brief := must[api.NewKey](t)(admin.CreateKey(t.Context(), api.KeyRequest{Owner: "brief", Role: fleet.RoleReadonly, ExpiresAt: w.now().Add(time.Hour).UnixMilli()}))
	if _, err = w.operator(brief.Secret).Whoami(t.Context()); err != nil {
		t.Error(err)
	}
	w.advance(2 * time.Hour)
	_, err = w.operator(brief.Secret).Whoami(t.Context())
	wantCode(t, "expired", err, fleet.Unauthenticated)
	for suffix, want := range map[string]int{"_fleet.example.org": http.StatusOK, "_fleet.example.org:8443_" + strings.Repeat("0", 64): http.StatusOK, "_": http.StatusUnauthorized} {
		if res, body := w.raw(http.MethodGet, "/api/v1/machines", next.Secret+suffix, ""); res.StatusCode != want {
			t.Errorf("a key with %q: status %d, want %d: %s", suffix, res.StatusCode, want, body)
		}
	}
	_, err = w.operator("nfk_made-up").Whoami(t.Context())
	wantCode(t, "unknown", err, fleet.Unauthenticated)
}

func TestBootstrap_WorksOnce(t *testing.T) {
	w := newWorld(t)
	_, err := w.operator("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: "not the secret at all", Owner: "eve"})
	wantCode(t, "wrong secret", err, fleet.Unauthenticated)
	w.admin()
	_, err = w.operator("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: bootstrapSecret, Owner: "eve"})
	wantCode(t, "second time", err, fleet.Unauthenticated)
}

func TestOperators_LimitFailuresAndNeverGoodKeys(t *testing.T) {
	w := newWorld(t)
	key := w.secret(w.admin(), fleet.RoleReadonly)
	limited := false
	for range 50 {
		res, _ := w.raw(http.MethodGet, "/api/v1/machines", "nfk_guess", "")
		if res.StatusCode == http.StatusTooManyRequests {
			limited = res.Header.Get("Retry-After") != ""
			break
		}
	}
	if !limited {
		t.Error("50 failures were answered without a limit")
	}
	if res, body := w.raw(http.MethodGet, "/api/v1/machines", key, ""); res.StatusCode != http.StatusOK {
		t.Errorf("a good key meanwhile: status %d, %s", res.StatusCode, body)
	}
}

func TestOperators_RefuseWhatTheyDoNotUnderstand(t *testing.T) {
	w := newWorld(t)
	admin := w.secret(w.admin(), fleet.RoleAdmin)
	large := `{"id":"` + strings.Repeat("a", 2<<20) + `"}`
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		code                     fleet.Code
		detail                   string
	}{
		{"unknown field", "POST", "/api/v1/machines", `{"id":"web-01","colour":"red"}`, 422, fleet.Invalid, "colour"},
		{"not JSON", "POST", "/api/v1/machines", `id=web-01`, 422, fleet.Invalid, "body"},
		{"two values", "POST", "/api/v1/machines", `{"id":"web-01"}{}`, 422, fleet.Invalid, "after"},
		{"no body", "POST", "/api/v1/machines", ``, 400, fleet.Invalid, "body"},
		{"wrong type", "POST", "/api/v1/machines", `{"id":7}`, 422, fleet.Invalid, "id"},
		{"bad machine id", "POST", "/api/v1/machines", `{"id":"Web 01"}`, 422, fleet.Invalid, "machine id"},
		{"too large", "POST", "/api/v1/machines", large, 413, fleet.TooLarge, ""},
		{"too large for all but a release", "POST", "/api/v1/releases", large, 422, fleet.Invalid, "id"},
		{"unknown query", "GET", "/api/v1/machines?colour=red", ``, 422, fleet.Invalid, "colour"},
		{"limit beyond the most", "GET", "/api/v1/machines?limit=1001", ``, 422, fleet.Invalid, "limit"},
		{"bad cursor", "GET", "/api/v1/machines?cursor=%21", ``, 422, fleet.Invalid, "cursor"},
		{"bad lifecycle", "GET", "/api/v1/machines?lifecycle=old", ``, 422, fleet.Invalid, "old"},
		{"unknown verb", "POST", "/api/v1/rollouts/r1/explode", `{}`, 404, fleet.NotFound, "explode"},
		{"unknown path", "GET", "/api/v1/nothing", ``, 404, fleet.NotFound, "/api/v1/nothing"},
		{"unknown machine", "GET", "/api/v1/machines/web-99", ``, 404, fleet.NotFound, "web-99"},
	} {
		res, body := w.raw(tt.method, tt.path, admin, tt.body, "Content-Type", "application/json")
		var p api.Problem
		err := json.Unmarshal(body, &p)
		if err != nil || res.StatusCode != tt.status || p.Status != tt.status || p.Code != tt.code || p.Title == "" || !strings.Contains(p.Detail, tt.detail) {
			t.Errorf("%s: status %d, %s (%v); want %d, %s, with %q", tt.name, res.StatusCode, body, err, tt.status, tt.code, tt.detail)
		}
		if ct := res.Header.Get("Content-Type"); ct != api.ProblemType {
			t.Errorf("%s: content type %q, want %q", tt.name, ct, api.ProblemType)
		}
		if len(body) > 4096 {
			t.Errorf("%s: a problem of %d bytes repeats what was sent", tt.name, len(body))
		}
	}
}

func TestMachine_IsNotSentAgainToWhoHasIt(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	key := w.secret(admin, fleet.RoleReadonly)
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	res, _ := w.raw("GET", "/api/v1/machines/web-01", key, "")
	tag := res.Header.Get("ETag")
	if res, body := w.raw("GET", "/api/v1/machines/web-01", key, "", "If-None-Match", tag); tag == "" || res.StatusCode != http.StatusNotModified || len(body) > 0 {
		t.Errorf("unchanged: status %d, ETag %q, %s", res.StatusCode, tag, body)
	}
	must[fleet.Machine](t)(admin.SetTags(t.Context(), "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
	if res, _ := w.raw("GET", "/api/v1/machines/web-01", key, "", "If-None-Match", tag); res.StatusCode != http.StatusOK {
		t.Errorf("changed: status %d, want 200", res.StatusCode)
	}
}

func TestAuditCSV_IsWhole(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	w.as(admin, fleet.RoleDeploy)
	var out bytes.Buffer
	if err := admin.ExportAudit(t.Context(), fleet.AuditFilter{}, &out); err != nil {
		t.Fatal(err)
	}
	rows := must[[][]string](t)(csv.NewReader(&out).ReadAll())
	head := must[fleet.AuditHead](t)(admin.AuditHead(t.Context()))
	if int64(len(rows)) != head.Size+1 || rows[0][0] != "seq" {
		t.Errorf("got %d rows, want %d and the names", len(rows), head.Size)
	}
}

// O11: lists come in pages.
func TestMachines_ComeInPages(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	var want []fleet.MachineID
	for i := range 7 {
		m := fleet.MachineID(fmt.Sprintf("web-%02d", i))
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: m}))
		want = append(want, m)
	}
	var got []fleet.MachineID
	q := fleet.PageRequest{Limit: 3}
	pages := 0
	for {
		p := must[api.Page[fleet.Machine]](t)(admin.Machines(t.Context(), fleet.MachineFilter{}, q))
		pages++
		for _, m := range p.Items {
			got = append(got, m.ID)
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			break
		}
	}
	if d := cmp.Diff(want, got); d != "" || pages != 3 {
		t.Errorf("%d pages (-want +got):\n%s", pages, d)
	}
}

// O05: what changes once the stream stands is seen, in order.
func TestWatch_TellsChangesInOrder(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	register := func(m fleet.MachineID) {
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: m}))
	}
	var got []fleet.MachineID
	for e, err := range admin.Watch(t.Context(), 0, fleet.EventFilter{}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Machine != nil:
			got = append(got, e.Machine.ID)
		case len(got) == 0:
			register("web-01")
			continue
		}
		if len(got) == 1 && e.Machine != nil {
			register("web-02")
		}
		if len(got) == 2 {
			break
		}
	}
	if d := cmp.Diff([]fleet.MachineID{"web-01", "web-02"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestRestart_KeepsEverything(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	if _, err := admin.PutRoot(t.Context(), w.fleet.RootEnvelope); err != nil {
		t.Fatal(err)
	}
	machine := w.enrolled(admin, "web-01")
	must[api.Orders](t)(machine.CheckIn(t.Context(), checkIn("web-01")))
	rel := w.release(admin, 1, "", "web-01")
	before := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01"))
	head := must[fleet.AuditHead](t)(admin.AuditHead(t.Context()))
	ca := w.keys.ServerCA.Cert

	w.stop()
	w.start()
	if !w.keys.ServerCA.Cert.Equal(ca) {
		t.Error("the CA is another one")
	}
	admin = w.operator(w.secretOfAdmin)
	after := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01"))
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("machine (-before +after):\n%s", d)
	}
	if got := must[api.ReleaseDetail](t)(admin.Release(t.Context(), rel.Digest)); got.Digest != rel.Digest || len(got.Entries) != 1 {
		t.Errorf("release: got %+v", got.Release)
	}
	if got := must[fleet.AuditHead](t)(admin.AuditHead(t.Context())); got.Size < head.Size {
		t.Errorf("audit: %d entries, were %d", got.Size, head.Size)
	}
}

func TestListen_NamesThePortInUse(t *testing.T) {
	w := newWorld(t)
	_, err := server.Listen(t.Context(), config.Listen{Operators: w.addrs.Operators.Addr().String(), Agents: "127.0.0.1:0", Metrics: "127.0.0.1:0"})
	wantCode(t, "a port in use", err, fleet.Conflict)
	if err == nil || !strings.Contains(err.Error(), "listen.operators") || fleet.ErrorHint(err) == "" {
		t.Errorf("got %v, want it to name listen.operators, with a hint", err)
	}
	_, err = server.Listen(t.Context(), config.Listen{Operators: "127.0.0.1:0", Agents: "127.0.0.1:99999", Metrics: "127.0.0.1:0"})
	wantCode(t, "no port", err, fleet.Invalid)
}
