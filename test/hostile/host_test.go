// SPDX-License-Identifier: MIT

package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
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
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

const hostLimit = 90 * time.Second

// liar is a control plane in an attacker's hands: it has the keys of both CAs, and
// says what it is told to say.
type liar struct {
	t       testing.TB
	mu      sync.Mutex
	changed chan struct{}
	orders  api.Orders
	served  map[string][]byte // by path
	reports []fleet.Report
	seen    api.CheckIn // the last
	calls   int         // of agents, whatever they want
	shakes  int         // handshakes that began
	certs   map[string]tls.Certificate
	shows   string // which certificate
}

func (l *liar) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.update(func() { l.calls++ })
	switch {
	case r.URL.Path == api.PathCheckIn:
		var c api.CheckIn
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			l.t.Error(err)
		}
		l.update(func() { l.seen = c })
		l.hold(w, r, c)
	case r.URL.Path == api.PathReports:
		var in api.Reports
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			l.t.Error(err)
		}
		ack := api.ReportsReply{Accepted: []string{}, Rejected: []string{}}
		for _, rep := range in.Reports {
			ack.Accepted = append(ack.Accepted, rep.ID)
		}
		l.update(func() { l.reports = append(l.reports, in.Reports...) })
		_ = json.NewEncoder(w).Encode(ack) // the agent sends them again
	default:
		l.mu.Lock()
		b, ok := l.served[r.URL.Path]
		l.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b) // the agent asks again
	}
}

func (l *liar) hold(w http.ResponseWriter, r *http.Request, c api.CheckIn) {
	end := time.After(time.Duration(c.WaitMs) * time.Millisecond)
	for {
		l.mu.Lock()
		o, changed := l.orders, l.changed
		l.mu.Unlock()
		if o.Etag != c.Have || c.WaitMs == 0 {
			_ = json.NewEncoder(w).Encode(o)
			return
		}
		select {
		case <-changed:
		case <-end:
			_ = json.NewEncoder(w).Encode(o)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// await waits until ok, which is called with l locked.
func (l *liar) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.After(hostLimit)
	for {
		l.mu.Lock()
		good, changed := ok(), l.changed
		l.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-end:
			t.Fatalf("not in %s: %s", hostLimit, what)
		}
	}
}

// victim is a real agent on a real systemd, with a liar, an evil cache and its fleet.
type victim struct {
	t     *testing.T
	tb    *testbed.Testbed
	host  *testbed.Host
	liar  *liar
	fleet *tt.Fleet
	other *tt.Fleet
	cache *testbed.Cache
	evil  *evil.Cache
	agent string
	ca    string
	order int
	// entries are kept: what was built may be collected as garbage meanwhile.
	entries map[string]fleet.Entry
}

const victimID = "web-01"

func newVictim(t *testing.T) *victim {
	testbed.Require(t)
	ctx := t.Context()
	tb := must[*testbed.Testbed](t)(testbed.New(ctx, testbed.Config{}))
	t.Cleanup(func() {
		if err := tb.Destroy(); err != nil {
			t.Error(err)
		}
	})
	v := &victim{t: t, tb: tb, entries: map[string]fleet.Entry{}, fleet: tt.New(t, "acme", nil), other: tt.New(t, "evil", nil), agent: filepath.Join(t.TempDir(), "nixfleet-agent")}
	v.liar = &liar{t: t, changed: make(chan struct{}), served: map[string][]byte{}, orders: api.Orders{Etag: "0"}, certs: map[string]tls.Certificate{}}
	must[proc.Result](t)(proc.Run(ctx, proc.Cmd{Path: "go", Args: []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", v.agent, "github.com/arcanesys/nixfleet/cmd/nixfleet-agent"},
		Env: append(os.Environ(), "CGO_ENABLED=0")}))
	h := v.serve()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v.cache = must[*testbed.Cache](t)(testbed.NewCache(dir, "cache-1"))
	v.evil = &evil.Cache{Next: v.cache.Handler()}
	v.listen(":8080", v.evil)

	v.host = must[*testbed.Host](t)(tb.Create(ctx, testbed.Spec{Name: victimID, System: v.build(testbed.System{Generation: "0"}), Off: true}))
	kd := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(h.key))
	for name, block := range map[string]*pem.Block{"key.pem": {Type: "PRIVATE KEY", Bytes: kd}, "cert.pem": {Type: "CERTIFICATE", Bytes: h.cert}} {
		if err := v.host.WriteFile(ctx, "/var/lib/nixfleet/agent/identity/"+name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.host.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := v.host.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	v.sh(t, "nixfleet-agent adopt-floor --config /etc/nixfleet/agent.toml; until grep -q '\"floor\"' /var/lib/nixfleet/agent/journal.json; do sleep 0.1; done")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(v.sh(t, "journalctl --no-pager -o cat -n 100 -u nixfleet-agent"))
		}
	})
	return v
}

func (v *victim) listen(address string, h http.Handler) {
	l := must[net.Listener](v.t)(v.tb.ListenHub(v.t.Context(), "tcp", address))
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(l)
	v.t.Cleanup(func() { srv.Close() })
}

// serve starts the liar with the keys of a control plane, and returns the machine's.
func (v *victim) serve() holder {
	t := v.t
	now, hub := time.Now(), v.tb.HubAddr().String()
	ca := must[pki.Authority](t)(pki.NewAuthority("nixfleet server CA", now))
	agents := must[pki.Authority](t)(pki.NewAuthority("nixfleet agent CA", now))
	stranger := must[pki.Authority](t)(pki.NewAuthority("nixfleet server CA", now))
	v.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))
	for name, from := range map[string]struct {
		ca   pki.Authority
		host string
	}{"": {ca, hub}, "another CA's": {stranger, hub}, "another host's": {ca, "192.0.2.1"}} {
		cert, key, err := from.ca.Server([]string{from.host}, now)
		if err != nil {
			t.Fatal(err)
		}
		v.liar.certs[name] = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	pool := x509.NewCertPool()
	pool.AddCert(agents.Cert)
	l := must[net.Listener](t)(v.tb.ListenHub(t.Context(), "tcp", ":8444"))
	srv := &http.Server{Handler: v.liar, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			var c tls.Certificate
			v.liar.update(func() { v.liar.shakes++; c = v.liar.certs[v.liar.shows] })
			return &c, nil
		},
	}}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })
	h := holder{id: victimID, key: newSigner(t)}
	req := must[pki.Request](t)(pki.ParseRequest(csr(t, victimID, h.key)))
	h.cert = must[*x509.Certificate](t)(agents.Agent(req, now)).Raw
	return h
}

func (v *victim) build(sys testbed.System) string {
	v.t.Helper()
	sys.HostName, sys.Agent = victimID, v.agent
	sys.Files = map[string]string{
		"nixfleet/ca.pem": v.ca, "nixfleet/root.json": string(v.fleet.RootEnvelope),
		"nixfleet/agent.toml": fmt.Sprintf(`machineId = %q
[controlPlane]
url = "https://%s:8444"
caFile = "/etc/nixfleet/ca.pem"
longPollSeconds = 20
pollSeconds = 0.5
[trust]
rootFile = "/etc/nixfleet/root.json"
[checks.app]
kind = "unit"
unit = "app.service"
intervalSeconds = 0.3
retries = 1
successes = 2
`, victimID, v.tb.HubAddr()),
	}
	return must[string](v.t)(v.tb.Build(v.t.Context(), sys))
}

func (v *victim) sh(t *testing.T, script string) string {
	t.Helper()
	res, err := v.host.Exec(context.WithoutCancel(t.Context()), proc.Cmd{Path: "/bin/sh", Args: []string{"-c", "PATH=/run/current-system/sw/bin:$PATH; " + script}, Timeout: hostLimit})
	var exit *proc.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(res.Stdout))
}

// entry is the signed part of a system, as release create makes it.
func (v *victim) entry(path string) fleet.Entry {
	v.t.Helper()
	if e, ok := v.entries[path]; ok {
		return e
	}
	closure := must[[]fleet.ClosurePath](v.t)(nix.Closure(v.t.Context(), fleet.StorePath(path)))
	e := fleet.Entry{ID: victimID, StorePath: fleet.StorePath(path), ClosureDigest: fleet.ClosureDigest(closure)}
	e.System = must[fleet.System](v.t)(nix.SystemPlatform(path))
	for _, p := range closure {
		e.ClosureSize += p.NarSize
		if p.Path == e.StorePath {
			e.NarHash = p.NarHash
		}
	}
	v.entries[path] = e
	return e
}

func (v *victim) header(f *tt.Fleet, seq uint64) fleet.Header {
	h := f.Header(seq)
	h.CreatedAt, h.Expires = time.Now().UnixMilli(), time.Now().Add(time.Hour).UnixMilli()
	h.Caches = []fleet.Cache{{URL: fmt.Sprintf("http://%s:8080", v.tb.HubAddr()), PublicKeys: []string{v.cache.PublicKey()}}}
	h.Policy = fleet.Policy{ConfirmWindowMs: 5000, RevertWindowMs: 3600_000}
	return h
}

// bundle signs a release of entries with keys of a fleet, and gives the first's part.
func (v *victim) bundle(f *tt.Fleet, h fleet.Header, entries []fleet.Entry, labels ...string) trust.Bundle {
	v.t.Helper()
	envelope, raw := f.Unchecked(h, entries, labels...)
	return trust.Bundle{Envelope: envelope, Entry: raw[0], Proof: trust.NewTree(raw).Prove(0)}
}

// unchecked signs a release of one entry as a faulty tool of a signer might: the
// text is not looked at.
func (v *victim) unchecked(h fleet.Header, entry []byte, label string) trust.Bundle {
	v.t.Helper()
	tree := trust.NewTree([][]byte{entry})
	h.Entries = fleet.EntriesRef{Count: 1, Root: tree.Root()}
	return trust.Bundle{Envelope: v.fleet.Sign(fleet.TypeRelease, must[[]byte](v.t)(json.Marshal(h)), label), Entry: entry, Proof: tree.Prove(0)}
}

// offer has the liar serve a bundle and returns the digest under which it does.
func (v *victim) offer(t *testing.T, b trust.Bundle) fleet.Digest {
	t.Helper()
	raw := must[[]byte](t)(json.Marshal(b))
	d := fleet.SHA256(raw)
	var e trust.Envelope
	if err := json.Unmarshal(b.Envelope, &struct{ Payload *[]byte }{&e.Payload}); err == nil {
		d = e.Digest()
	}
	v.liar.update(func() { v.liar.served[api.PathRelease+string(d)] = raw })
	return d
}

// ordered gives an order.
func (v *victim) ordered(d fleet.Digest, revert bool, deadline time.Duration) fleet.RolloutID {
	v.order++
	id := fleet.RolloutID(fmt.Sprintf("01J%023d", v.order))
	o := &fleet.Order{Digest: d, Rollout: id, Attempt: 1, MinHealthyMs: 1500, DeadlineMs: deadline.Milliseconds()}
	v.liar.update(func() {
		v.liar.orders = api.Orders{Etag: fmt.Sprint(v.order), WaitMs: 20_000}
		if revert {
			v.liar.orders.Revert = o
		} else {
			v.liar.orders.Apply = o
		}
	})
	return id
}

// give gives an order and returns the outcome that is reported.
func (v *victim) give(t *testing.T, d fleet.Digest, revert bool, deadline time.Duration) fleet.Report {
	t.Helper()
	id := v.ordered(d, revert, deadline)
	return v.reported(t, func(r fleet.Report) bool { return r.Kind == fleet.ReportOutcome && r.Rollout == id })
}

func (v *victim) reported(t *testing.T, is func(fleet.Report) bool) (out fleet.Report) {
	t.Helper()
	v.liar.await(t, "a report", func() bool {
		for _, r := range v.liar.reports {
			if is(r) {
				out = r
				return true
			}
		}
		return false
	})
	return out
}

// live applies a release honestly.
func (v *victim) live(t *testing.T, b trust.Bundle) {
	t.Helper()
	if r := v.give(t, v.offer(t, b), false, 40*time.Second); r.Outcome != fleet.OutcomeLive {
		t.Fatalf("an honest release ended %s, %s: %s", r.Outcome, r.Reason, r.Message)
	}
}

// machine is what a machine runs and will boot, and what it believes.
type machine struct {
	Runs    string
	Trust   trust.State
	Current *states.System
}

func (v *victim) state(t *testing.T) any {
	t.Helper()
	m := machine{Runs: v.sh(t, "readlink -f /run/current-system /nix/var/nix/profiles/system; cat /boot/default; ls /nix/var/nix/profiles; systemctl is-active app.service")}
	text := v.sh(t, "cat /var/lib/nixfleet/agent/journal.json")
	var j states.Journal
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	m.Trust, m.Current = j.Trust, j.Current
	return m
}

func rewritten(b trust.Bundle, text, by string) trust.Bundle {
	e, err := trust.ParseEnvelope(b.Envelope, fleet.TypeRelease)
	if err != nil || !bytes.Contains(e.Payload, []byte(text)) {
		panic(fmt.Sprintf("%s: %v", text, err)) // the test is wrong
	}
	e.Payload = bytes.Replace(e.Payload, []byte(text), []byte(by), 1)
	b.Envelope = e.Encode()
	return b
}
