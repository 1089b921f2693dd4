// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// wipe takes the database away and starts the control plane on its keys alone.
func (w *world) wipe() {
	w.tb.Helper()
	w.stop()
	files, err := filepath.Glob(filepath.Join(w.dir, "nixfleet.db*"))
	if err != nil || len(files) == 0 {
		w.tb.Fatalf("found the database files %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			w.tb.Fatal(err)
		}
	}
	w.start()
}

// E08 E12: after the database was wiped no token is good again, used or not. A
// machine with a good certificate appears as pending and gets nothing; once an
// operator has adopted it, it is as it was, with no key but its own.
func TestWipedDatabase_TakesNoTokenAndAdoptsMachines(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	used, unused := w.token(admin, "web-01"), w.token(admin, "web-02")
	key := newKey(t)
	enroll := func(token string, name fleet.MachineID) (api.Certificate, error) {
		return w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: token, CSR: csr(t, name, key)})
	}
	cert := must[api.Certificate](t)(enroll(used, "web-01"))
	in := checkIn("web-01")
	in.Epoch = must[api.Orders](t)(w.machine(cert.Certificate, key).CheckIn(t.Context(), in)).Epoch

	w.wipe()
	for name, token := range map[fleet.MachineID]string{"web-01": used, "web-02": unused} {
		_, err := enroll(token, name)
		wantCode(t, "the token of "+string(name), err, fleet.Unauthenticated)
	}
	m := w.machine(cert.Certificate, key)
	if o := must[api.Orders](t)(m.CheckIn(t.Context(), in)); o.Apply != nil || o.Prefetch != "" {
		t.Errorf("a machine that is not known gets %+v", o)
	}
	admin = w.admin()
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.Lifecycle != fleet.Pending {
		t.Errorf("the machine is %s, want pending", got.Lifecycle)
	}
	if info := must[api.Info](t)(admin.Info(t.Context())); info.Mode != "restored" {
		t.Errorf("mode %s, want restored: a machine has seen more than the database has", info.Mode)
	}
	if got := must[fleet.Machine](t)(admin.AdoptMachine(t.Context(), "web-01")); got.Lifecycle != fleet.Active {
		t.Errorf("the adopted machine is %s", got.Lifecycle)
	}
	must[api.Orders](t)(m.CheckIn(t.Context(), in))
	other := newKey(t)
	_, err := w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: used, CSR: csr(t, "web-01", other)})
	wantCode(t, "the old token for another key", err, fleet.Unauthenticated)
}
