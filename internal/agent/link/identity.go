// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/config"
)

// identity is the machine's key and certificate, on disk. The key never leaves
// the machine.
type identity struct {
	cfg      config.Agent
	told     FloorTold // nil: nobody
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	mu       sync.Mutex
	at       time.Time // modification time of the certificate in use
	now      *tls.Certificate
	sessions sessions
}

// sessions are what TLS may resume. A resumed session stands for the certificate
// that it began with, so all of them are forgotten when the certificate changes.
type sessions struct {
	mu    sync.Mutex
	cache tls.ClientSessionCache
}

// Get looks for a session.
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == nil {
		return nil, false
	}
	return s.cache.Get(key)
}

// Put keeps a session.
func (s *sessions) Put(key string, cs *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == nil {
		s.cache = tls.NewLRUClientSessionCache(4)
	}
	s.cache.Put(key, cs)
}

func (s *sessions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = nil
}

// caFile is the file with the control plane's CA.
func caFile(c config.Agent) string {
	if c.ControlPlane.CAFile != "" {
		return c.ControlPlane.CAFile
	}
	return filepath.Join(c.StateDir, "identity", "ca.pem")
}

// certificate returns the certificate to show. A newer one on disk is used without
// a restart (A18).
func (i *identity) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(i.cfg.Identity.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if i.now != nil && info.ModTime().Equal(i.at) {
		return i.now, nil
	}
	c, err := tls.LoadX509KeyPair(i.cfg.Identity.CertFile, i.cfg.Identity.KeyFile)
	if err == nil {
		c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	}
	if err != nil && i.now != nil {
		return i.now, nil // someone is just writing the two files
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	i.now, i.at = &c, info.ModTime()
	i.sessions.forget()
	return i.now, nil
}

// client makes a client that shows the certificate.
func (i *identity) client(version string) (*api.AgentClient, error) {
	if _, err := i.anchors(); err != nil {
		return nil, err
	}
	u, err := url.Parse(i.cfg.ControlPlane.URL)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "controlPlane.url: %w", err)
	}
	if _, err := i.certificate(nil); err != nil {
		return nil, fleet.Errorf(fleet.NotFound, "%w", err).WithHint("enrol the machine: nixfleet-agent enroll --token-file FILE")
	}
	return api.NewAgentClient(api.AgentClientConfig{
		BaseURL: i.cfg.ControlPlane.URL, UserAgent: "nixfleet-agent/" + version, DialContext: i.dial,
		TLS: &tls.Config{
			GetClientCertificate: i.certificate, ClientSessionCache: &i.sessions,
			// The connection is verified below, for resumed sessions too, with the CA
			// that is in the file at that moment.
			InsecureSkipVerify: true,
			VerifyConnection:   func(cs tls.ConnectionState) error { return i.verify(cs, u.Hostname()) },
		},
	})
}

// anchors reads the control plane's CA.
func (i *identity) anchors() (*x509.CertPool, error) {
	text, err := os.ReadFile(caFile(i.cfg))
	if err != nil {
		return nil, fleet.Errorf(fleet.NotFound, "read the control plane's CA: %w", err).
			WithHint("enrol the machine with nixfleet-agent enroll, which stores the CA, or set controlPlane.caFile")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fleet.Errorf(fleet.Invalid, "%s contains no certificate", caFile(i.cfg))
	}
	return pool, nil
}

// verify returns nil if the other end is the control plane at host.
func (i *identity) verify(cs tls.ConnectionState, host string) error {
	roots, err := i.anchors()
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err = cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host})
	return err
}

// enrolled reports whether there is a certificate.
func (i *identity) enrolled() bool {
	_, err := i.certificate(nil)
	return err == nil
}

// key returns the machine's key.
func (i *identity) key() (crypto.Signer, error) {
	k, _, err := readKey(i.cfg.Identity.KeyFile)
	return k, err
}

// request asks for a certificate of a key, which names the evidence key, if there is
// one. It proves that the machine has both.
func (i *identity) request(k crypto.Signer, evidence ed25519.PrivateKey) ([]byte, error) {
	csr := x509.CertificateRequest{Subject: pkix.Name{CommonName: string(i.cfg.MachineID)}, URIs: publicOf(evidence).URIs()}
	if evidence != nil {
		public, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, fmt.Errorf("make certificate request: %w", err)
		}
		csr.URIs = append(csr.URIs, fleet.ProveEvidence(evidence, i.cfg.MachineID, fleet.SHA256(public)))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &csr, k)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// ours returns a certificate's content if it is this machine's, for a key, and names
// no other evidence key. That of an older control plane names none.
func (i *identity) ours(c api.Certificate, k crypto.Signer, evidence fleet.EvidenceKey) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return nil, fleet.Errorf(fleet.Refused, "the control plane sent no certificate: %w", err)
	}
	type publicKey interface{ Equal(crypto.PublicKey) bool }
	if p, ok := leaf.PublicKey.(publicKey); !ok || !p.Equal(k.Public()) || leaf.Subject.CommonName != string(i.cfg.MachineID) {
		return nil, fleet.Errorf(fleet.Refused, "the control plane sent the certificate of another machine")
	}
	if named, err := fleet.EvidenceKeyIn(leaf.URIs); err != nil || named != "" && named != evidence {
		return nil, fleet.Errorf(fleet.Refused, "the control plane sent a certificate that names another evidence key").
			WithHint("enrol the machine with a new token: nixfleet machine token %s --replace", i.cfg.MachineID)
	}
	return leaf, nil
}

func (i *identity) writeCertificate(c api.Certificate) error {
	return atomicfile.Write(i.cfg.Identity.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}), 0o644)
}

// managed reports whether key and certificate are below the state directory.
// Elsewhere they are someone else's to make and renew.
func (i *identity) managed() bool {
	dir := filepath.Join(i.cfg.StateDir, "identity")
	return filepath.Dir(i.cfg.Identity.CertFile) == dir && filepath.Dir(i.cfg.Identity.KeyFile) == dir
}

// renew gets the next certificate at half of the present one's life, until ctx
// ends. Certificates that are kept outside the state directory are renewed by
// someone else.
func (i *identity) renew(ctx context.Context, c *api.AgentClient, log *slog.Logger) {
	if !i.managed() {
		return
	}
	var waits *wait.Growing // after failures in a row
	for ctx.Err() == nil {
		cert, err := i.certificate(nil)
		if err != nil {
			log.Error("the certificate cannot be read", "error", err)
			return
		}
		life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
		if left := time.Until(cert.Leaf.NotBefore.Add(life / 2)); left > 0 {
			// The wall clock may be set meanwhile: look every hour.
			if !wait.For(ctx, min(left, time.Hour)) {
				return
			}
			continue
		}
		if err = i.renewOnce(ctx, c); err == nil {
			waits = nil
			log.Info("certificate renewed")
			continue
		}
		if waits == nil {
			waits = backOff(min(time.Minute, life/20+time.Second))
		}
		log.Warn("the certificate cannot be renewed", "until", cert.Leaf.NotAfter, "error", err, "hint", fleet.ErrorHint(err))
		if !wait.For(ctx, waits.NextBackOff()) {
			return
		}
	}
}

// better reports whether a certificate can take the place of another: one that is
// good now of one that is not, else one that ends later.
func better(next, have *x509.Certificate, now time.Time) bool {
	good := func(c *x509.Certificate) bool { return !now.Before(c.NotBefore) && !now.After(c.NotAfter) }
	if good(next) != good(have) {
		return good(next)
	}
	return next.NotAfter.After(have.NotAfter)
}

func (i *identity) renewOnce(ctx context.Context, c *api.AgentClient) error {
	k, err := i.key()
	if err != nil {
		return err
	}
	have, err := i.certificate(nil)
	if err != nil {
		return err
	}
	evidence, err := i.evidence(have.Leaf)
	if err != nil { // the certificate matters more: it is renewed without
		evidence = nil
	}
	csr, err := i.request(k, evidence)
	if err != nil {
		return err
	}
	cert, err := c.Renew(ctx, api.RenewRequest{CSR: csr})
	if err != nil {
		return err
	}
	next, err := i.ours(cert, k, publicOf(evidence))
	if err != nil {
		return err
	}
	if !better(next, have.Leaf, time.Now()) {
		return fleet.Errorf(fleet.Refused, "the control plane sent a certificate that is no better than the present one: good from %s to %s",
			next.NotBefore.UTC().Format(time.RFC3339), next.NotAfter.UTC().Format(time.RFC3339)).WithHint("are the clocks of this machine and of the control plane right?")
	}
	if err = i.writeCertificate(cert); err != nil {
		return err
	}
	i.mu.Lock()
	i.at = time.Time{} // the file may have the same time as the one before
	i.mu.Unlock()
	_, err = i.certificate(nil)
	c.Close()
	return err
}

// enrolledClient makes the client. A machine without a certificate is enrolled
// first, with the token that its configuration names.
func (i *identity) enrolledClient(ctx context.Context, version string) (*api.AgentClient, error) {
	if !i.enrolled() && i.cfg.Identity.TokenFile != "" {
		if err := Enroll(ctx, i.cfg, i.cfg.Identity.TokenFile, i.told); err != nil {
			return nil, err
		}
	}
	return i.client(version)
}
