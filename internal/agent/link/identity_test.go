// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// authority is a control plane that enrols and renews, and nothing else.
type authority struct {
	t        *testing.T
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	pool     *x509.CertPool
	url      string
	life     time.Duration
	name     string // common name to issue instead of the one asked for
	ca       []byte // the CA to send instead of its own
	raw      []byte // what to send for a certificate
	status   int    // how to refuse instead
	mu       sync.Mutex
	issued   int
	tokens   []string            // that enrolments sent
	shown    []*big.Int          // serial numbers of the certificates that callers showed
	evidence []fleet.EvidenceKey // that the requests named
	old      bool                // it puts none into its certificates
	names    fleet.EvidenceKey   // it puts this one
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool(), life: time.Hour}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "cp"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, serverKey.Public(), time.Hour)
	srv := httptest.NewUnstartedServer(a)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{server, a.cert.Raw}, PrivateKey: serverKey}}, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	a.url = srv.URL
	return a
}

func (a *authority) sign(c *x509.Certificate, public any, life time.Duration) []byte {
	a.t.Helper()
	a.issued++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(int64(100+a.issued)), time.Now().Add(-time.Second), time.Now().Add(life)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, public, a.key)
	if err != nil {
		a.t.Error(err)
	}
	return der
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var csr []byte
	switch r.URL.Path {
	case api.PathEnroll:
		var in api.EnrollRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			a.t.Error(err)
		}
		csr = in.CSR
		a.tokens = append(a.tokens, in.Token)
	case api.PathRenew:
		var in api.RenewRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			a.t.Error(err)
		}
		csr = in.CSR
		a.shown = append(a.shown, r.TLS.PeerCertificates[0].SerialNumber)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	subject := req.Subject
	if a.name != "" {
		subject.CommonName = a.name
	}
	if a.status != 0 {
		w.WriteHeader(a.status)
		return
	}
	named, err := fleet.EvidenceKeyIn(req.URIs)
	if err != nil {
		a.t.Error(err)
	}
	a.evidence = append(a.evidence, named)
	proved, err := named.ProvedIn(req.URIs, fleet.MachineID(req.Subject.CommonName), fleet.SHA256(req.RawSubjectPublicKeyInfo))
	if err != nil || proved != (named != "") {
		a.t.Errorf("the request names the evidence key %q, and proves it: %t, %v", named, proved, err)
	}
	leaf := &x509.Certificate{Subject: subject, URIs: req.URIs}
	switch {
	case a.old:
		leaf.URIs = nil
	case a.names != "":
		leaf.URIs = a.names.URIs()
	}
	der := a.sign(leaf, req.PublicKey, a.life)
	if a.raw != nil {
		der = a.raw
	}
	ca := a.cert.Raw
	if a.ca != nil {
		ca = a.ca
	}
	_ = json.NewEncoder(w).Encode(api.Certificate{Certificate: der, CA: ca, Machine: fleet.MachineID(subject.CommonName)})
}

func (a *authority) token(m fleet.MachineID) string {
	return api.TokenParts{Machine: m, Secret: "0123456789abcdef", CAHash: api.CAHash(a.cert.Raw)}.String()
}

func (a *authority) config(t *testing.T) config.Agent {
	t.Helper()
	dir := t.TempDir()
	return config.Agent{
		MachineID: "web-01", StateDir: dir, ControlPlane: config.AgentControlPlane{URL: a.url},
		Identity: config.Identity{CertFile: filepath.Join(dir, "identity", "cert.pem"), KeyFile: filepath.Join(dir, "identity", "key.pem")},
	}
}

func TestEnroll_MakesTheKeyHereAndRepeatsWithTheSame(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if id.enrolled() {
		t.Fatal("enrolled before it began")
	}
	var key []byte
	for range 2 { // a lost answer is asked for again with the same key
		if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(id.cfg.Identity.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if key != nil && string(b) != string(key) {
			t.Error("the key changed")
		}
		key = b
	}
	if !id.enrolled() {
		t.Error("not enrolled")
	}
	if info, err := os.Stat(id.cfg.Identity.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if _, err := id.client("test"); err != nil {
		t.Error(err)
	}
}

// E07 E08: a token of another CA or machine is refused, and so is a certificate of
// another machine.
func TestEnroll_RefusesWhatIsNotMeantForThisMachine(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	for _, tc := range []struct{ name, token, issue, want string }{
		{"another CA", other.token("web-01"), "", "another CA"},
		{"another machine's token", a.token("web-02"), "", "the token is for web-02"},
		{"another machine's certificate", a.token("web-01"), "web-02", "certificate of another machine"},
		{"no token", "nft_", "", "not an enrolment token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a.mu.Lock()
			a.name = tc.issue
			a.mu.Unlock()
			id := &identity{cfg: a.config(t)}
			err := id.enroll(t.Context(), tc.token)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
			if id.enrolled() {
				t.Error("it is enrolled nevertheless")
			}
		})
	}
}

// The floor beside the secret is for the machine, and only in an enrolment that
// the token served. The control plane does not get it.
func TestEnroll_TellsTheFloorOfTheTokenThatItServed(t *testing.T) {
	a := newAuthority(t)
	tok, err := api.ParseToken(a.token("web-01"))
	if err != nil {
		t.Fatal(err)
	}
	tok.Floor = &api.TokenFloor{Line: "main", Expires: 1}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(tok.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := a.config(t)
	var told []*api.TokenFloor
	id := &identity{cfg: cfg}
	tell := func(f *api.TokenFloor) error {
		if id.enrolled() {
			t.Error("told after the certificate was written: a crash in between would lose the floor")
		}
		told = append(told, f)
		return nil
	}
	a.name = "web-02"
	if err := Enroll(t.Context(), cfg, file, tell); err == nil || len(told) > 0 {
		t.Fatalf("an enrolment that failed: %v, told %v", err, told)
	}
	a.name = ""
	if err := Enroll(t.Context(), cfg, file, tell); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || told[0] == nil || told[0].Line != "main" || !id.enrolled() {
		t.Errorf("told %v", told)
	}
	for _, sent := range a.tokens {
		if sent != tok.Bare() {
			t.Errorf("the control plane got %q, want %q", sent, tok.Bare())
		}
	}
}

// A18: renewed at half of its life, and shown from then on, without a restart.
func TestRenew_UsesTheNextCertificateFromHalfLifeOn(t *testing.T) {
	a := newAuthority(t)
	a.life = 3 * time.Second
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	c, err := id.client("test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { id.renew(ctx, c, slog.New(slog.DiscardHandler)); close(done) }()
	for ctx.Err() == nil {
		a.mu.Lock()
		n := len(a.shown)
		a.mu.Unlock()
		if n >= 2 {
			break
		}
		wait.For(ctx, 5*time.Millisecond)
	}
	cancel()
	<-done
	if len(a.shown) < 2 || a.shown[0].Cmp(a.shown[1]) >= 0 {
		t.Errorf("renewed by the certificates %v, want by a later one each time", a.shown)
	}
}

func TestClient_SaysWhatIsMissing(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if _, err := id.client("test"); fleet.ErrorCode(err) != fleet.NotFound || fleet.ErrorHint(err) == "" {
		t.Errorf("no CA: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(caFile(id.cfg)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(caFile(id.cfg), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := id.client("test"); fleet.ErrorCode(err) != fleet.NotFound || !strings.Contains(fleet.ErrorHint(err), "enroll") {
		t.Errorf("no certificate: %v, hint %q", err, fleet.ErrorHint(err))
	}
}

// Each enrolment has a key of its own: one that was stolen ends with the next.
// Until that has succeeded, the machine keeps what it had.
func TestEnroll_MakesANewKeyForEachToken(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		b, err := os.ReadFile(id.cfg.Identity.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := read()
	again := api.TokenParts{Machine: "web-01", Secret: "another0secret00", CAHash: api.CAHash(a.cert.Raw)}.String()
	a.name = "web-02"
	if err := id.enroll(t.Context(), again); err == nil {
		t.Fatal("the certificate of another machine was taken")
	}
	if read() != first || !id.enrolled() {
		t.Fatal("an enrolment that failed took what the machine had")
	}
	a.name = ""
	next, err := os.ReadFile(id.nextKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	// A crash after the key, before the certificate: the repeat has the same key.
	if err := id.useNextKey(); err != nil {
		t.Fatal(err)
	}
	if id.now = nil; id.enrolled() {
		t.Fatal("a certificate of another key counts")
	}
	if err := id.enroll(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if read() == first || read() != string(next) || !id.enrolled() {
		t.Error("the second token's enrolment does not have the key that was made for it")
	}
	if _, err := os.Stat(id.nextKeyFile()); err == nil {
		t.Error("a key lies there that nothing uses")
	}
}

// A key that someone else manages, or that was here before the first enrolment,
// is used as it is.
func TestEnroll_LeavesAKeyThatSomeoneElseMade(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	id.cfg.Identity.KeyFile = filepath.Join(t.TempDir(), "own.pem")
	id.cfg.Identity.CertFile = filepath.Join(t.TempDir(), "own.cert.pem")
	if _, err := makeKey(id.cfg.Identity.KeyFile, ""); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(id.cfg.Identity.KeyFile)
	for _, secret := range []string{"0123456789abcdef", "fedcba9876543210"} {
		if err := id.enroll(t.Context(), api.TokenParts{Machine: "web-01", Secret: secret, CAHash: api.CAHash(a.cert.Raw)}.String()); err != nil {
			t.Fatal(err)
		}
	}
	if after, _ := os.ReadFile(id.cfg.Identity.KeyFile); string(after) != string(before) {
		t.Error("the key was replaced")
	}
}

// A renewal never puts a worse certificate in the place of the present one.
func TestRenew_KeepsTheBetterCertificate(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	c, err := id.client("test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := id.now.Leaf.SerialNumber
	for _, life := range []time.Duration{30 * time.Minute, -time.Minute} {
		a.life = life
		if err := id.renewOnce(t.Context(), c); fleet.ErrorCode(err) != fleet.Refused {
			t.Errorf("a certificate for %v: %v", life, err)
		}
		if id.now.Leaf.SerialNumber.Cmp(before) != 0 {
			t.Errorf("a certificate for %v is in use", life)
		}
	}
	a.life = 2 * time.Hour
	if err := id.renewOnce(t.Context(), c); err != nil || id.now.Leaf.SerialNumber.Cmp(before) == 0 {
		t.Errorf("a better one is not in use: %v", err)
	}
}

func TestBetter(t *testing.T) {
	now := time.Now()
	from := func(from, to time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(from), NotAfter: now.Add(to)}
	}
	for _, tc := range []struct {
		name       string
		next, have *x509.Certificate
		want       bool
	}{
		{"ends later", from(-1, 20), from(-10, 10), true},
		{"ends earlier", from(-1, 9), from(-10, 10), false},
		{"the same", from(-10, 10), from(-10, 10), false},
		{"expired", from(-10, -1), from(-10, 10), false},
		{"not good yet", from(1, 30), from(-10, 10), false},
		{"good, of an expired one", from(-1, 10), from(-10, -1), true},
		{"good, of one that is not good yet", from(-1, 10), from(5, 30), true},
		{"this clock is wrong", from(5, 30), from(4, 20), true},
	} {
		if got := better(tc.next, tc.have, now); got != tc.want {
			t.Errorf("%s: better = %v, want %v", tc.name, got, tc.want)
		}
	}
}

// The CA and the certificate are used as they are in their files, without a
// restart; while they are being written, what was there stays in use. E07: a control
// plane with a good certificate of another CA is refused.
func TestClient_ReadsRenewedFiles(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	c, err := id.client("test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	renew := func() error {
		defer c.Close()
		a.life += time.Hour
		return id.renewOnce(t.Context(), c)
	}
	write := func(cert *x509.Certificate) {
		if err := os.WriteFile(caFile(id.cfg), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := renew(); err != nil {
		t.Fatal(err)
	}
	write(other.cert)
	if err := renew(); fleet.ErrorCode(err) != fleet.Refused {
		t.Errorf("a control plane of a CA that is not in the file: %v", err)
	}
	write(a.cert)
	if err := renew(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(id.cfg.Identity.CertFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := id.certificate(nil); err != nil {
		t.Errorf("while the file is being written: %v", err)
	}
}

// The control plane's name is verified.
func TestClient_RefusesAnotherName(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	id.cfg.ControlPlane.URL = strings.Replace(a.url, "127.0.0.1", "localhost", 1)
	c, err := id.client("test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := id.renewOnce(t.Context(), c); fleet.ErrorCode(err) != fleet.Refused {
		t.Errorf("by a name that its certificate has not: %v", err)
	}
}
