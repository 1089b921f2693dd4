// SPDX-License-Identifier: MIT

package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// waitLimit bounds every wait: longer than anything takes on a loaded machine.
const waitLimit = 90 * time.Second

// plane is a control plane that gives the orders it is told to give.
type plane struct {
	t       *testing.T
	mu      sync.Mutex
	orders  api.Orders
	seen    api.CheckIn
	bundles map[fleet.Digest][]byte
	reports []fleet.Report
	changed chan struct{}
	down    bool
}

func (p *plane) update(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	reply := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil && r.Context().Err() == nil {
			p.t.Error(err)
		}
	}
	switch {
	case r.URL.Path == api.PathCheckIn:
		var c api.CheckIn
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			p.t.Error(err)
		}
		p.update(func() { p.seen = c })
		end := time.After(time.Duration(c.WaitMs) * time.Millisecond)
		for {
			p.mu.Lock()
			o, changed := p.orders, p.changed
			p.mu.Unlock()
			if o.Etag != c.Have || c.WaitMs == 0 {
				reply(o)
				return
			}
			select {
			case <-changed:
			case <-end:
				reply(o)
				return
			case <-r.Context().Done():
				return
			}
		}
	case r.URL.Path == api.PathReports:
		var in api.Reports
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			p.t.Error(err)
		}
		ack := api.ReportsReply{Accepted: []string{}, Rejected: []string{}}
		p.update(func() {
			for _, rep := range in.Reports {
				ack.Accepted = append(ack.Accepted, rep.ID)
				if err := rep.Validate(); err != nil {
					p.t.Errorf("report: %v", err)
				}
				p.reports = append(p.reports, rep)
			}
		})
		reply(ack)
	case strings.HasPrefix(r.URL.Path, api.PathRelease):
		p.mu.Lock()
		b, ok := p.bundles[fleet.Digest(strings.TrimPrefix(r.URL.Path, api.PathRelease))]
		p.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// await waits until ok, which is called with p locked.
func (p *plane) await(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(waitLimit)
	for {
		p.mu.Lock()
		good, changed := ok(), p.changed
		p.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.mu.Lock()
			defer p.mu.Unlock()
			p.t.Fatalf("not within %s: %s; last check-in %+v", waitLimit, what, p.seen)
		}
	}
}

// site is one machine with its control plane, cache and fleet.
type site struct {
	t      *testing.T
	ctx    context.Context
	tb     *testbed.Testbed
	host   *testbed.Host
	plane  *plane
	fleet  *trusttest.Fleet
	cache  *testbed.Cache
	evil   *evil.Cache // serves what is in cache
	agent  string      // its program
	ca     string
	root   string
	seq    uint64
	order  int
	checks string // of the agent's configuration
}

const machineID = "web-01"

func newSite(t *testing.T) *site {
	testbed.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*waitLimit)
	t.Cleanup(cancel)
	tb, err := testbed.New(ctx, testbed.Config{})
	check(t, err)
	t.Cleanup(func() { check(t, tb.Destroy()) })
	s := &site{t: t, ctx: ctx, tb: tb, fleet: trusttest.New(t, "test", nil), plane: &plane{t: t, bundles: map[fleet.Digest][]byte{}, changed: make(chan struct{})}}
	s.plane.orders.Etag = "0"
	s.agent = buildAgent(t, "1")
	s.root = string(s.fleet.RootEnvelope)
	s.checks = "[checks.app]\nkind = \"unit\"\nunit = \"app.service\"\nintervalSeconds = 0.3\nretries = 1\nsuccesses = 2\n"

	key, cert := s.serve()
	dir := t.TempDir()
	check(t, os.Chmod(dir, 0o755))
	s.cache, err = testbed.NewCache(dir, "cache-1")
	check(t, err)
	l, err := tb.ListenHub(ctx, "tcp", ":8080")
	check(t, err)
	s.evil = &evil.Cache{Next: s.cache.Handler()}
	web := &http.Server{Handler: s.evil}
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })

	s.host, err = tb.Create(ctx, testbed.Spec{Name: machineID, System: s.build(testbed.System{Generation: "0"}), Off: true})
	check(t, err)
	check(t, s.host.WriteFile(ctx, "/var/lib/nixfleet/agent/identity/key.pem", key, 0o600))
	check(t, s.host.WriteFile(ctx, "/var/lib/nixfleet/agent/identity/cert.pem", cert, 0o644))
	check(t, s.host.Boot(ctx))
	_, err = s.host.Wait(ctx)
	check(t, err)
	s.sh("nixfleet-agent adopt-floor --config /etc/nixfleet/agent.toml")
	t.Cleanup(func() {
		if t.Failed() {
			out, err := s.host.Exec(context.WithoutCancel(ctx), proc.Cmd{Path: "/bin/sh", Args: []string{"-c", "journalctl --no-pager -o cat -n 150; cat /var/lib/nixfleet/agent/*.json*"}, Timeout: time.Minute})
			t.Logf("journal (%v):\n%s", err, out.Stdout)
		}
	})
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// buildAgent builds the program that is under test.
func buildAgent(t *testing.T, version string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nixfleet-agent")
	_, err := proc.Run(t.Context(), proc.Cmd{
		Path: "go", Args: []string{"build", "-trimpath", "-ldflags", "-s -w -X main.version=" + version, "-o", file, "github.com/arcanesys/nixfleet/cmd/nixfleet-agent"},
		Env: append(os.Environ(), "CGO_ENABLED=0"),
	})
	check(t, err)
	return file
}

// serve starts the control plane with a CA of its own, and returns the
// machine's key and certificate.
func (s *site) serve() (key, cert []byte) {
	t := s.t
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	check(t, err)
	s.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.ca))
	issue := func(c *x509.Certificate) (k *ecdsa.PrivateKey, d []byte) {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		c.NotBefore, c.NotAfter, c.SerialNumber = ca.NotBefore, ca.NotAfter, big.NewInt(time.Now().UnixNano())
		d, err = x509.CreateCertificate(rand.Reader, c, ca, k.Public(), caKey)
		check(t, err)
		return k, d
	}
	hub := s.tb.HubAddr()
	serverKey, serverDER := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "cp"}, IPAddresses: []net.IP{hub.AsSlice()}})
	machineKey, machineDER := issue(&x509.Certificate{Subject: pkix.Name{CommonName: machineID}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	l, err := s.tb.ListenHub(s.ctx, "tcp", ":8444")
	check(t, err)
	srv := &http.Server{Handler: s.plane, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })
	kd, err := x509.MarshalPKCS8PrivateKey(machineKey)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: machineDER})
}

func (s *site) build(sys testbed.System) string {
	s.t.Helper()
	sys.HostName = machineID
	if sys.Agent == "" {
		sys.Agent = s.agent
	}
	sys.Files = map[string]string{
		"nixfleet/ca.pem": s.ca, "nixfleet/root.json": s.root,
		"nixfleet/agent.toml": fmt.Sprintf(`machineId = %q
[controlPlane]
url = "https://%s:8444"
caFile = "/etc/nixfleet/ca.pem"
longPollSeconds = 20
pollSeconds = 0.5
[trust]
rootFile = "/etc/nixfleet/root.json"
[reboot]
policy = "if-needed"
%s`, machineID, s.tb.HubAddr(), s.checks),
	}
	path, err := s.tb.Build(s.ctx, sys)
	check(s.t, err)
	return path
}

// release signs the next release with one system and makes it known.
func (s *site) release(path string) fleet.Digest {
	s.t.Helper()
	closure, err := nix.Closure(s.ctx, fleet.StorePath(path))
	check(s.t, err)
	check(s.t, s.cache.Push(s.ctx, path))
	s.seq++
	h := s.fleet.Header(s.seq)
	h.CreatedAt, h.Expires = time.Now().UnixMilli(), time.Now().Add(time.Hour).UnixMilli()
	h.Caches = []fleet.Cache{{URL: fmt.Sprintf("http://%s:8080", s.tb.HubAddr()), PublicKeys: []string{s.cache.PublicKey()}}}
	h.Policy = fleet.Policy{ConfirmWindowMs: 5000, RevertWindowMs: 3600_000}
	e := fleet.Entry{ID: machineID, StorePath: fleet.StorePath(path), ClosureDigest: fleet.ClosureDigest(closure)}
	e.System, err = nix.SystemPlatform(string(e.StorePath))
	check(s.t, err)
	for _, p := range closure {
		e.ClosureSize += p.NarSize
		if p.Path == e.StorePath {
			e.NarHash = p.NarHash
		}
	}
	envelope, raw := s.fleet.Unchecked(h, []fleet.Entry{e}, "test-release")
	r, err := trust.CheckRelease(envelope, raw, &s.fleet.Root, time.Now().UnixMilli())
	check(s.t, err)
	b, err := json.Marshal(s.fleet.Bundle(r, machineID))
	check(s.t, err)
	s.plane.update(func() { s.plane.bundles[r.Digest] = b })
	return r.Digest
}

// give orders an apply and returns without waiting.
func (s *site) give(d fleet.Digest, deadline time.Duration) {
	s.order++
	s.plane.update(func() {
		s.plane.orders = api.Orders{Etag: fmt.Sprint(s.order), WaitMs: 20_000, Apply: &fleet.Order{
			Digest: d, Rollout: rolloutID(s.order), Attempt: 1, MinHealthyMs: 1500, DeadlineMs: deadline.Milliseconds(),
		}}
	})
}

func rolloutID(n int) fleet.RolloutID { return fleet.RolloutID(fmt.Sprintf("01J%023d", n)) }

// outcome waits for the outcome of the last order.
func (s *site) outcome() fleet.Report {
	s.t.Helper()
	var out fleet.Report
	s.plane.await("outcome of order "+fmt.Sprint(s.order), func() bool {
		for _, r := range s.plane.reports {
			if r.Kind == fleet.ReportOutcome && r.Rollout == rolloutID(s.order) {
				out = r
				return true
			}
		}
		return false
	})
	return out
}

// apply brings a system by a release of its own and returns the outcome.
func (s *site) apply(path string) fleet.Report {
	s.t.Helper()
	s.give(s.release(path), 20*time.Second)
	return s.outcome()
}

func (s *site) sh(script string) string {
	s.t.Helper()
	res, err := s.host.Exec(s.ctx, proc.Cmd{Path: "/bin/sh", Args: []string{"-c", "PATH=/run/current-system/sw/bin:$PATH; " + script}, Timeout: waitLimit})
	var exit *proc.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(bytes.TrimSpace(res.Stdout)) + string(res.Stderr))
}

// runs wants a system to run, to be the boot default, and its app with it.
func (s *site) runs(path string) {
	s.t.Helper()
	want := path + " " + path + " " + path
	if got := s.sh("echo $(readlink -f /run/current-system) $(readlink -f /nix/var/nix/profiles/system) $(cat /boot/default)"); got != want {
		s.t.Errorf("running, profile, boot default:\n%s\nwant\n%s", got, want)
	}
}

func (s *site) want(r fleet.Report, o fleet.Outcome, reason fleet.Reason) {
	s.t.Helper()
	if r.Outcome != o || r.Reason != reason {
		s.t.Errorf("outcome %s, reason %q: %s; want %s, %q", r.Outcome, r.Reason, r.Message, o, reason)
	}
}
