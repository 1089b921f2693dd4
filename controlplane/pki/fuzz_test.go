// SPDX-License-Identifier: AGPL-3.0-only

package pki_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"unicode"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzParseRequest reads certificate requests, as bytes, and as one that is well
// signed for any name: what is taken is for a machine id, and has a key of an
// allowed kind by whose hash it is known.
func FuzzParseRequest(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, signer := range []any{key, p384} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "web-01"}}, signer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, "web-01")
		f.Add(der[:len(der)-1], "web-01\x00.evil")
	}
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "web-01/OU=root")
	f.Fuzz(func(t *testing.T, der []byte, name string) {
		signed, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
		if err == nil {
			if r, refused := pki.ParseRequest(signed); (refused == nil) != fleet.MachineID(name).Valid() || refused == nil && string(r.Machine) != name {
				t.Fatalf("a request for %q is %+v, %v", name, r, refused)
			}
		}
		r, err := pki.ParseRequest(der)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || r != (pki.Request{}) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("%q with code %q, %+v", err, fleet.ErrorCode(err), r)
			}
			return
		}
		public, err := x509.MarshalPKIXPublicKey(r.Key)
		if err != nil || !r.Machine.Valid() || fleet.SHA256(public) != r.KeyHash {
			t.Fatalf("%+v was taken, %v", r, err)
		}
	})
}
