// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

const day = 24 * time.Hour

// member is a machine that enrolled, with what it holds.
type member struct {
	w    *world
	id   fleet.MachineID
	key  crypto.Signer
	cert []byte
}

func (w *world) member(admin *api.Client, id fleet.MachineID) member {
	w.tb.Helper()
	key := newKey(w.tb)
	c := must[api.Certificate](w.tb)(w.machine(nil, nil).Enroll(w.ctx(), api.EnrollRequest{Token: w.token(admin, id), CSR: csr(w.tb, id, key)}))
	return member{w, id, key, c.Certificate}
}

func (m member) client() *api.AgentClient { return m.w.machine(m.cert, m.key) }

func (m member) checkIn() error {
	_, err := m.client().CheckIn(m.w.ctx(), checkIn(m.id))
	return err
}

// renew takes the next certificate.
func (m *member) renew() error {
	c, err := m.client().Renew(m.w.ctx(), api.RenewRequest{CSR: csr(m.w.tb, m.id, m.key)})
	if err == nil {
		m.cert = c.Certificate
	}
	return err
}

// restart stops the control plane and starts it again some time later.
func (w *world) restart(later time.Duration) {
	w.stop()
	w.advance(later)
	w.start()
}

// A18: after a week without contact machines renew by themselves, each by its
// own key, and all that is noted.
func TestRenew_LateIsForMachinesThatAreStillWanted(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	active, resting, gone, replaced := w.member(admin, "web-01"), w.member(admin, "web-02"), w.member(admin, "web-03"), w.member(admin, "web-04")
	must[fleet.Machine](t)(admin.SetLifecycle(t.Context(), "web-02", fleet.Maintenance))
	must[fleet.Machine](t)(admin.SetLifecycle(t.Context(), "web-03", fleet.Decommissioned))
	tok := must[api.Token](t)(admin.CreateToken(t.Context(), "web-04", api.TokenRequest{Replace: true}))
	must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: tok.Token, CSR: csr(t, "web-04", newKey(t))}))
	secret := w.secretOfAdmin
	w.restart(90 * day)
	for _, m := range []*member{&active, &resting} {
		wantCode(t, "a check-in with an expired certificate", m.checkIn(), fleet.Unauthenticated)
		if err := m.renew(); err != nil {
			t.Fatalf("%s renews late: %v", m.id, err)
		}
		if err := m.checkIn(); err != nil {
			t.Errorf("%s checks in by its new certificate: %v", m.id, err)
		}
	}
	for _, m := range []*member{&gone, &replaced} {
		if err := m.renew(); err == nil {
			t.Errorf("%s renewed late", m.id)
		}
	}
	page := must[api.Page[fleet.AuditEntry]](t)(w.operator(secret).Audit(t.Context(), fleet.AuditFilter{Action: fleet.ActionMachineRenewLate}, fleet.PageRequest{}))
	if len(page.Items) != 2 {
		t.Errorf("%d late renewals in the audit trail, want 2", len(page.Items))
	}
}

// A late renewal ends with tls.renewLateDays.
func TestRenew_LateEndsWithItsWindow(t *testing.T) {
	none, week := 0, 7
	for _, tc := range []struct {
		name  string
		days  *int
		after time.Duration // since the enrolment
		good  bool
	}{
		{"90 days by default", nil, 96 * day, true},
		{"after 90 days", nil, 98 * day, false},
		{"a week", &week, 13 * day, true},
		{"after a week", &week, 15 * day, false},
		{"not at all", &none, 7*day + time.Minute, false},
		{"in time", &none, 7*day - time.Hour, true},
		{"before it is good", nil, -2 * time.Hour, true},
		{"before it is good, not at all", &none, -2 * time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorldWith(t, config.TLS{RenewLateDays: tc.days})
			ahead := max(0, -tc.after)
			w.advance(ahead)
			m := w.member(w.admin(), "web-01")
			w.advance(tc.after)
			if err := m.renew(); (err == nil) != tc.good {
				t.Errorf("renewed: %v, want %v", err, tc.good)
			}
		})
	}
}

// A clock that was ahead leaves certificates that are not good yet: they can be
// renewed, and do nothing else.
func TestRenew_OfACertificateFromAClockThatWasAhead(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.member(admin, "web-01")
	w.advance(6 * day)
	if err := m.renew(); err != nil {
		t.Fatal(err)
	}
	w.advance(-6 * day)
	wantCode(t, "a check-in", m.checkIn(), fleet.Unauthenticated)
	if err := m.renew(); err != nil {
		t.Fatal(err)
	}
	if err := m.checkIn(); err != nil {
		t.Error(err)
	}
}

// With the database gone, an expired certificate makes its machine pending and
// gets nothing until the machine is adopted.
func TestRenew_LateWithoutARowWaitsForAdoption(t *testing.T) {
	w := newWorld(t)
	m := w.member(w.admin(), "web-01")
	w.stop()
	for _, file := range must[[]string](t)(filepath.Glob(filepath.Join(w.dir, "nixfleet.db*"))) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	w.advance(20 * day)
	w.start()
	admin := w.admin()
	if err := m.renew(); err == nil {
		t.Fatal("renewed before it was adopted")
	}
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.Lifecycle != fleet.Pending || got.Key == "" {
		t.Errorf("it is %s with key %q", got.Lifecycle, got.Key)
	}
	must[fleet.Machine](t)(admin.AdoptMachine(t.Context(), "web-01"))
	if err := m.renew(); err != nil {
		t.Fatal(err)
	}
	if err := m.checkIn(); err != nil {
		t.Error(err)
	}
}

// An expired certificate of another CA, that of tls.clientCaFile or not, is good
// for nothing.
func TestRenew_LateIsNotForOtherCAs(t *testing.T) {
	own := must[pki.Authority](t)(pki.NewAuthority("our own CA", time.Now()))
	for name, conf := range map[string]config.TLS{"the CA in clientCaFile": {ClientCAFile: caFile(t, own)}, "an unknown CA": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, conf)
			key := newKey(t)
			cert, err := own.Agent(must[pki.Request](t)(pki.ParseRequest(csr(t, "web-01", key))), w.now())
			if err != nil {
				t.Fatal(err)
			}
			m := member{w, "web-01", key, cert.Raw}
			w.advance(8 * day)
			if err := m.renew(); fleet.ErrorCode(err) != fleet.Unauthenticated {
				t.Errorf("a renewal: %v", err)
			}
			if err := m.checkIn(); err == nil {
				t.Error("it got orders")
			}
		})
	}
}
