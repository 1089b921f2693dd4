// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/server"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign issues a certificate; by itself if by is nil.
func sign(t *testing.T, c *x509.Certificate, by *issued) issued {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c.SerialNumber = must[*big.Int](t)(rand.Int(rand.Reader, big.NewInt(1<<62)))
	if c.NotBefore = time.Now().Add(-10 * day); c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(90 * day)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer))
	return issued{must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

func signCA(t *testing.T, name string, by *issued) issued {
	return sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, by)
}

func signServer(t *testing.T, end time.Time, by issued) issued {
	return sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "fleet"}, DNSNames: []string{"localhost", "fleet.example.org"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: end,
	}, &by)
}

// ownFiles are certificate files as an ACME client writes them.
type ownFiles struct {
	t       *testing.T
	dir     string
	written time.Time
}

func newOwnFiles(t *testing.T) *ownFiles {
	return &ownFiles{t: t, dir: t.TempDir(), written: time.Now()}
}

func (f *ownFiles) conf() config.TLS {
	return config.TLS{CertFile: filepath.Join(f.dir, "fullchain.pem"), KeyFile: filepath.Join(f.dir, "key.pem")}
}

// put writes a file with another modification time than the one before.
func (f *ownFiles) put(name string, b []byte) string {
	f.t.Helper()
	file := filepath.Join(f.dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.written = f.written.Add(time.Second)
	if err := os.Chtimes(file, f.written, f.written); err != nil {
		f.t.Fatal(err)
	}
	return file
}

func pemOf(chain ...issued) []byte {
	var b []byte
	for _, c := range chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return b
}

func (f *ownFiles) write(leaf issued, chain ...issued) config.TLS {
	f.t.Helper()
	f.put("fullchain.pem", pemOf(append([]issued{leaf}, chain...)...))
	der := must[[]byte](f.t)(x509.MarshalPKCS8PrivateKey(leaf.key))
	f.put("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return f.conf()
}

// shown returns the chain that a listener shows.
func shown(t *testing.T, l net.Listener) []*x509.Certificate {
	t.Helper()
	d := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	c := must[net.Conn](t)(d.DialContext(t.Context(), "tcp", l.Addr().String()))
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates
}

// enrolTrusting enrols a machine as an agent does: the token names the anchor,
// the reply brings it, and nothing else is trusted afterwards.
func (w *world) enrolTrusting(t *testing.T, admin *api.Client, id fleet.MachineID) (anchor *x509.Certificate, visit func() error) {
	t.Helper()
	tok := must[api.TokenParts](t)(api.ParseToken(w.token(admin, id)))
	fresh := must[*api.AgentClient](t)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(w.addrs.Agents), TLS: tok.EnrollTLS("127.0.0.1")}))
	w.closeLater(fresh)
	key := newKey(t)
	cert := must[api.Certificate](t)(fresh.Enroll(t.Context(), api.EnrollRequest{Token: tok.String(), CSR: csr(t, id, key)}))
	anchor = must[*x509.Certificate](t)(x509.ParseCertificate(cert.CA))
	pool := x509.NewCertPool()
	pool.AddCert(anchor)
	return anchor, func() error {
		c := must[*api.AgentClient](t)(api.NewAgentClient(api.AgentClientConfig{BaseURL: base(w.addrs.Agents), TLS: &tls.Config{
			RootCAs: pool, Time: w.now, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Certificate}, PrivateKey: key}},
		}}))
		defer c.Close()
		_, err := c.CheckIn(t.Context(), checkIn(id))
		return err
	}
}

// adminTrusting is admin where the operators' listener shows a certificate of
// another root.
func (w *world) adminTrusting(t *testing.T, root issued) *api.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	client := func(key string) *api.Client {
		c := must[*api.Client](t)(api.NewClient(api.ClientConfig{BaseURL: base(w.addrs.Operators), Key: key, TLS: &tls.Config{RootCAs: pool}}))
		w.closeLater(c)
		return c
	}
	k := must[api.NewKey](t)(client("").BootstrapKey(t.Context(), api.BootstrapRequest{Secret: bootstrapSecret, Owner: "root"}))
	return client(k.Secret)
}

// The next renewal may be signed by another intermediate: what machines keep as
// their anchor is a root, wherever it is found, and the renewal is used without
// a restart.
func TestAnchor_IsARootAndOutlivesTheIntermediate(t *testing.T) {
	root := signCA(t, "root", nil)
	e5, e6 := signCA(t, "E5", &root), signCA(t, "E6", &root)
	for _, tc := range []struct {
		name   string
		conf   func(f *ownFiles) config.TLS
		more   []issued // at the end of each chain
		anchor string
	}{
		{"in caFile", func(f *ownFiles) config.TLS { c := f.conf(); c.CAFile = f.put("root.pem", pemOf(root)); return c }, nil, "root"},
		{"in the chain", (*ownFiles).conf, []issued{root}, "root"},
		{"nowhere", (*ownFiles).conf, nil, "nixfleet server CA"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newOwnFiles(t)
			first := signServer(t, time.Time{}, e5)
			f.write(first, append([]issued{e5}, tc.more...)...)
			w := newWorldWith(t, tc.conf(f))
			anchor, visit := w.enrolTrusting(t, w.adminTrusting(t, root), "web-01")
			if anchor.Subject.CommonName != tc.anchor || !pki.IsRoot(anchor) {
				t.Errorf("the machine keeps %s", anchor.Subject)
			}
			if err := visit(); err != nil {
				t.Fatal(err)
			}
			next := signServer(t, time.Time{}, e6)
			f.write(next, append([]issued{e6}, tc.more...)...)
			if err := visit(); err != nil {
				t.Errorf("after a renewal: %v", err)
			}
			if got := shown(t, w.addrs.Operators)[0]; !got.Equal(next.cert) {
				t.Error("operators are shown the certificate from before the renewal")
			}
		})
	}
}

// An intermediate is no anchor; files that are wrong are refused at the start.
func TestNewIdentity_RefusesWhatIsNoAnchor(t *testing.T) {
	root, other := signCA(t, "root", nil), signCA(t, "other root", nil)
	e5 := signCA(t, "E5", &root)
	for name, ca := range map[string][]byte{
		"an intermediate": pemOf(e5), "a root and an intermediate": pemOf(root, e5), "another root": pemOf(other), "nothing": []byte("none"),
	} {
		f := newOwnFiles(t)
		conf := f.write(signServer(t, time.Time{}, e5), e5)
		conf.CAFile = f.put("ca.pem", ca)
		_, err := server.NewIdentity(conf, must[*pki.Keys](t)(pki.Load(t.TempDir(), []string{"localhost"}, time.Now())))
		wantCode(t, name, err, fleet.Invalid)
	}
}

// The names of a certificate without a root are those of the one that agents
// are shown.
func TestNames_AreThoseThatAgentsCallToo(t *testing.T) {
	root := signCA(t, "root", nil)
	e5 := signCA(t, "E5", &root)
	f := newOwnFiles(t)
	conf := f.write(signServer(t, time.Time{}, e5), e5)
	conf.Names = []string{"cp"}
	if got := must[[]string](t)(server.Names(conf)); !slices.Equal(got, []string{"cp", "localhost", "fleet.example.org", "127.0.0.1"}) {
		t.Errorf("names %q", got)
	}
	f.write(signServer(t, time.Time{}, e5), e5, root)
	if got := must[[]string](t)(server.Names(conf)); !slices.Equal(got, []string{"cp"}) {
		t.Errorf("with its root: names %q", got)
	}
}

// What cannot be used leaves what is in use: half of a renewal, a certificate
// that has expired, one that leads to no root.
func TestRefresh_KeepsWhatIsGood(t *testing.T) {
	root, other := signCA(t, "root", nil), signCA(t, "other root", nil)
	f := newOwnFiles(t)
	good := signServer(t, time.Time{}, root)
	conf := f.write(good, root)
	conf.CAFile = f.put("root.pem", pemOf(root))
	w := newWorldWith(t, conf)
	inUse := func(what string, want issued) {
		t.Helper()
		for _, l := range []net.Listener{w.addrs.Operators, w.addrs.Agents} {
			if got := shown(t, l); !bytes.Equal(got[0].Raw, want.cert.Raw) {
				t.Errorf("%s: %s of %s is shown", what, got[0].Subject, got[0].Issuer)
			}
		}
	}
	next := signServer(t, time.Time{}, root)
	f.put("fullchain.pem", pemOf(next))
	inUse("its key is not there yet", good)
	f.write(signServer(t, time.Now().Add(-time.Hour), root))
	inUse("expired", good)
	f.write(signServer(t, time.Time{}, other))
	inUse("of another root", good)
	f.write(next)
	inUse("renewed", next)
}

// The CA of machines' certificates is read again too.
func TestRefresh_ReadsTheCAOfMachines(t *testing.T) {
	first := must[pki.Authority](t)(pki.NewAuthority("first", time.Now()))
	second := must[pki.Authority](t)(pki.NewAuthority("second", time.Now()))
	f := newOwnFiles(t)
	conf := config.TLS{ClientCAFile: f.put("clients.pem", pemOf(issued{cert: first.Cert}))}
	w := newWorldWith(t, conf)
	visit := func(a pki.Authority) error {
		key := newKey(t)
		cert := must[*x509.Certificate](t)(a.Agent(must[pki.Request](t)(pki.ParseRequest(csr(t, "web-01", key))), w.now()))
		_, err := w.machine(cert.Raw, key).CheckIn(t.Context(), checkIn("web-01"))
		return err
	}
	if err := visit(first); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "before it is in the file", visit(second), fleet.Unauthenticated)
	f.put("clients.pem", pemOf(issued{cert: first.Cert}, issued{cert: second.Cert}))
	for _, a := range []pki.Authority{first, second} {
		if err := visit(a); err != nil {
			t.Errorf("%s: %v", a.Cert.Subject.CommonName, err)
		}
	}
}
