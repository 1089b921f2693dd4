// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
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
	bodies := map[string]string{
		"setLifecycle": `{"lifecycle":"active"}`, "setTags": `{"tags":[]}`, "renameMachine": `{"to":"web-10"}`,
		"putPolicy": string(must[[]byte](t)(json.Marshal(api.PolicyRequest{}))), "putSchedule": `{"cron":"0 3 * * *","policy":"p"}`, "putBudget": `{"select":["@web"],"max":"1"}`,
	}
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
		if want == fleet.Invalid && !strings.Contains(p.Detail, "No_Such") {
			t.Errorf("%s %s: %s does not name what is wrong", op.Method, path, reply)
		}
	}
	digest, id := string(fleet.SHA256(nil)), "01J00000000000000000000000"
	tried := 0
	for _, op := range api.Operations {
		noun, _, _ := strings.Cut(strings.TrimPrefix(op.Path, "/api/v1/"), "/")
		if !strings.Contains(op.Path, "{") || noun == "keys" || noun == "webhooks" {
			continue
		}
		tried++
		ask(op, strings.NewReplacer("{id}", "No_Such", "{digest}", "No_Such", "{other}", digest, "{verb}", "pause", "{line}", "No_Such", "{name}", "No_Such").Replace(op.Path), fleet.Invalid)
		there := strings.NewReplacer("{id}", id, "{digest}", digest, "{other}", digest, "{verb}", "pause", "{line}", "nothing", "{name}", "nothing").Replace(op.Path)
		if noun == "machines" {
			there = strings.Replace(there, id, "web-09", 1)
		}
		if op.ID != "createToken" && !strings.HasSuffix(op.Path, "{name}") || op.Method == http.MethodDelete { // these make what is not there
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

// What a machine asks for by a name that is none is refused as that, and its calls
// count, whatever they are.
func TestAgents_RefuseNamesThatAreNone(t *testing.T) {
	w := newWorld(t)
	thief := w.thief(w.admin(), "web-01")
	digest := string(fleet.SHA256(nil))
	code := func(res *http.Response) fleet.Code {
		t.Helper()
		defer res.Body.Close()
		var p api.Problem
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil || p.Status != res.StatusCode {
			t.Errorf("status %d: %v", res.StatusCode, err)
		}
		return p.Code
	}
	for path, want := range map[string]fleet.Code{
		api.PathRelease + "No_Such": fleet.Invalid, api.PathRelease + digest: fleet.NotFound,
		api.PathDocument + "No_Such": fleet.Invalid, api.PathDocument + digest: fleet.NotFound,
		api.PathRoot + "first": fleet.Invalid, api.PathRoot + "9": fleet.NotFound,
	} {
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, base(w.addrs.Agents)+path, nil))
		if got := code(must[*http.Response](t)(thief.Do(req))); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	var last int
	for range 3 { // a body of unknown size counts as the largest
		last, _ = w.send(thief, api.PathReports, io.MultiReader(strings.NewReader(`{"reports":[]}`)))
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("over budget: status %d", last)
	}
}

// What could not be kept is not acknowledged: the machine says it again.
func TestAgents_AreToldWhatWasNotKept(t *testing.T) {
	w := newWorld(t)
	m := w.enrolled(w.admin(), "web-01")
	ci := checkIn("web-01")
	must[api.Orders](t)(m.CheckIn(t.Context(), ci))
	w.lost = true
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := m.Reports(t.Context(), []fleet.Report{{ID: "1", Machine: "web-01", Kind: fleet.ReportDrift}}); err == nil {
		t.Errorf("reports that are lost: %+v", r)
	}
	ci.EvidenceKey = evidenceKey(t)
	if o, err := m.CheckIn(t.Context(), ci); err == nil {
		t.Errorf("an evidence key that is lost: %+v", o)
	}
	ci.EvidenceKey, ci.BootID = "", "boot-2"
	if o, err := m.CheckIn(t.Context(), ci); err == nil {
		t.Errorf("a check-in that is lost: %+v", o)
	}
}

// E08: nothing is issued for half of a request, nor by a control plane that is not
// the CA.
func TestEnroll_RefusesWhatIsNoRequest(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now}, DisableKeepAlives: true}}
	thief := w.thief(admin, "web-02")
	tok, key := w.token(admin, "web-01"), newKey(t)
	body := func(v any, more string) string { return string(must[[]byte](t)(json.Marshal(v))) + more }
	ask := func(name string, c *http.Client, path, body string, want fleet.Code) {
		t.Helper()
		status, reply := w.send(c, path, strings.NewReader(body))
		var p api.Problem
		if err := json.Unmarshal(reply, &p); err != nil || p.Code != want {
			t.Errorf("%s: status %d, %s; want %s", name, status, reply, want)
		}
	}
	good := api.EnrollRequest{Token: tok, CSR: csr(t, "web-01", key)}
	ask("more than a request", stranger, api.PathEnroll, body(good, "{}"), fleet.Invalid)
	ask("no certificate request", stranger, api.PathEnroll, body(api.EnrollRequest{Token: tok, CSR: []byte("none")}, ""), fleet.Invalid)
	ask("more than a renewal", thief, api.PathRenew, body(api.RenewRequest{CSR: csr(t, "web-02", newKey(t))}, "{}"), fleet.Invalid)
	ask("a renewal without a request", thief, api.PathRenew, body(api.RenewRequest{CSR: []byte("none")}, ""), fleet.Invalid)
	must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), good))

	own := must[pki.Authority](t)(pki.NewAuthority("our own CA", time.Now()))
	w = newWorldWith(t, config.TLS{ClientCAFile: caFile(t, own)})
	stranger = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now}, DisableKeepAlives: true}}
	ask("another CA issues", stranger, api.PathEnroll, body(good, ""), fleet.Conflict)
}

// Metrics that cannot be guarded as the configuration says are not shown at all.
func TestNew_RefusesAGuardThatIsNone(t *testing.T) {
	w := newWorld(t)
	identity := must[*server.Identity](t)(server.NewIdentity(w.tls, w.keys))
	for name, file := range map[string]string{"no file": filepath.Join(w.dir, "none"), "no certificate": filepath.Join(w.dir, "nixfleet.db")} {
		_, err := server.New(server.Options{Plane: w.plane, Identity: identity, Log: slog.New(slog.DiscardHandler), Now: w.now, Metrics: config.MetricsGuard{ClientCAFile: file}})
		wantCode(t, name, err, fleet.Invalid)
	}
}

// Files that are wrong are refused at the start, each by its setting.
func TestNewIdentity_RefusesFilesThatAreNone(t *testing.T) {
	keys := must[*pki.Keys](t)(pki.Load(t.TempDir(), []string{"localhost"}, time.Now()))
	root := signCA(t, "root", nil)
	bad := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")})
	for name, c := range map[string]struct {
		conf func(f *ownFiles) config.TLS
		says string
	}{
		"no certificate file": {(*ownFiles).conf, "tls.certFile"},
		"a chain with what is none": {func(f *ownFiles) config.TLS {
			c := f.write(signServer(t, time.Time{}, root))
			f.put("fullchain.pem", append(must[[]byte](t)(os.ReadFile(c.CertFile)), bad...))
			return c
		}, "tls.certFile"},
		"no file of roots": {func(f *ownFiles) config.TLS {
			c := f.write(signServer(t, time.Time{}, root), root)
			c.CAFile = f.dir + "/none"
			return c
		}, "read tls.caFile"},
		"no file of clients' CAs": {func(f *ownFiles) config.TLS { return config.TLS{ClientCAFile: f.dir + "/none"} }, "read tls.clientCaFile"},
		"clients' CAs with one that is none": {func(f *ownFiles) config.TLS {
			return config.TLS{ClientCAFile: f.put("ca.pem", slices.Concat(pemOf(root), bad))}
		}, "tls.clientCaFile"},
		"clients' CAs without any": {func(f *ownFiles) config.TLS { return config.TLS{ClientCAFile: f.put("ca.pem", nil)} }, "tls.clientCaFile"},
	} {
		conf := c.conf(newOwnFiles(t))
		_, err := server.NewIdentity(conf, keys)
		wantCode(t, name, err, fleet.Invalid)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if conf.CertFile == "" {
			continue
		}
		_, err = server.Names(conf)
		wantCode(t, "the names of "+name, err, fleet.Invalid)
	}
}
