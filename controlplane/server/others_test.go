// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// E07: a machine cannot ask for a certificate in another one's name, not even with
// the key that it has, whose certificate it could get again.
func TestRenew_IsForOnesOwnNameAlone(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)}))
	m := w.machine(cert.Certificate, key)
	again := must[api.Certificate](t)(m.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", key)}))
	got, err := m.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-02", key)})
	wantCode(t, "another machine's name", err, fleet.Forbidden)
	if got.Certificate != nil || again.Certificate == nil {
		t.Errorf("got a certificate of %s", got.Machine)
	}
}

// A16: the check-ins that a stop ends are told different times, so that a fleet is
// not online again all at once. Of 16 that are told the same, one in 14 million runs
// would have drawn it.
func TestStop_SpreadsTheCheckInsThatItEnds(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	var ends []<-chan error
	for _, name := range []fleet.MachineID{
		"a-01", "a-02", "a-03", "a-04", "a-05", "a-06", "a-07", "a-08", "b-01", "b-02", "b-03", "b-04", "b-05", "b-06", "b-07", "b-08",
	} {
		ends = append(ends, w.holding(w.enrolled(admin, name), checkIn(name)))
	}
	w.stop()
	asked := map[time.Duration]int{}
	for _, end := range ends {
		err := <-end
		after, said := api.RetryAfter(err)
		if !said {
			t.Errorf("told no time: %v", err)
		}
		asked[after]++
	}
	if len(asked) < 2 {
		t.Errorf("all ask again at the same time: %v", asked)
	}
}
