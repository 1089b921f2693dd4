// SPDX-License-Identifier: MIT

package hostile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

const bootstrapSecret = "the secret of the first start"

// target is a real control plane: real TLS, real store, real listeners.
type target struct {
	t      testing.TB
	dir    string
	mu     sync.Mutex
	offset time.Duration // of its clock; guarded by mu
	keys   *pki.Keys
	addrs  server.Listeners
	stop   func()
	fleet  *tt.Fleet
	admin  *api.Client
	secret string // the admin's key
}

func (c *target) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

// at sets the control plane's clock.
func (c *target) at(offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = offset
}

// newTarget starts a control plane with a pinned root and an admin.
func newTarget(t *testing.T) *target {
	c := &target{t: t, dir: t.TempDir(), fleet: tt.New(t, "acme", nil)}
	c.start()
	t.Cleanup(func() { c.stop() })
	k := must[api.NewKey](t)(c.operator("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: bootstrapSecret, Owner: "root"}))
	c.secret, c.admin = k.Secret, c.operator(k.Secret)
	must[api.Document](t)(c.admin.PutRoot(t.Context(), c.fleet.RootEnvelope))
	return c
}

// start serves what lies in c.dir.
func (c *target) start() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	c.keys = must[*pki.Keys](c.t)(pki.Load(c.dir, []string{"127.0.0.1", "localhost"}, c.now()))
	identity := must[*server.Identity](c.t)(server.NewIdentity(config.TLS{}, c.keys))
	st := must[*store.Store](c.t)(store.Open(ctx, store.Options{Path: filepath.Join(c.dir, "nixfleet.db")}))
	p := must[*plane.Plane](c.t)(plane.Open(ctx, plane.Config{Store: st, Log: log, Now: c.now, Version: "test", EpochKey: c.keys.EpochKey}))
	if err := p.Keys.SetBootstrapSecret(ctx, bootstrapSecret); err != nil {
		c.t.Fatal(err)
	}
	srv := must[*server.Server](c.t)(server.New(server.Options{Plane: p, Identity: identity, Log: log, Now: c.now}))
	c.addrs = must[server.Listeners](c.t)(server.Listen(ctx, config.Listen{Operators: "127.0.0.1:0", Agents: "127.0.0.1:0", Metrics: "127.0.0.1:0"}))
	var serving, working sync.WaitGroup
	working.Go(func() { _ = p.Run(context.Background()) })
	serving.Go(func() {
		if err := srv.Serve(ctx, c.addrs); err != nil {
			c.t.Errorf("serve: %v", err)
		}
	})
	c.stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
		if err := p.Close(); err != nil {
			c.t.Errorf("close plane: %v", err)
		}
		working.Wait()
		if err := st.Close(); err != nil {
			c.t.Errorf("close store: %v", err)
		}
	})
}

// restart stops the control plane and starts it again, as a host does.
func (c *target) restart(t *testing.T) {
	t.Helper()
	before := must[fleet.AuditHead](t)(c.admin.AuditHead(t.Context())).Size
	c.stop()
	c.start()
	c.admin = c.operator(c.secret)
	c.until(t, "the start in the audit trail", func() bool { return must[fleet.AuditHead](t)(c.admin.AuditHead(t.Context())).Size > before })
}

// until waits for a condition.
func (c *target) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

func base(l net.Listener) string { return "https://" + l.Addr().String() }

func (c *target) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.keys.ServerCA.Cert)
	return pool
}

// operator is a client with an API key, or without one.
func (c *target) operator(key string) *api.Client {
	c.t.Helper()
	o := must[*api.Client](c.t)(api.NewClient(api.ClientConfig{BaseURL: base(c.addrs.Operators), Key: key, TLS: &tls.Config{RootCAs: c.roots(), Time: c.now}}))
	c.t.Cleanup(o.Close)
	return o
}

// key makes an API key.
func (c *target) key(role fleet.Role, tags ...fleet.Tag) api.NewKey {
	c.t.Helper()
	return must[api.NewKey](c.t)(c.admin.CreateKey(context.Background(), api.KeyRequest{Owner: "some-" + string(role), Role: role, Tags: tags}))
}

// holder is a machine's key and certificate, in whose hands ever.
type holder struct {
	id   fleet.MachineID
	key  crypto.Signer
	cert []byte // DER; nil: none
}

func newSigner(t testing.TB) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csr(t testing.TB, name fleet.MachineID, key crypto.Signer) []byte {
	t.Helper()
	return must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(name)}}, key))
}

// agent is a client of the agents' listener, as h.
func (c *target) agent(h holder) *api.AgentClient {
	c.t.Helper()
	conf := &tls.Config{RootCAs: c.roots(), Time: c.now}
	if h.cert != nil { // whatever CAs the server asks for
		pair := tls.Certificate{Certificate: [][]byte{h.cert}, PrivateKey: h.key}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	a := must[*api.AgentClient](c.t)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(c.addrs.Agents), TLS: conf}))
	c.t.Cleanup(a.Close)
	return a
}

func (c *target) token(id fleet.MachineID, replace bool) string {
	c.t.Helper()
	return must[api.Token](c.t)(c.admin.CreateToken(context.Background(), id, api.TokenRequest{Replace: replace})).Token
}

// enroll exchanges a token for a certificate of a key.
func (c *target) enroll(token string, id fleet.MachineID, key crypto.Signer) (holder, error) {
	cert, err := c.agent(holder{}).Enroll(context.Background(), api.EnrollRequest{Token: token, CSR: csr(c.t, id, key)})
	return holder{id, key, cert.Certificate}, err
}

// enrolled is a machine with tags that has enrolled and checked in.
func (c *target) enrolled(id fleet.MachineID, tags ...fleet.Tag) holder {
	c.t.Helper()
	must[fleet.Machine](c.t)(c.admin.RegisterMachine(context.Background(), api.MachineRequest{ID: id, Tags: tags}))
	h := must[holder](c.t)(c.enroll(c.token(id, false), id, newSigner(c.t)))
	if err := c.checkIn(h, id); err != nil {
		c.t.Fatal(err)
	}
	return h
}

// checkIn checks in as the holder, for a machine, without waiting.
func (c *target) checkIn(h holder, id fleet.MachineID) error {
	e := tt.Entry(id, "first")
	_, err := c.agent(h).CheckIn(context.Background(), api.CheckIn{
		Machine: id, AgentVersion: "test", System: "x86_64-linux", Line: "main", BootID: "boot-1", State: fleet.AgentIdle,
		Generations: fleet.Generations{Running: e.StorePath, Booted: e.StorePath, BootDefault: e.StorePath},
	})
	return err
}

// signed is a release of the line main, by the key of a label.
func (c *target) signed(label string, sequence uint64, previous fleet.Digest, machines ...fleet.MachineID) api.ReleaseRequest {
	c.t.Helper()
	h := c.fleet.Header(sequence)
	h.PreviousDigest = previous
	h.CreatedAt, h.Expires = c.now().Add(-time.Minute).UnixMilli(), c.now().Add(24*time.Hour).UnixMilli()
	var entries []fleet.Entry
	for _, m := range machines {
		entries = append(entries, tt.Entry(m, fmt.Sprint("release ", sequence)))
	}
	envelope, raw := c.fleet.Unchecked(h, entries, label)
	return api.ReleaseRequest{Envelope: envelope, Entries: raw}
}

func (c *target) register(r api.ReleaseRequest) fleet.Release {
	c.t.Helper()
	return must[fleet.Release](c.t)(c.admin.CreateRelease(context.Background(), r))
}

// seen is what a fleet-wide admin reads of a control plane, without the times at
// which machines and keys were last heard of.
type seen struct {
	Machines []fleet.Machine
	Releases []fleet.Release
	Rollouts []api.RolloutDetail
	Parts    []fleet.Assignment
	Keys     []fleet.Key
	Root     []byte
	Audit    []fleet.AuditEntry
}

func all[T any](t testing.TB, list func(context.Context, fleet.PageRequest) (api.Page[T], error)) []T {
	t.Helper()
	var out []T
	api.All(context.Background(), list)(func(v T, err error) bool {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
		return true
	})
	return out
}

// rows is the state of a control plane.
func (c *target) rows(t *testing.T) any {
	t.Helper()
	ctx := context.Background()
	s := seen{
		Machines: all(t, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Machine], error) {
			return c.admin.Machines(ctx, fleet.MachineFilter{}, p)
		}),
		Releases: all(t, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
			return c.admin.Releases(ctx, fleet.ReleaseFilter{}, p)
		}),
		Keys: all(t, c.admin.Keys),
		Root: must[api.Document](t)(c.admin.Root(ctx)).Envelope,
		Audit: all(t, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
			return c.admin.Audit(ctx, fleet.AuditFilter{}, p)
		}),
	}
	for _, r := range all(t, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
		return c.admin.Rollouts(ctx, fleet.RolloutFilter{}, p)
	}) {
		s.Rollouts = append(s.Rollouts, must[api.RolloutDetail](t)(c.admin.Rollout(ctx, r.ID)))
		s.Parts = append(s.Parts, all(t, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Assignment], error) {
			return c.admin.Assignments(ctx, r.ID, fleet.AssignmentFilter{}, p)
		})...)
	}
	for i := range s.Machines {
		s.Machines[i].LastContact = 0
	}
	for i := range s.Keys {
		s.Keys[i].LastUsed = 0
	}
	return s
}

const comparedRows = "machines, releases, rollouts, assignments, keys, root and audit trail, as an admin reads them"

// stage compares what the control plane has.
func (c *target) stage() stage {
	return stage{compared: comparedRows, state: c.rows, control: func(t *testing.T) {
		must[fleet.Machine](t)(c.admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "a-new-one"}))
	}}
}

// raw sends a request to the operators' listener and returns the status and the
// code of the reply.
func (c *target) raw(t *testing.T, method, path string, body []byte, headers ...string) (int, string) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, base(c.addrs.Operators)+path, bytes.NewReader(body)))
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots(), Time: c.now}}}
	defer h.CloseIdleConnections()
	res := must[*http.Response](t)(h.Do(req))
	defer res.Body.Close()
	data := must[[]byte](t)(io.ReadAll(res.Body))
	var p api.Problem
	_ = json.Unmarshal(data, &p) // a good reply is no problem
	return res.StatusCode, string(p.Code)
}

// mintFor makes a certificate as the CA does, past the control plane.
func mintFor(t *testing.T, c *target, h holder) *x509.Certificate {
	t.Helper()
	name := pkix.Name{CommonName: string(h.id)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(c.now().UnixNano()), Subject: name, NotBefore: c.now().Add(-time.Hour), NotAfter: c.now().Add(7 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, c.keys.AgentCA.Cert, h.key.Public(), c.keys.AgentCA.Key))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

// unsigned is a release without its signatures.
func unsigned(t *testing.T, r api.ReleaseRequest) api.ReleaseRequest {
	t.Helper()
	e := must[trust.Envelope](t)(trust.ParseEnvelope(r.Envelope, fleet.TypeRelease))
	e.Signatures = nil
	return api.ReleaseRequest{Envelope: e.Encode(), Entries: r.Entries}
}
