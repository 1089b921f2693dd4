// SPDX-License-Identifier: MIT

package link

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// says wants an error with a code and a text.
func says(t *testing.T, what string, err error, code fleet.Code, text string) {
	t.Helper()
	if err == nil || fleet.ErrorCode(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v (%s), want %s and %q", what, err, fleet.ErrorCode(err), code, text)
	}
}

// An enrolment that is refused leaves neither certificate nor CA, and a control plane
// is asked only when all here is right (E08).
func TestEnroll_LeavesNothingWhenItIsRefused(t *testing.T) {
	other := newAuthority(t)
	for _, c := range []struct {
		name  string
		edit  func(*authority, *identity)
		code  fleet.Code
		text  string
		asked bool
	}{
		{"another CA", func(a *authority, _ *identity) { a.ca = other.cert.Raw }, fleet.Refused, "another CA", true},
		{"no certificate", func(a *authority, _ *identity) { a.raw = []byte("x") }, fleet.Refused, "no certificate", true},
		{"the token is refused", func(a *authority, _ *identity) { a.status = http.StatusUnauthorized }, fleet.Unauthenticated, "", true},
		{"no https", func(_ *authority, i *identity) {
			i.cfg.ControlPlane.URL = strings.Replace(i.cfg.ControlPlane.URL, "https", "http", 1)
		}, fleet.Invalid, "not the address", false},
		{"no address", func(_ *authority, i *identity) { i.cfg.ControlPlane.URL = "https://%zz" }, fleet.Invalid, "controlPlane.url", false},
		{"a damaged key", func(_ *authority, i *identity) { write(t, i.cfg.Identity.KeyFile, []byte("damaged")) }, fleet.Invalid, "no key", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t)
			id := &identity{cfg: a.config(t)}
			c.edit(a, id)
			says(t, c.name, id.enroll(t.Context(), a.token("web-01")), c.code, c.text)
			for _, f := range []string{id.cfg.Identity.CertFile, caFile(id.cfg)} {
				if _, err := os.Stat(f); err == nil {
					t.Errorf("%s was written", filepath.Base(f))
				}
			}
			if asked := len(a.tokens) > 0; asked != c.asked {
				t.Errorf("the control plane was asked: %v, want %v", asked, c.asked)
			}
		})
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file that holds no key that can sign is named, wherever it is needed.
func TestReadKey_NamesWhatIsNoKey(t *testing.T) {
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(x)
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err = id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	client, err := id.client("1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a.status = http.StatusUnauthorized
	says(t, "a renewal that is refused", id.renewOnce(t.Context(), client), fleet.Unauthenticated, "")
	a.shown, a.status = nil, 0
	for want, text := range map[string][]byte{
		"contains no key": []byte("text"),
		"read key":        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no DER")}),
		"cannot sign":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		write(t, id.cfg.Identity.KeyFile, text)
		_, _, err := readKey(id.cfg.Identity.KeyFile)
		says(t, "read", err, fleet.Invalid, want)
		says(t, "renew", id.renewOnce(t.Context(), client), fleet.Invalid, want)
	}
	if len(a.shown) > 0 {
		t.Error("a certificate was asked for without a key")
	}
}

// The control plane's CA is in the file and nowhere else: without it, no connection is
// made, not even to a server that the system trusts (E07).
func TestClient_TrustsTheFileAlone(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(caFile(id.cfg))
	if err != nil {
		t.Fatal(err)
	}
	connected, err := id.client("1")
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	if err = os.Remove(caFile(id.cfg)); err != nil {
		t.Fatal(err)
	}
	_, err = connected.Renew(t.Context(), api.RenewRequest{})
	if err == nil || !strings.Contains(err.Error(), "read the control plane's CA") {
		t.Errorf("a connection without a CA: %v", err)
	}
	_, err = id.client("1")
	says(t, "no CA", err, fleet.NotFound, "the control plane's CA")
	write(t, caFile(id.cfg), []byte("text"))
	_, err = id.client("1")
	says(t, "no certificate in the file", err, fleet.Invalid, "no certificate")
	write(t, caFile(id.cfg), ca)
	id.cfg.ControlPlane.URL = strings.Replace(id.cfg.ControlPlane.URL, "https", "http", 1)
	_, err = id.client("1")
	says(t, "no https", err, fleet.Invalid, "not the address")
}

// A machine that starts enrols by the token that its configuration names, and says
// why it cannot.
func TestEnrolledClient_SaysWhyThereIsNone(t *testing.T) {
	a := newAuthority(t)
	id := &identity{cfg: a.config(t)}
	_, err := id.enrolledClient(t.Context(), "1")
	says(t, "no token", err, fleet.NotFound, "the control plane's CA")
	id.cfg.Identity.TokenFile = filepath.Join(t.TempDir(), "token")
	_, err = id.enrolledClient(t.Context(), "1")
	says(t, "no token in the file", err, fleet.NotFound, "read enrolment token")
	write(t, id.cfg.Identity.TokenFile, []byte("nonsense"))
	_, err = id.enrolledClient(t.Context(), "1")
	says(t, "no token in it", err, fleet.Invalid, "token")
	write(t, id.cfg.Identity.TokenFile, []byte(a.token("web-01")))
	c, err := id.enrolledClient(t.Context(), "1")
	if err != nil || c == nil {
		t.Fatalf("with a token: %v, %v", c, err)
	}
	c.Close()
}

// A report that was not acknowledged stays in the queue.
func TestSend_WantsAnAcknowledgement(t *testing.T) {
	l, _ := testLink(t)
	if err := l.Outbox.Put(fleet.Report{ID: "1", Machine: "web-01", Kind: fleet.ReportRefusal}); err != nil {
		t.Fatal(err)
	}
	batch, err := l.Outbox.Batch(10)
	if err != nil {
		t.Fatal(err)
	}
	says(t, "a reply about another report", l.send(t.Context(), &fakePlane{reports: func([]fleet.Report) (api.ReportsReply, error) {
		return api.ReportsReply{Accepted: []string{"", "2"}, Rejected: []string{"3"}}, nil
	}}, batch), fleet.Unavailable, "none of 1")
	says(t, "an empty reply", l.send(t.Context(), &fakePlane{reports: func([]fleet.Report) (api.ReportsReply, error) { return api.ReportsReply{}, nil }}, batch), fleet.Unavailable, "none of 1")
	if l.Outbox.Len() != 1 {
		t.Error("the report is gone")
	}
}
