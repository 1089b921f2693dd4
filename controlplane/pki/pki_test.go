// SPDX-License-Identifier: AGPL-3.0-only

package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
)

var now = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

func request(t *testing.T, name string, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func keyOf[K crypto.Signer](t *testing.T) func(K, error) crypto.Signer {
	return func(k K, err error) crypto.Signer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
}

func TestLoad_KeepsWhatItMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := pki.Load(dir, []string{"fleet.example.org", "192.0.2.7"}, now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.Load(dir, []string{"fleet.example.org", "192.0.2.7"}, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	certA, _ := a.Server(now)
	certB, _ := b.Server(now)
	if !a.ServerCA.Cert.Equal(b.ServerCA.Cert) || !a.AgentCA.Cert.Equal(b.AgentCA.Cert) || !certA.Leaf.Equal(certB.Leaf) ||
		!bytes.Equal(a.EpochKey, b.EpochKey) || !bytes.Equal(a.TicketKey, b.TicketKey) {
		t.Error("a second start made other keys")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if want := os.FileMode(0o600); f.Name() != pki.CAFile && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", f.Name(), info.Mode().Perm(), want)
		}
	}
	if len(files) != 6 {
		t.Errorf("got %d files, want 6: a temporary one was left", len(files))
	}
}

func TestServer_IsIssuedAnewNearItsEndAndForOtherNames(t *testing.T) {
	dir := t.TempDir()
	k, err := pki.Load(dir, []string{"a.example.org"}, now)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := k.Server(now)
	if same, _ := k.Server(now.Add(pki.ServerLife - pki.ServerRenew - 2*time.Hour)); !same.Leaf.Equal(first.Leaf) {
		t.Error("issued anew while it is young")
	}
	later := now.Add(pki.ServerLife - pki.ServerRenew + time.Minute)
	second, err := k.Server(later)
	if err != nil || second.Leaf.Equal(first.Leaf) {
		t.Fatalf("near its end: got the same certificate, %v", err)
	}
	k2, err := pki.Load(dir, []string{"b.example.org"}, later)
	if err != nil {
		t.Fatal(err)
	}
	third, _ := k2.Server(later)
	roots := x509.NewCertPool()
	roots.AddCert(k.ServerCA.Cert)
	if _, err := third.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "b.example.org", CurrentTime: later}); err != nil {
		t.Errorf("new name: %v", err)
	}
}

func TestServer_ForLocalhostIsGoodForLoopback(t *testing.T) {
	ca, err := pki.NewAuthority("servers", now)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := ca.Server([]string{"127.0.0.1", "localhost"}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := cert.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if len(cert.IPAddresses) != 2 || !ca.ServerFits(cert, []string{"127.0.0.1", "localhost"}, now.Add(time.Minute)) {
		t.Errorf("addresses %v; want each once, and the certificate to fit the same names", cert.IPAddresses)
	}
}

func TestLoad_RefusesFilesThatAreOpenOrDamaged(t *testing.T) {
	for _, name := range []string{"server-ca.key.pem", "agent-ca.key.pem", "server.key.pem", "epoch.key", "tickets.key"} {
		dir := t.TempDir()
		if _, err := pki.Load(dir, []string{"a"}, now); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Load(dir, []string{"a"}, now); fleet.ErrorCode(err) != fleet.Invalid || fleet.ErrorHint(err) == "" {
			t.Errorf("%s open to others: got %v, want an invalid error with a hint", name, err)
		}
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Load(dir, []string{"a"}, now); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s damaged: got %v, want an invalid error", name, err)
		}
	}
}

func TestParseRequest(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p256 := keyOf[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := keyOf[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsaKey := keyOf[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	forged := request(t, "web-01", ed)
	forged[len(forged)-1] ^= 1
	for _, tt := range []struct {
		name string
		der  []byte
		ok   bool
	}{
		{"ed25519", request(t, "web-01", ed), true},
		{"P-256", request(t, "web-01", p256), true},
		{"P-384", request(t, "web-01", p384), false},
		{"RSA", request(t, "web-01", rsaKey), false},
		{"not a machine id", request(t, "Web 01", ed), false},
		{"no name", request(t, "", ed), false},
		{"signature of another key", forged, false},
		{"not a request", []byte("x"), false},
	} {
		_, err := pki.ParseRequest(tt.der)
		if (err == nil) != tt.ok || err != nil && fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s: got %v, want success %t", tt.name, err, tt.ok)
		}
	}
}

func TestAgent_IssuesAClientCertificateForAWeek(t *testing.T) {
	ca, err := pki.NewAuthority("agents", now)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	req, err := pki.ParseRequest(request(t, "web-01", key))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Agent(req, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	verify := func(at time.Time, use x509.ExtKeyUsage) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	if err := verify(now.Add(7*24*time.Hour-time.Second), x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	if verify(now.Add(7*24*time.Hour+time.Second), x509.ExtKeyUsageClientAuth) == nil {
		t.Error("good after seven days")
	}
	if verify(now, x509.ExtKeyUsageServerAuth) == nil {
		t.Error("good for a server")
	}
	if cert.Subject.CommonName != "web-01" || cert.IsCA || len(pki.Serial(cert)) < 24 {
		t.Errorf("subject %v, CA %t, serial %s", cert.Subject, cert.IsCA, pki.Serial(cert))
	}
}

func TestTicketKeys_OverlapFromDayToDay(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	today, err := pki.TicketKeys(secret, now)
	if err != nil {
		t.Fatal(err)
	}
	tomorrow, err := pki.TicketKeys(secret, now.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if tomorrow[1] != today[0] || today[2] != tomorrow[0] || today[0] == tomorrow[0] {
		t.Error("a ticket of today is not good tomorrow, or the key does not change")
	}
	if again, _ := pki.TicketKeys(secret, now.Add(time.Hour)); again[0] != today[0] {
		t.Error("the key changed within the day")
	}
}
