// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"slices"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func (w *world) auditOf(admin *api.Client, subject string) []string {
	w.tb.Helper()
	page := must[api.Page[fleet.AuditEntry]](w.tb)(admin.Audit(w.ctx(), fleet.AuditFilter{Subject: subject}, fleet.PageRequest{}))
	return names(page.Items, func(e fleet.AuditEntry) string { return must[fleet.AuditEvent](w.tb)(e.Event()).Action })
}

// A machine that never enrolled is gone with its token. One that did stays: its keys
// must not count again.
func TestDeleteMachine_OnlyWhatNeverEnrolled(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "wbe-01"}))
	token := w.token(admin, "wbe-01")
	m := w.enrolled(admin, "web-01")
	if err := admin.DeleteMachine(t.Context(), "wbe-01"); err != nil {
		t.Fatal(err)
	}
	_, err := admin.Machine(t.Context(), "wbe-01")
	wantCode(t, "a deleted machine", err, fleet.NotFound)
	_, err = w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: token, CSR: csr(t, "wbe-01", newKey(t))})
	wantCode(t, "the token of a deleted machine", err, fleet.Unauthenticated)
	wantCode(t, "deleting it again", admin.DeleteMachine(t.Context(), "wbe-01"), fleet.NotFound)
	wantCode(t, "deleting an enrolled machine", admin.DeleteMachine(t.Context(), "web-01"), fleet.Conflict)
	must[fleet.Machine](t)(admin.SetLifecycle(t.Context(), "web-01", fleet.Decommissioned))
	wantCode(t, "deleting a decommissioned one", admin.DeleteMachine(t.Context(), "web-01"), fleet.Conflict)
	_, err = m.CheckIn(t.Context(), checkIn("web-01"))
	wantCode(t, "its check-in", err, fleet.Unauthenticated)
	if got := w.auditOf(admin, "machine:wbe-01"); !slices.Equal(got, []string{fleet.ActionMachineRegister, fleet.ActionTokenCreate, fleet.ActionMachineDelete}) {
		t.Errorf("audit: %q", got)
	}
	for e, err := range admin.Watch(t.Context(), 1, fleet.EventFilter{Machine: "wbe-01"}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Removed == "wbe-01" {
			break
		}
	}
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "wbe-01"}))
	w.restart(0) // contacts are written at the stop, of machines that are known
	must[fleet.Machine](t)(w.operator(w.secretOfAdmin).Machine(t.Context(), "wbe-01"))
}

// A renamed machine enrols anew: what is bound to its old name passes neither for
// the new one nor for the old.
func TestRenameMachine_EndsWhatIsBoundToTheOldName(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-1", Tags: []fleet.Tag{"web"}}))
	key := newKey(t)
	cert := must[api.Certificate](t)(w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-1"), CSR: csr(t, "web-1", key)}))
	old := w.machine(cert.Certificate, key)
	must[api.Orders](t)(old.CheckIn(t.Context(), checkIn("web-1")))
	release := w.release(admin, 1, "", "web-1").Digest
	grant := fleet.Grant{Kind: fleet.GrantStale, Digest: release, Machines: []fleet.MachineID{"web-1"}, SignedAt: w.now().UnixMilli(), Expires: w.now().Add(time.Hour).UnixMilli()}
	must[api.Document](t)(admin.PutGrant(t.Context(), w.fleet.Grant(grant)))
	rename := func(from, to fleet.MachineID) (fleet.Machine, error) {
		return admin.RenameMachine(t.Context(), from, api.RenameRequest{To: to})
	}

	r := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: release, Select: []string{"web-1"}}}))
	_, err := rename("web-1", "web-01")
	wantCode(t, "renaming in a rollout", err, fleet.Conflict)
	must[api.RolloutDetail](t)(admin.RolloutVerb(t.Context(), r.ID, api.VerbCancel, api.VerbRequest{}))
	unused := must[api.Token](t)(admin.CreateToken(t.Context(), "web-1", api.TokenRequest{Replace: true}))
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "db-01"}))
	_, err = rename("web-1", "db-01")
	wantCode(t, "a name in use", err, fleet.Conflict)
	_, err = rename("web-1", "Web_1")
	wantCode(t, "a name that is none", err, fleet.Invalid)
	var got fleet.Machine
	w.eventually("the rollout has ended", func() bool { got, err = rename("web-1", "web-01"); return err == nil })

	if got.ID != "web-01" || got.Formerly != "web-1" || got.Lifecycle != fleet.Provisioning || got.Key != "" || got.EnrolledAt != 0 || !slices.Equal(got.Tags.Operator, []fleet.Tag{"web"}) {
		t.Errorf("the new row is %+v", got)
	}
	if was := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-1")); was.Lifecycle != fleet.Decommissioned || was.Key != "" {
		t.Errorf("the old row is %+v", was)
	}
	w.restart(0)
	admin = w.operator(w.secretOfAdmin)
	old = w.machine(cert.Certificate, key)
	_, err = old.CheckIn(t.Context(), checkIn("web-1"))
	wantCode(t, "the old certificate under the old name", err, fleet.Unauthenticated)
	_, err = old.CheckIn(t.Context(), checkIn("web-01"))
	wantCode(t, "the old certificate under the new name", err, fleet.Unauthenticated)
	_, err = old.Renew(t.Context(), api.RenewRequest{CSR: csr(t, "web-01", key)})
	wantCode(t, "its renewal under the new name", err, fleet.Unauthenticated)
	enroll := func(token string, m fleet.MachineID) (*api.AgentClient, error) {
		fresh := newKey(t)
		c, refused := w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: token, CSR: csr(t, m, fresh)})
		return w.machine(c.Certificate, fresh), refused
	}
	_, err = enroll(unused.Token, "web-1")
	wantCode(t, "a token of the old name", err, fleet.Unauthenticated)
	_, err = w.machine(nil, nil).Enroll(t.Context(), api.EnrollRequest{Token: w.token(admin, "web-01"), CSR: csr(t, "web-01", key)})
	wantCode(t, "the old key", err, fleet.Conflict)
	next := must[*api.AgentClient](t)(enroll(w.token(admin, "web-01"), "web-01"))
	if orders := must[api.Orders](t)(next.CheckIn(t.Context(), checkIn("web-01"))); len(orders.Grants) > 0 || orders.Apply != nil {
		t.Errorf("what was granted to the old name passes for the new: %+v", orders)
	}
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.Formerly != "web-1" || got.Desired != nil {
		t.Errorf("after the restart the new row is %+v", got)
	}
	if got := w.auditOf(admin, "machine:web-1"); got[len(got)-1] != fleet.ActionMachineRename {
		t.Errorf("audit: %q", got)
	}
	_, err = admin.RenameMachine(t.Context(), "web-1", api.RenameRequest{To: "web-2"})
	wantCode(t, "renaming what is decommissioned", err, fleet.Conflict)
}
