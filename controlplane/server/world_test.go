// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/gates"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/controlplane/webhook"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

const bootstrapSecret = "open sesame, open sesame"

// world is a control plane at work on loopback, with real TLS and a real
// store, that can be stopped and started again.
type world struct {
	tb     testing.TB
	dir    string
	tls    config.TLS
	gates  map[string]config.Gate
	guard  config.MetricsGuard
	retry  webhook.Retry
	mu     sync.Mutex
	offset time.Duration // of the clock, from the real one; guarded by mu

	store  *store.Store
	plane  *plane.Plane
	keys   *pki.Keys
	server *server.Server
	addrs  server.Listeners
	stop   func()
	fleet  *trusttest.Fleet
	lost   bool // the store is closed: what comes last cannot be written

	secretOfAdmin string
	clients       []interface{ Close() } // guarded by mu
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

// advance moves the control plane's clock.
func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return newWorldWith(tb, config.TLS{})
}

func newWorldWith(tb testing.TB, conf config.TLS) *world {
	tb.Helper()
	w := &world{tb: tb, dir: tb.TempDir(), tls: conf, fleet: trusttest.New(tb, "acme", nil)}
	w.start()
	tb.Cleanup(func() { w.stop() })
	return w
}

// start brings the control plane up on the files in w.dir.
func (w *world) start() {
	w.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(w.tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.keys = must[*pki.Keys](w.tb)(pki.Load(w.dir, []string{"127.0.0.1", "localhost"}, w.now()))
	identity := must[*server.Identity](w.tb)(server.NewIdentity(w.tls, w.keys))
	w.store = must[*store.Store](w.tb)(store.Open(ctx, store.Options{Path: filepath.Join(w.dir, "nixfleet.db")}))
	w.plane = must[*plane.Plane](w.tb)(plane.Open(ctx, plane.Config{Store: w.store, Log: log, Now: w.now, Version: "test", EpochKey: w.keys.EpochKey,
		Webhooks: w.retry, Gates: gates.New(gates.Options{Gates: w.gates, Clock: w.now})}))
	if err := w.plane.Keys.SetBootstrapSecret(ctx, bootstrapSecret); err != nil {
		w.tb.Fatal(err)
	}
	w.server = must[*server.Server](w.tb)(server.New(server.Options{Plane: w.plane, Identity: identity, Log: log, Now: w.now, Metrics: w.guard}))
	w.addrs = must[server.Listeners](w.tb)(server.Listen(ctx, config.Listen{Operators: "127.0.0.1:0", Agents: "127.0.0.1:0", Metrics: "127.0.0.1:0"}))
	var serving, working sync.WaitGroup
	working.Go(func() { _ = w.plane.Run(context.Background()) })
	serving.Go(func() {
		if err := w.server.Serve(ctx, w.addrs); err != nil {
			w.tb.Errorf("serve: %v", err)
		}
	})
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			w.mu.Lock()
			for _, c := range w.clients {
				c.Close()
			}
			w.mu.Unlock()
			cancel()
			serving.Wait()
			if err := w.plane.Close(); err != nil && !w.lost {
				w.tb.Errorf("close plane: %v", err)
			}
			working.Wait()
			if err := w.store.Close(); err != nil {
				w.tb.Errorf("close store: %v", err)
			}
		})
	}
}

func (w *world) caPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(w.keys.ServerCA.Cert)
	return pool
}

func base(l net.Listener) string { return "https://" + l.Addr().String() }

// operator is a client with a key, or without one.
func (w *world) operator(key string) *api.Client {
	w.tb.Helper()
	c := must[*api.Client](w.tb)(api.NewClient(api.ClientConfig{BaseURL: base(w.addrs.Operators), Key: key, TLS: &tls.Config{RootCAs: w.caPool(), Time: w.now}}))
	w.closeLater(c)
	return c
}

// admin exchanges the bootstrap secret for a key.
func (w *world) admin() *api.Client {
	w.tb.Helper()
	k := must[api.NewKey](w.tb)(w.operator("").BootstrapKey(w.ctx(), api.BootstrapRequest{Secret: bootstrapSecret, Owner: "root"}))
	w.secretOfAdmin = k.Secret
	return w.operator(k.Secret)
}

// as makes a key of a role.
func (w *world) as(admin *api.Client, role fleet.Role) (*api.Client, fleet.Key) {
	w.tb.Helper()
	k := must[api.NewKey](w.tb)(admin.CreateKey(w.ctx(), api.KeyRequest{Owner: "some-" + string(role), Role: role}))
	return w.operator(k.Secret), k.Key
}

func (w *world) ctx() context.Context {
	if t, ok := w.tb.(*testing.T); ok {
		return t.Context()
	}
	return context.Background()
}

func newKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func csr(tb testing.TB, name fleet.MachineID, key crypto.Signer) []byte {
	tb.Helper()
	return must[[]byte](tb)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(name)}}, key))
}

// machine is a client of the agents' listener with a certificate, or without
// one if der is nil.
func (w *world) machine(der []byte, key crypto.Signer) *api.AgentClient {
	w.tb.Helper()
	conf := &tls.Config{RootCAs: w.caPool(), Time: w.now}
	if der != nil {
		conf.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	c := must[*api.AgentClient](w.tb)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(w.addrs.Agents), TLS: conf}))
	w.closeLater(c)
	return c
}

// closeLater closes a client's idle connections before the control plane
// stops: it would wait a second for those with HTTP/2.
func (w *world) closeLater(c interface{ Close() }) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = append(w.clients, c)
}

// token makes an enrolment token.
func (w *world) token(admin *api.Client, name fleet.MachineID) string {
	w.tb.Helper()
	return must[api.Token](w.tb)(admin.CreateToken(w.ctx(), name, api.TokenRequest{})).Token
}

// enrolled registers and enrols a machine, and makes it active.
func (w *world) enrolled(admin *api.Client, name fleet.MachineID) *api.AgentClient {
	w.tb.Helper()
	must[fleet.Machine](w.tb)(admin.RegisterMachine(w.ctx(), api.MachineRequest{ID: name}))
	key := newKey(w.tb)
	cert := must[api.Certificate](w.tb)(w.machine(nil, nil).Enroll(w.ctx(), api.EnrollRequest{Token: w.token(admin, name), CSR: csr(w.tb, name, key)}))
	return w.machine(cert.Certificate, key)
}

// checkIn is what a healthy machine says.
func checkIn(name fleet.MachineID) api.CheckIn {
	e := trusttest.Entry(name, "first")
	return api.CheckIn{
		Machine: name, AgentVersion: "test", System: "x86_64-linux", Line: "main", BootID: "boot-1", State: fleet.AgentIdle,
		Generations: fleet.Generations{Running: e.StorePath, Booted: e.StorePath, BootDefault: e.StorePath},
	}
}

// release registers a release for machines.
func (w *world) release(admin *api.Client, sequence uint64, previous fleet.Digest, machines ...fleet.MachineID) fleet.Release {
	w.tb.Helper()
	return must[fleet.Release](w.tb)(admin.CreateRelease(w.ctx(), w.signed(sequence, previous, machines...)))
}

// signed is a release for machines that is not registered yet.
func (w *world) signed(sequence uint64, previous fleet.Digest, machines ...fleet.MachineID) api.ReleaseRequest {
	w.tb.Helper()
	h := w.fleet.Header(sequence)
	h.PreviousDigest = previous
	h.CreatedAt, h.Expires = w.now().Add(-time.Minute).UnixMilli(), w.now().Add(24*time.Hour).UnixMilli()
	var entries []fleet.Entry
	for _, m := range machines {
		entries = append(entries, trusttest.Entry(m, fmt.Sprint("release ", sequence)))
	}
	envelope, raw := w.fleet.Unchecked(h, entries, "acme-release")
	return api.ReleaseRequest{Envelope: envelope, Entries: raw}
}

func serialOf(tb testing.TB, der []byte) string {
	tb.Helper()
	return pki.Serial(must[*x509.Certificate](tb)(x509.ParseCertificate(der)))
}

// get reads a page of the metrics listener.
func (w *world) get(path string) (int, string) {
	w.tb.Helper()
	req := must[*http.Request](w.tb)(http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+w.addrs.Metrics.Addr().String()+path, nil))
	res := must[*http.Response](w.tb)(http.DefaultClient.Do(req))
	defer res.Body.Close()
	return res.StatusCode, string(must[[]byte](w.tb)(io.ReadAll(res.Body)))
}

// metric is the value of a metric without labels.
func (w *world) metric(name string) float64 {
	w.tb.Helper()
	_, body := w.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return must[float64](w.tb)(strconv.ParseFloat(value, 64))
		}
	}
	w.tb.Fatalf("no metric %s", name)
	return 0
}

// eventually waits for a condition.
func (w *world) eventually(what string, ok func() bool) {
	w.tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			w.tb.Fatalf("not in 10 s: %s", what)
		}
		<-tick.C
	}
}

func (w *world) assignmentsOf(id fleet.RolloutID) func(context.Context, fleet.PageRequest) (api.Page[fleet.Assignment], error) {
	c := w.operator(w.secretOfAdmin)
	return func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
		return c.Assignments(ctx, id, fleet.AssignmentFilter{Batch: fleet.AllBatches}, p)
	}
}
