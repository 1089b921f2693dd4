// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
)

func TestEnroll_GetsACertificateForAWeek(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	tok := must[api.TokenParts](t)(api.ParseToken(w.token(admin, "web-01")))
	key := newKey(t)
	// A machine knows nothing but its token.
	fresh := must[*api.AgentClient](t)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(w.addrs.Agents), TLS: tok.EnrollTLS("127.0.0.1")}))
	cert := must[api.Certificate](t)(fresh.Enroll(t.Context(), api.EnrollRequest{Token: tok.String(), CSR: csr(t, "web-01", key)}))
	if left := time.UnixMilli(cert.NotAfter).Sub(w.now()); cert.Machine != "web-01" || left < 167*time.Hour || left > 168*time.Hour {
		t.Errorf("got a certificate for %s that is good for %v", cert.Machine, left)
	}
	if api.CAHash(cert.CA) != tok.CAHash {
		t.Error("the CA is not the one that the token names")
	}
	must[api.Orders](t)(w.machine(cert.Certificate, key).CheckIn(t.Context(), checkIn("web-01")))
	m := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01"))
	if m.Lifecycle != fleet.Active || m.EnrolledAt == 0 || m.LastContact == 0 || m.Running == "" {
		t.Errorf("machine: got %+v", m)
	}
}

// E08: a token is good once, for one key, one name and one day.
func TestEnroll_RefusesATokenThatIsNotGood(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	enroll := func(token string, name fleet.MachineID) error {
		_, err := w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: token, CSR: csr(t, name, newKey(t))})
		return err
	}
	tok := w.token(admin, "web-01")
	wantCode(t, "another name", enroll(tok, "web-02"), fleet.Forbidden)
	if err := enroll(tok, "web-01"); err != nil {
		t.Fatalf("after a refusal the token must still be good: %v", err)
	}
	wantCode(t, "used before", enroll(tok, "web-01"), fleet.Conflict)
	wantCode(t, "unknown", enroll("nft_web-01_0123456789abcdef_"+api.CAHash(nil), "web-01"), fleet.Unauthenticated)
	_, err := admin.CreateToken(t.Context(), "web-01", api.TokenRequest{})
	wantCode(t, "a name in use without replace", err, fleet.Conflict)

	late := w.token(admin, "web-03")
	w.advance(25 * time.Hour)
	wantCode(t, "expired", enroll(late, "web-03"), fleet.Unauthenticated)
}

// E08: of many at once one wins, and a repeat of the winner gets the same.
func TestEnroll_InParallelOneKeyWins(t *testing.T) {
	w := newWorld(t)
	tok := w.token(w.admin(), "web-01")
	type result struct {
		cert api.Certificate
		err  error
		csr  []byte
	}
	results := make([]result, 8)
	var wg sync.WaitGroup
	for i := range results {
		results[i].csr = csr(t, "web-01", newKey(t))
		wg.Go(func() {
			results[i].cert, results[i].err = w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok, CSR: results[i].csr})
		})
	}
	wg.Wait()
	won := 0
	for _, r := range results {
		if r.err != nil {
			wantCode(t, "a loser", r.err, fleet.Conflict)
			continue
		}
		won++
		again := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok, CSR: r.csr}))
		if string(again.Certificate) != string(r.cert.Certificate) {
			t.Error("a repeat got another certificate")
		}
	}
	if won != 1 {
		t.Errorf("%d keys got a certificate, want 1", won)
	}
}

// E07: a caller without a certificate, or with one of another CA, gets nothing.
func TestAgents_WantACertificateOfTheirCA(t *testing.T) {
	w := newWorld(t)
	_, err := w.machine(nil, nil).CheckIn(t.Context(), checkIn("web-01"))
	wantCode(t, "no certificate", err, fleet.Unauthenticated)

	other := must[pki.Authority](t)(pki.NewAuthority("nixfleet agent CA", w.now()))
	key := newKey(t)
	req := must[pki.Request](t)(pki.ParseRequest(csr(t, "web-01", key)))
	forged, err := other.Agent(req, w.now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.machine(forged.Raw, key).CheckIn(t.Context(), checkIn("web-01"))
	wantCode(t, "a certificate of another CA", err, fleet.Unauthenticated)
}

// caFile writes the certificate of a CA.
func caFile(t *testing.T, a pki.Authority) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Certificates of one's own CA can be used instead: then nothing is issued.
func TestAgents_MayHaveCertificatesOfOnesOwnCA(t *testing.T) {
	own := must[pki.Authority](t)(pki.NewAuthority("our own CA", time.Now()))
	w := newWorldWith(t, config.TLS{ClientCAFile: caFile(t, own)})
	admin := w.admin()
	_, err := admin.CreateToken(t.Context(), "web-01", api.TokenRequest{})
	wantCode(t, "a token", err, fleet.Conflict)
	key := newKey(t)
	cert, err := own.Agent(must[pki.Request](t)(pki.ParseRequest(csr(t, "web-01", key))), w.now())
	if err != nil {
		t.Fatal(err)
	}
	m := w.machine(cert.Raw, key)
	must[api.Orders](t)(m.CheckIn(t.Context(), checkIn("web-01")))
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.Lifecycle != fleet.Pending {
		t.Errorf("a machine that nobody knew is %s, want pending until it is adopted", got.Lifecycle)
	}
	if got := must[fleet.Machine](t)(admin.AdoptMachine(t.Context(), "web-01")); got.Lifecycle != fleet.Active {
		t.Errorf("adopted: got %s, want active", got.Lifecycle)
	}
	_, err = m.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", newKey(t))})
	wantCode(t, "a renewal", err, fleet.Conflict)
}

// E07: a machine cannot speak for another one.
func TestAgents_SpeakForThemselvesOnly(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	web := w.enrolled(admin, "web-01")
	w.enrolled(admin, "db-01")
	_, err := web.CheckIn(t.Context(), checkIn("db-01"))
	wantCode(t, "check-in", err, fleet.Forbidden)
	_, err = web.Reports(t.Context(), []fleet.Report{{ID: "1", Machine: "db-01", Kind: fleet.ReportDrift}})
	wantCode(t, "report", err, fleet.Forbidden)
	_, err = web.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "db-01", newKey(t))})
	wantCode(t, "renewal", err, fleet.Forbidden)
	if m := must[fleet.Machine](t)(admin.Machine(t.Context(), "db-01")); m.LastContact != 0 {
		t.Error("db-01 has a last contact and never called")
	}
}

// holding starts a long poll and returns once the control plane holds it.
func (w *world) holding(m *api.AgentClient, ci api.CheckIn) <-chan error {
	w.tb.Helper()
	o := must[api.Orders](w.tb)(m.CheckIn(w.ctx(), ci))
	ci.Have, ci.WaitMs = o.Etag, 60_000
	done := make(chan error, 1)
	before := w.metric("nixfleet_long_polls")
	go func() {
		_, err := m.CheckIn(w.ctx(), ci)
		done <- err
	}()
	w.eventually("the long poll is held", func() bool { return w.metric("nixfleet_long_polls") > before })
	return done
}

// E07: once a machine is shut out its open connection ends too, and a resumed
// session does not restore it.
func TestAgents_AreShutOutAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		out  func(w *world, admin *api.Client)
	}{
		{"decommissioned", func(w *world, admin *api.Client) {
			must[fleet.Machine](t)(admin.SetLifecycle(t.Context(), "web-01", fleet.Decommissioned))
		}},
		{"replaced", func(w *world, admin *api.Client) {
			tok := must[api.Token](t)(admin.CreateToken(t.Context(), "web-01", api.TokenRequest{Replace: true}))
			must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok.Token, CSR: csr(t, "web-01", newKey(t))}))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			admin := w.admin()
			m := w.enrolled(admin, "web-01")
			done := w.holding(m, checkIn("web-01"))
			tt.out(w, admin)
			select {
			case err := <-done:
				if err == nil {
					t.Error("the long poll ended with orders")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the long poll is still held after 5 s")
			}
			for range 2 { // the second one resumes a session, if the first left any
				if _, err := m.CheckIn(t.Context(), checkIn("web-01")); err == nil {
					t.Error("a machine that is shut out got orders")
				}
			}
		})
	}
}

// E07: a revocation list that names a certificate ends it.
func TestAgents_AreShutOutByARevocationList(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	if _, err := admin.PutRoot(t.Context(), w.fleet.RootEnvelope); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)}))
	m := w.machine(cert.Certificate, key)
	done := w.holding(m, checkIn("web-01"))
	list := w.fleet.Revocations(fleet.Revocations{Version: 1, SignedAt: w.now().UnixMilli(), Certificates: []string{serialOf(t, cert.Certificate)}})
	if _, err := admin.PutRevocations(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done: // the new document wakes it, or the closed connection ends it
		_ = err
	case <-time.After(5 * time.Second):
		t.Fatal("the long poll is still held after 5 s")
	}
	if _, err := m.CheckIn(t.Context(), checkIn("web-01")); err == nil {
		t.Error("a revoked certificate got orders")
	}
}

// A18, E07: an expired certificate is refused, also on a connection that was
// made while it was good; one renewed in time goes on.
func TestAgents_AreRefusedOnceTheirCertificateExpires(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	late := w.enrolled(admin, "web-01")
	must[api.Orders](t)(late.CheckIn(t.Context(), checkIn("web-01")))
	key := newKey(t)
	first := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-02"), CSR: csr(t, "web-02", key)}))
	renewing := w.machine(first.Certificate, key)
	w.advance(4 * 24 * time.Hour)
	cert := must[api.Certificate](t)(renewing.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-02", key)}))
	w.advance(4 * 24 * time.Hour)
	if _, err := late.CheckIn(t.Context(), checkIn("web-01")); err == nil {
		t.Error("an expired certificate got orders")
	}
	must[api.Orders](t)(w.machine(cert.Certificate, key).CheckIn(t.Context(), checkIn("web-02")))
}

// E07: a thief with the stolen key sends the first half of a renewal, waits until
// the machine was enrolled anew with --replace, and sends the rest. Nothing
// comes of it, and the machine goes on.
func TestRenew_ThatBeganBeforeReplaceEndsWithIt(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	stolen := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", stolen)}))
	w.advance(4 * 24 * time.Hour)
	body, rest := io.Pipe()
	half := make(chan struct{})
	answer := make(chan error, 1)
	go func() {
		conf := &tls.Config{RootCAs: w.caPool(), Time: w.now, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Certificate}, PrivateKey: stolen}}}
		tr := &http.Transport{TLSClientConfig: conf}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(w.ctx(), http.MethodPost, base(w.addrs.Agents)+api.PathRenew, body)
		if err != nil {
			answer <- err
			return
		}
		res, err := (&http.Client{Transport: tr}).Do(req)
		if err == nil {
			if res.Body.Close(); res.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", res.StatusCode)
			}
		}
		answer <- err
	}()
	renewal := must[[]byte](t)(json.Marshal(api.RenewRequest{CSR: csr(t, "web-01", stolen)}))
	go func() {
		_, _ = rest.Write(renewal[:10])
		close(half)
	}()
	<-half
	tok := must[api.Token](t)(admin.CreateToken(t.Context(), "web-01", api.TokenRequest{Replace: true}))
	_, err := w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok.Token, CSR: csr(t, "web-01", stolen)})
	wantCode(t, "the key that was stolen", err, fleet.Conflict)
	key := newKey(t)
	next := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok.Token, CSR: csr(t, "web-01", key)}))
	_, _ = rest.Write(renewal[10:])
	_ = rest.Close()
	if err = <-answer; err == nil {
		t.Error("the renewal was answered")
	}
	_, err = w.machine(cert.Certificate, stolen).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", stolen)})
	if err == nil {
		t.Error("the old certificate renews")
	}
	_, err = w.machine(next.Certificate, key).Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", newKey(t))})
	wantCode(t, "a renewal for another key", err, fleet.Forbidden)
	must[api.Orders](t)(w.machine(next.Certificate, key).CheckIn(t.Context(), checkIn("web-01")))
}

// A machine hears of a rollout within 100 ms. The best of three counts, for
// the test's own machine may be busy.
func TestCheckIn_WakesWhenARolloutBegins(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	if _, err := admin.PutRoot(t.Context(), w.fleet.RootEnvelope); err != nil {
		t.Fatal(err)
	}
	m := w.enrolled(admin, "web-01")
	rel := w.release(admin, 1, "", "web-01")
	best := time.Hour
	for try := 0; try < 3 && best > 100*time.Millisecond; try++ {
		best = min(best, w.wakes(admin, m, rel.Digest))
	}
	if best > 100*time.Millisecond {
		t.Errorf("woken %v after the rollout was created, want 100 ms at most", best)
	}
	bundle := must[[]byte](t)(m.Release(t.Context(), rel.Digest))
	if _, err := trust.ParseBundle(bundle); err != nil {
		t.Errorf("bundle: %v", err)
	}
	_, err := m.Document(t.Context(), fleet.SHA256([]byte("nothing")))
	wantCode(t, "unknown document", err, fleet.NotFound)
	if root := must[[]byte](t)(m.Root(t.Context(), 1)); string(root) != string(w.fleet.RootEnvelope) {
		t.Error("root version 1 is not the one pinned")
	}
}

// wakes holds a long poll of web-01, creates a rollout, and returns how long
// after that the machine had its orders. The rollout is cancelled.
func (w *world) wakes(admin *api.Client, m *api.AgentClient, d fleet.Digest) time.Duration {
	w.tb.Helper()
	ci := checkIn("web-01")
	o := must[api.Orders](w.tb)(m.CheckIn(w.ctx(), ci))
	if o.Apply != nil || o.Prefetch != "" {
		w.tb.Fatalf("orders before any rollout: %+v", o)
	}
	ci.Have, ci.WaitMs = o.Etag, 60_000
	type answer struct {
		orders api.Orders
		err    error
		at     time.Time
	}
	woken := make(chan answer, 1)
	go func() {
		o, err := m.CheckIn(w.ctx(), ci)
		woken <- answer{o, err, time.Now()}
	}()
	w.eventually("the long poll is held", func() bool { return w.metric("nixfleet_long_polls") > 0 })
	r := must[api.RolloutDetail](w.tb)(admin.CreateRollout(w.ctx(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: d, Strategy: fleet.AllAtOnce}}))
	created := time.Now()
	select {
	case a := <-woken:
		if a.err != nil || a.orders.Apply == nil || a.orders.Apply.Digest != d || a.orders.Apply.Rollout != r.ID {
			w.tb.Errorf("got %+v, %v; want the order to apply %s", a.orders, a.err, d.Short())
		}
		must[api.RolloutDetail](w.tb)(admin.RolloutVerb(w.ctx(), r.ID, api.VerbCancel, api.VerbRequest{}))
		return a.at.Sub(created)
	case <-time.After(10 * time.Second):
		w.tb.Fatal("not woken")
	}
	return 0
}

// E12 in part: what an agent was told before a restart it can show after it,
// by a resumed session.
func TestAgents_ResumeTheirSessionAfterARestart(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)}))
	resumed := false
	conf := &tls.Config{
		RootCAs: w.caPool(), ServerName: "localhost", MinVersion: tls.VersionTLS13, ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates:     []tls.Certificate{{Certificate: [][]byte{cert.Certificate}, PrivateKey: key}},
		VerifyConnection: func(cs tls.ConnectionState) error { resumed = cs.DidResume; return nil },
	}
	visit := func() {
		m := must[*api.AgentClient](t)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(w.addrs.Agents), TLS: conf}))
		defer m.Close()
		must[api.Orders](t)(m.CheckIn(t.Context(), checkIn("web-01")))
	}
	visit()
	w.stop()
	w.start()
	visit()
	if !resumed {
		t.Error("the session was not resumed")
	}
}

// An agent that is newer than its control plane keeps it.
func TestCheckIn_LetsUnknownFieldsPass(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)}))
	post := func(body string) int {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Certificate}, PrivateKey: key}}}}
		defer tr.CloseIdleConnections()
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, base(w.addrs.Agents)+api.PathCheckIn, strings.NewReader(body)))
		res := must[*http.Response](t)((&http.Client{Transport: tr}).Do(req))
		defer res.Body.Close()
		return res.StatusCode
	}
	if got := post(`{"machine":"web-01","mood":"fine"}`); got != http.StatusOK {
		t.Errorf("unknown field: status %d, want 200", got)
	}
	if got := post(`{"machine":`); got != http.StatusUnprocessableEntity {
		t.Errorf("cut short: status %d, want 422", got)
	}
	if got := post(`{"machine":"web-01","waiting":"` + strings.Repeat("a", 1<<20) + `"}`); got != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: status %d, want 413", got)
	}
}

func TestHealth_TellsStateAndCounts(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Orders](t)(w.enrolled(admin, "web-01").CheckIn(t.Context(), checkIn("web-01")))
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := w.get(path); status != http.StatusOK {
			t.Errorf("%s: status %d, %s", path, status, body)
		}
	}
	_, body := w.get("/metrics")
	for _, want := range []string{
		"nixfleet_fleet_size 1\n", `nixfleet_machines{lifecycle="active"} 1`, "nixfleet_machines_online 1\n", "nixfleet_rollouts_active 0\n",
		`nixfleet_machines_silent{seconds="900"} 0`, `nixfleet_http_requests_total{listener="agents",operation="checkIn",status="200"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics have no %q:\n%s", want, body)
		}
	}
	if strings.Contains(body, "web-01") {
		t.Errorf("metrics name a machine, to whom did not ask for it:\n%s", body)
	}
	if _, body := w.get("/metrics?series=machine"); !strings.Contains(body, `nixfleet_machine_last_seen_timestamp_seconds{machine="web-01"} 1`) || !strings.Contains(body, "nixfleet_fleet_size 1\n") {
		t.Errorf("metrics of each machine:\n%s", body)
	}
	w.advance(20 * time.Minute)
	if _, body := w.get("/metrics"); !strings.Contains(body, `nixfleet_machines_silent{seconds="900"} 1`) || !strings.Contains(body, `nixfleet_machines_silent{seconds="3600"} 0`) {
		t.Errorf("metrics 20 minutes later:\n%s", body)
	}
}

func TestStop_EndsLongPollsAndStreams(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	done := w.holding(w.enrolled(admin, "web-01"), checkIn("web-01"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	streaming := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		first := true
		for range admin.Watch(ctx, 0, fleet.EventFilter{}) {
			if first {
				close(streaming)
				first = false
			}
		}
	})
	<-streaming
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := <-done; fleet.ErrorCode(err) != fleet.Unavailable || !strings.Contains(err.Error(), "is stopping") {
		t.Errorf("the long poll: %v", err)
	}
	cancel()
	wg.Wait()
}
