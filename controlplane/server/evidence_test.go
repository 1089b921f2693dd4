// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func evidenceKey(tb testing.TB) fleet.EvidenceKey {
	tb.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return fleet.EvidenceKeyOf(public)
}

func csrWith(tb testing.TB, name fleet.MachineID, key crypto.Signer, k fleet.EvidenceKey) []byte {
	tb.Helper()
	return must[[]byte](tb)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(name)}, URIs: k.URIs()}, key))
}

// The evidence key of the enrolment is in row and certificate, and survives renewals
// and restarts. No renewal or check-in brings another.
func TestEvidenceKey_IsInRowAndCertificate(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	k, other := evidenceKey(t), evidenceKey(t)
	row := func(want fleet.EvidenceKey) {
		t.Helper()
		if m := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); m.EvidenceKey != want {
			t.Errorf("the row has %q, want %q", m.EvidenceKey, want)
		}
	}
	named := func(c api.Certificate) fleet.EvidenceKey {
		t.Helper()
		return must[fleet.EvidenceKey](t)(fleet.EvidenceKeyIn(must[*x509.Certificate](t)(x509.ParseCertificate(c.Certificate)).URIs))
	}
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csrWith(t, "web-01", key, k)}))
	row(k)
	if named(cert) != k {
		t.Errorf("the certificate names %q, want %q", named(cert), k)
	}
	m := w.machine(cert.Certificate, key)
	if _, err := m.Renew(t.Context(), api.RenewRequest{CSR: csrWith(t, "web-01", key, other)}); fleet.ErrorCode(err) != fleet.Forbidden {
		t.Errorf("a renewal with another evidence key: %v", err)
	}
	ci := checkIn("web-01")
	ci.EvidenceKey = other
	if _, err := m.CheckIn(t.Context(), ci); err != nil {
		t.Errorf("a check-in with another evidence key gets no orders: %v", err)
	}
	row(k)
	next := must[api.Certificate](t)(m.Renew(t.Context(), api.RenewRequest{CSR: csrWith(t, "web-01", key, k)}))
	if named(next) != k {
		t.Errorf("the next certificate names %q, want %q", named(next), k)
	}
	row(k)
}

// A machine whose agent enrolled before there were evidence keys names its own in a
// check-in. It counts once.
func TestEvidenceKey_ComesOnceWithACheckIn(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.enrolled(admin, "web-01")
	first := evidenceKey(t)
	for _, k := range []fleet.EvidenceKey{"ed25519:forged", first, evidenceKey(t), ""} {
		ci := checkIn("web-01")
		ci.EvidenceKey = k
		must[api.Orders](t)(m.CheckIn(t.Context(), ci))
	}
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.EvidenceKey != first {
		t.Errorf("the row has %q, want %q", got.EvidenceKey, first)
	}
}

// E07: a check-in for another machine brings no key, neither to it nor to the caller.
func TestEvidenceKey_OfAnotherMachineIsNotTaken(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.enrolled(admin, "web-01")
	w.enrolled(admin, "db-01")
	ci := checkIn("db-01")
	ci.EvidenceKey = evidenceKey(t)
	_, err := m.CheckIn(t.Context(), ci)
	wantCode(t, "a check-in for another machine", err, fleet.Forbidden)
	for _, id := range []fleet.MachineID{"web-01", "db-01"} {
		if got := must[fleet.Machine](t)(admin.Machine(t.Context(), id)); got.EvidenceKey != "" {
			t.Errorf("%s has the evidence key %q", id, got.EvidenceKey)
		}
	}
}
