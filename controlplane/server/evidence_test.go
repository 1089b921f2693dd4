// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func evidenceKey(tb testing.TB) fleet.EvidenceKey { return publicOf(evidencePair(tb)) }

func evidencePair(tb testing.TB) ed25519.PrivateKey { return newKey(tb).(ed25519.PrivateKey) }

func publicOf(k ed25519.PrivateKey) fleet.EvidenceKey {
	return fleet.EvidenceKeyOf(k.Public().(ed25519.PublicKey))
}

// csrWith asks as an agent does that has both keys.
func csrWith(tb testing.TB, name fleet.MachineID, key crypto.Signer, evidence ed25519.PrivateKey) []byte {
	tb.Helper()
	return csrNaming(tb, name, key, append(publicOf(evidence).URIs(), prove(tb, evidence, name, key))...)
}

func csrNaming(tb testing.TB, name fleet.MachineID, key crypto.Signer, names ...*url.URL) []byte {
	tb.Helper()
	return must[[]byte](tb)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(name)}, URIs: names}, key))
}

func prove(tb testing.TB, evidence ed25519.PrivateKey, name fleet.MachineID, key crypto.Signer) *url.URL {
	tb.Helper()
	return fleet.ProveEvidence(evidence, name, fleet.SHA256(must[[]byte](tb)(x509.MarshalPKIXPublicKey(key.Public()))))
}

// named is the evidence key that a certificate names.
func named(tb testing.TB, c api.Certificate) fleet.EvidenceKey {
	tb.Helper()
	return must[fleet.EvidenceKey](tb)(fleet.EvidenceKeyIn(must[*x509.Certificate](tb)(x509.ParseCertificate(c.Certificate)).URIs))
}

// The evidence key of the enrolment is in row and certificate, and survives renewals
// and restarts. No renewal or check-in brings another.
func TestEvidenceKey_IsInRowAndCertificate(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	pair, otherPair := evidencePair(t), evidencePair(t)
	k, other := publicOf(pair), publicOf(otherPair)
	row := func(want fleet.EvidenceKey) {
		t.Helper()
		if m := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); m.EvidenceKey != want {
			t.Errorf("the row has %q, want %q", m.EvidenceKey, want)
		}
	}
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csrWith(t, "web-01", key, pair)}))
	row(k)
	if named(t, cert) != k {
		t.Errorf("the certificate names %q, want %q", named(t, cert), k)
	}
	m := w.machine(cert.Certificate, key)
	if _, err := m.Renew(t.Context(), api.RenewRequest{CSR: csrWith(t, "web-01", key, otherPair)}); fleet.ErrorCode(err) != fleet.Forbidden {
		t.Errorf("a renewal with another evidence key: %v", err)
	}
	ci := checkIn("web-01")
	ci.EvidenceKey = other
	if _, err := m.CheckIn(t.Context(), ci); err != nil {
		t.Errorf("a check-in with another evidence key gets no orders: %v", err)
	}
	row(k)
	next := must[api.Certificate](t)(m.Renew(t.Context(), api.RenewRequest{CSR: csrWith(t, "web-01", key, pair)}))
	if named(t, next) != k {
		t.Errorf("the next certificate names %q, want %q", named(t, next), k)
	}
	row(k)
}

// The certificate names an evidence key only if its request proved that the machine
// has it: so no machine passes for the signer of another one's evidence. An agent of
// the version before proves nothing: its key is in the row, and the certificate names
// it when a later version renews it.
func TestEvidenceKey_IsCertifiedOnlyIfProved(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	token, key, pair := w.token(admin, "web-01"), newKey(t), evidencePair(t)
	k, good := publicOf(pair).URIs(), prove(t, pair, "web-01", key)
	enroll := func(names ...*url.URL) (api.Certificate, error) {
		return w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: token, CSR: csrNaming(t, "web-01", key, names...)})
	}
	for name, names := range map[string][]*url.URL{
		"by another key":            append(k, prove(t, evidencePair(t), "web-01", key)),
		"for another machine":       append(k, prove(t, pair, "web-02", key)),
		"for another certificate":   append(k, prove(t, pair, "web-01", newKey(t))),
		"twice":                     append(k, good, good),
		"that is none":              append(k, &url.URL{Scheme: fleet.EvidenceProofScheme, Opaque: "!"}),
		"of no key":                 {good},
		"of another key than named": append(evidenceKey(t).URIs(), good),
	} {
		_, err := enroll(names...)
		wantCode(t, "a proof "+name, err, fleet.Invalid)
	}
	cert := must[api.Certificate](t)(enroll(k...))
	if m := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); named(t, cert) != "" || m.EvidenceKey != publicOf(pair) {
		t.Errorf("without a proof the certificate names %q, and the row has %q", named(t, cert), m.EvidenceKey)
	}
	trail := must[api.Page[fleet.AuditEntry]](t)(admin.Audit(t.Context(), fleet.AuditFilter{Subject: "machine:web-01"}, fleet.PageRequest{})).Items
	if v := must[fleet.AuditEvent](t)(trail[len(trail)-1].Event()); v.Action != fleet.ActionMachineEnroll || v.Detail["proved"] != "false" {
		t.Errorf("audited: %+v", v)
	}
	w.advance(2 * time.Hour) // until then a renewal gives the same certificate again
	m := w.machine(cert.Certificate, key)
	if next := must[api.Certificate](t)(m.Renew(t.Context(), api.RenewRequest{CSR: csrWith(t, "web-01", key, pair)})); named(t, next) != publicOf(pair) {
		t.Errorf("with a proof the certificate names %q", named(t, next))
	}
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
