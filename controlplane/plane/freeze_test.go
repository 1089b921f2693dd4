// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
)

// actions are the actions of the audit trail that begin so, with their actors.
func (w *world) actions(prefix string) string {
	w.tb.Helper()
	var list []string
	page := must[api.Page[fleet.AuditEntry]](w.tb)(w.store.Audit(w.tb.Context(), fleet.AuditFilter{}, fleet.PageRequest{Limit: fleet.MaxLimit}))
	for _, e := range page.Items {
		if v := must[fleet.AuditEvent](w.tb)(e.Event()); strings.HasPrefix(v.Action, prefix) {
			list = append(list, v.Actor+" "+v.Action)
		}
	}
	return strings.Join(list, ", ")
}

// A frozen fleet is ordered nothing new, whichever rollout, also after a restart;
// a machine that fails still rolls back, and one can be reverted. The freeze ends
// by its time.
func TestFreeze_HoldsEveryRolloutUntilItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		agents, stop := w.agents(three...)
		defer stop()
		first := w.rollOut(w.register(three...), func(s *fleet.RolloutSpec) { s.Canaries, s.Approve = []string{"web-01"}, true })
		rest(time.Minute)
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, first, api.VerbApprove, api.VerbRequest{}))
		rest(time.Minute)
		until := w.now().Add(time.Hour).UnixMilli()
		_, err := w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Until: until})
		wantCode(t, err, fleet.Invalid)
		_, err = w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "too late", Until: w.now().UnixMilli()})
		wantCode(t, err, fleet.Invalid)
		must[fleet.Freeze](t)(w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "incident 7", Until: until}))

		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, first, api.VerbApprove, api.VerbRequest{}))
		rest(10 * time.Minute)
		w.restart()
		rest(10 * time.Minute)
		for _, id := range three {
			if got, want := len(agents[id].applied), map[fleet.MachineID]int{"web-01": 1}[id]; got != want {
				t.Errorf("%s carried out %d orders while frozen, want %d", id, got, want)
			}
		}
		for _, l := range must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, first)) {
			if l.Machine == "db-01" && (!strings.Contains(l.Why, "incident 7") || l.Until != until || l.Do != "nixfleet unfreeze") {
				t.Errorf("explained by %+v", l)
			}
		}
		if f := must[[]health.Finding](t)(w.plane().Health.Doctor(t.Context())); len(f) == 0 || f[0].Subject != "fleet" || !strings.Contains(f[0].Message, "incident 7") {
			t.Errorf("the doctor finds %+v", f)
		}
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, first, api.VerbRevert, api.VerbRequest{Machines: []fleet.MachineID{"web-01"}}))
		rest(time.Minute)
		if a := w.assignments(first)["web-01"]; a.State != fleet.AssignReverted {
			t.Errorf("a revert while frozen: %s", a)
		}
		rest(35 * time.Minute)
		w.until(first, fleet.RolloutCompleted)
		if at := w.now().UnixMilli(); at < until {
			t.Errorf("completed at %d, frozen until %d", at, until)
		}
		if got, want := w.actions("fleet."), "key:alice fleet.freeze, control-plane fleet.unfreeze"; got != want {
			t.Errorf("audited: %s, want %s", got, want)
		}
		if _, err := w.plane().EndFreeze(t.Context(), alice); fleet.ErrorCode(err) != fleet.NotFound {
			t.Errorf("unfreeze of a fleet that is not frozen: %v", err)
		}
		w.verifyAudit()
	})
}
