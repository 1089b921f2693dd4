// SPDX-License-Identifier: MIT

package link

import (
	"crypto/ed25519"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// asked is the evidence key that the last request named.
func (a *authority) asked() fleet.EvidenceKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.evidence[len(a.evidence)-1]
}

func (a *authority) serves(id *identity) {
	a.t.Helper()
	c, err := id.client("test")
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	if err := id.renewOnce(a.t.Context(), c); err != nil {
		a.t.Fatal(err)
	}
}

// said is what a check-in names.
func (a *authority) said(id *identity) fleet.EvidenceKey {
	l, _ := testLink(a.t)
	l.Log = slog.New(slog.DiscardHandler)
	l.setEvidence(id)
	return l.checkIn(0).EvidenceKey
}

// The evidence key is made with an enrolment, and stays the same in its repeat, in
// renewals and after a restart. The next enrolment has another.
func TestEvidenceKey_IsThatOfTheEnrolment(t *testing.T) {
	a := newAuthority(t)
	a.life = time.Hour
	cfg := a.config(t)
	for range 2 { // the answer to the first was lost
		if err := (&identity{cfg: cfg}).enroll(t.Context(), a.token("web-01")); err != nil {
			t.Fatal(err)
		}
	}
	first := a.asked()
	if !first.Valid() || a.evidence[0] != first {
		t.Fatalf("asked with %q", a.evidence)
	}
	a.life = 2 * time.Hour
	a.serves(&identity{cfg: cfg})
	if a.asked() != first || a.said(&identity{cfg: cfg}) != first {
		t.Errorf("renewed with %q, checked in with %q, want %q", a.asked(), a.said(&identity{cfg: cfg}), first)
	}
	again := api.TokenParts{Machine: "web-01", Secret: "another0secret00", CAHash: api.CAHash(a.cert.Raw)}.String()
	if err := (&identity{cfg: cfg}).enroll(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if a.asked() == first || !a.asked().Valid() || a.said(&identity{cfg: cfg}) != a.asked() {
		t.Errorf("enrolled again with %q, checks in with %q", a.asked(), a.said(&identity{cfg: cfg}))
	}
	k, _, err := readKey((&identity{cfg: cfg}).evidenceFile())
	if err != nil || fleet.EvidenceKeyOf(k.Public().(ed25519.PublicKey)) != a.asked() {
		t.Errorf("the file has another key: %v", err)
	}
}

// A machine that enrolled before there were evidence keys gets one, and keeps it. A
// machine that lost its own gets no other, and keeps its certificate.
func TestEvidenceKey_IsMadeOnceForAMachineThatHasNone(t *testing.T) {
	a := newAuthority(t)
	a.life, a.old = time.Hour, true
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(id.evidenceFile()); err != nil {
		t.Fatal(err)
	}
	made := a.said(id)
	if !made.Valid() || a.said(id) != made {
		t.Errorf("made %q, then %q", made, a.said(id))
	}
	a.life, a.old = 2*time.Hour, false
	a.serves(id)
	if a.asked() != made {
		t.Errorf("renewed with %q, want %q", a.asked(), made)
	}
	if err := os.Remove(id.evidenceFile()); err != nil {
		t.Fatal(err)
	}
	if k := a.said(id); k != "" {
		t.Errorf("a machine that lost its evidence key names %q", k)
	}
	a.life = 3 * time.Hour
	a.serves(id)
	if a.asked() != "" {
		t.Errorf("renewed with %q", a.asked())
	}
}

// A certificate that names an evidence key that is not the machine's is refused.
func TestEnroll_RefusesAnotherEvidenceKey(t *testing.T) {
	a := newAuthority(t)
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a.names = fleet.EvidenceKeyOf(public)
	id := &identity{cfg: a.config(t)}
	if err := id.enroll(t.Context(), a.token("web-01")); err == nil || !strings.Contains(err.Error(), "evidence key") || id.enrolled() {
		t.Errorf("%v", err)
	}
}
