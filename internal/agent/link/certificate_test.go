// SPDX-License-Identifier: MIT

package link

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// twoEvidenceKeys are names of a certificate that say nothing for certain.
func twoEvidenceKeys(t *testing.T) []*url.URL {
	t.Helper()
	var names []*url.URL
	for range 2 {
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fleet.EvidenceKeyOf(public).URIs()...)
	}
	return names
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// E07, E08: a control plane cannot renew a machine's certificate by one that is not
// this machine's, for the key that it has: the one in use stays.
func TestRenew_RefusesACertificateThatIsNotOurs(t *testing.T) {
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
	k, err := id.key()
	if err != nil {
		t.Fatal(err)
	}
	before := id.now.Leaf
	for _, tc := range []struct {
		name   string
		cn     string
		public any
		uris   []*url.URL
		says   string // "" if it is ours
	}{
		{"another key's", "web-01", newECDSA(t).Public(), before.URIs, "of another machine"},
		{"another name's", "web-02", k.Public(), before.URIs, "of another machine"},
		{"one with two evidence keys", "web-01", k.Public(), twoEvidenceKeys(t), "another evidence key"},
		{"ours", "web-01", k.Public(), before.URIs, ""},
	} {
		a.raw = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: tc.cn}, URIs: tc.uris}, tc.public, 2*time.Hour)
		err := id.renewOnce(t.Context(), c)
		now, unread := id.certificate(nil)
		if unread != nil {
			t.Fatal(unread)
		}
		if tc.says == "" {
			if err != nil || now.Leaf.Equal(before) {
				t.Errorf("%s: %v; in use: %v", tc.name, err, now.Leaf.SerialNumber)
			}
			continue
		}
		says(t, tc.name, err, fleet.Refused, tc.says)
		if !now.Leaf.Equal(before) {
			t.Errorf("%s is in use", tc.name)
		}
	}
}

// A machine says that it signs evidence with a key only if it has that key, and its
// certificate names it or none.
func TestEvidence_IsTheKeyOfFileAndCertificate(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	shown, err := id.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	named := shown.Leaf
	have, err := id.evidence(named)
	if err != nil || publicOf(have) != a.asked() {
		t.Fatalf("%q, %v; asked for %q", publicOf(have), err, a.asked())
	}
	_, err = id.evidence(&x509.Certificate{URIs: twoEvidenceKeys(t)})
	says(t, "a certificate with two", err, fleet.Invalid, "not one ed25519 key")
	if _, err = makeEvidenceKey(id.evidenceFile(), ""); err != nil {
		t.Fatal(err)
	}
	_, err = id.evidence(named)
	says(t, "another key in the file", err, fleet.Conflict, "names another evidence key")
	if said := a.said(id); said != "" {
		t.Errorf("it checks in with %q", said)
	}
	if err = writeKey(id.evidenceFile(), "", newECDSA(t)); err != nil {
		t.Fatal(err)
	}
	_, err = id.evidence(&x509.Certificate{})
	says(t, "no ed25519 key in the file", err, fleet.Invalid, "not an ed25519 key")
}

// Nobody is asked for a certificate if the key that it would name cannot sign
// evidence.
func TestEnroll_AsksNobodyWithoutAnEvidenceKey(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	token, err := api.ParseToken(a.token("web-01"))
	if err != nil {
		t.Fatal(err)
	}
	if err = writeKey(next(id.evidenceFile()), string(fleet.SHA256([]byte(token.Bare()))), newECDSA(t)); err != nil {
		t.Fatal(err)
	}
	says(t, "no ed25519 key", id.enroll(t.Context(), a.token("web-01")), fleet.Invalid, "not an ed25519 key")
	if len(a.tokens) > 0 || id.enrolled() {
		t.Errorf("asked %d times; enrolled: %t", len(a.tokens), id.enrolled())
	}
}
