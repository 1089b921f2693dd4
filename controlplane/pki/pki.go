// SPDX-License-Identifier: AGPL-3.0-only

// Package pki holds the control plane's own certificate authorities and
// secrets: the CA of its server certificate, the CA of the agents'
// certificates, the key of the epoch and the secret of the session tickets.
//
// What it issues is decided by pure functions with the time as a parameter;
// Load keeps the keys as files. A certificate from here says which machine
// calls. It grants no authority to deploy: only the release signers do.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// How long certificates are good for. An agent renews at half life.
const (
	AuthorityLife = 20 * 365 * 24 * time.Hour
	ServerLife    = 90 * 24 * time.Hour
	ServerRenew   = 30 * 24 * time.Hour // what is left when it is issued anew
	AgentLife     = 7 * 24 * time.Hour
	// backdate lets a machine whose clock is behind use a new certificate.
	backdate = time.Hour
)

// Authority is a certificate authority: its certificate and its key.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewAuthority makes a CA that may sign leaf certificates only.
func NewAuthority(name string, now time.Time) (Authority, error) {
	key, err := newKey()
	if err != nil {
		return Authority{}, err
	}
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AuthorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	cert, err := sign(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return Authority{}, err
	}
	return Authority{Cert: cert, Key: key}, nil
}

// Server issues a server certificate for names, which are host names and
// addresses.
func (a Authority) Server(names []string, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	dns, ips := splitNames(names)
	tmpl := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "nixfleet control plane"},
		DNSNames: dns, IPAddresses: ips,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ServerLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	cert, err := sign(tmpl, a.Cert, key.Public(), a.Key)
	return cert, key, err
}

// ServerFits reports whether cert is a's, is for exactly names, and is not
// near its end.
func (a Authority) ServerFits(cert *x509.Certificate, names []string, now time.Time) bool {
	dns, ips := splitNames(names)
	sameIP := func(x, y net.IP) bool { return x.Equal(y) }
	return cert.CheckSignatureFrom(a.Cert) == nil && slices.Equal(cert.DNSNames, dns) &&
		slices.EqualFunc(cert.IPAddresses, ips, sameIP) &&
		now.After(cert.NotBefore) && now.Before(cert.NotAfter.Add(-ServerRenew))
}

// Request is a checked certificate request of a machine.
type Request struct {
	Machine fleet.MachineID
	Key     crypto.PublicKey
	KeyHash fleet.Digest // of the public key, as in the request (SubjectPublicKeyInfo)
	// Evidence is the machine's evidence key; "" if an older agent asks. Proved says
	// that the request proves that the machine has it.
	Evidence fleet.EvidenceKey
	Proved   bool
}

// ParseRequest reads a PKCS #10 request, DER: signed by its own key, which is
// ed25519 or ECDSA P-256, its common name a machine id, with at most one evidence
// key. The error's code is Invalid.
func ParseRequest(der []byte) (Request, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: %w", err)
	}
	if err = csr.CheckSignature(); err != nil {
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request is not signed by its own key: %w", err)
	}
	m := fleet.MachineID(csr.Subject.CommonName)
	if !m.Valid() {
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: its common name is not a machine id")
	}
	switch k := csr.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: an ECDSA key must be on P-256")
		}
	default:
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: the key must be ed25519 or ECDSA P-256")
	}
	evidence, err := fleet.EvidenceKeyIn(csr.URIs)
	if err != nil {
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: %w", err)
	}
	req := Request{Machine: m, Key: csr.PublicKey, KeyHash: fleet.SHA256(csr.RawSubjectPublicKeyInfo), Evidence: evidence}
	if req.Proved, err = evidence.ProvedIn(csr.URIs, m, req.KeyHash); err != nil {
		return Request{}, fleet.Errorf(fleet.Invalid, "certificate request: %w", err)
	}
	return req, nil
}

// Agent issues a machine's client certificate. Of the request only name and keys
// are used. It names an evidence key only if the request proves it.
func (a Authority) Agent(req Request, now time.Time) (*x509.Certificate, error) {
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: string(req.Machine)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AgentLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if req.Proved {
		tmpl.URIs = req.Evidence.URIs()
	}
	return sign(tmpl, a.Cert, req.Key, a.Key)
}

// Serial is a certificate's serial number as the store and revocation lists
// have it: lower-case hex.
func Serial(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }

// KeyHash is the hash of a certificate's public key, as Request has it.
func KeyHash(cert *x509.Certificate) fleet.Digest { return fleet.SHA256(cert.RawSubjectPublicKeyInfo) }

// Verify checks a chain, leaf first, against roots and returns the root that it
// ends at. A leaf that is not good yet or no more is checked as of the nearest
// moment at which it is.
func Verify(roots *x509.CertPool, chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (root *x509.Certificate, err error) {
	leaf := chain[0]
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	if now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return nil, err
	}
	return chains[0][len(chains[0])-1], nil
}

// IsRoot reports whether a certificate is signed by its own key, as the roots of
// CAs are. Others are signed anew whenever their CA likes, by another key.
func IsRoot(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// TicketKeys are the session ticket keys at now: that of its UTC day, which
// encrypts, and those of the days around it, which a client or another
// replica may still hold. They follow from the secret, so that sessions
// outlive a restart.
func TicketKeys(secret []byte, now time.Time) ([][32]byte, error) {
	var keys [][32]byte
	for _, days := range []int{0, -1, 1} {
		day := now.UTC().AddDate(0, 0, days).Format(time.DateOnly)
		b, err := hkdf.Key(sha256.New, secret, nil, "nixfleet session tickets "+day, 32)
		if err != nil {
			return nil, fmt.Errorf("derive ticket key: %w", err)
		}
		keys = append(keys, [32]byte(b))
	}
	return keys, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// sign gives tmpl a random 128-bit serial number and signs it.
func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	tmpl.SerialNumber = serial.Add(serial, big.NewInt(1)) // zero is no serial number
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, by)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read own certificate: %w", err)
	}
	return cert, nil
}

// splitNames sorts names into host names and addresses, each once. The name
// localhost brings the loopback addresses along.
func splitNames(names []string) (dns []string, ips []net.IP) {
	seen := map[string]bool{}
	for _, n := range names {
		more := []string{n}
		if n == "localhost" {
			more = append(more, "127.0.0.1", "::1")
		}
		for _, n := range more {
			if seen[n] {
				continue
			}
			seen[n] = true
			if ip := net.ParseIP(n); ip != nil {
				ips = append(ips, ip)
			} else {
				dns = append(dns, n)
			}
		}
	}
	return dns, ips
}
