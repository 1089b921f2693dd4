// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
)

func (w *world) clockSteps() []string {
	w.tb.Helper()
	var by []string
	page := must[api.Page[fleet.AuditEntry]](w.tb)(w.plane().History.Audit(w.tb.Context(), fleet.AuditFilter{Action: fleet.ActionControlPlaneClock}, fleet.PageRequest{Limit: 1000}))
	for _, e := range page.Items {
		by = append(by, must[fleet.AuditEvent](w.tb)(e.Event()).Detail["by"])
	}
	return by
}

// H20: while machines are in flight the wall clock is an hour ahead for a second,
// and in a soak of two seconds it steps back by two minutes. Nothing fails and
// nothing waits longer; the steps are in the audit trail, and the doctor shows
// them.
func TestClockSteps_ChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		digest := w.register("web-01", "web-02")
		id := w.rollOut(digest, func(s *fleet.RolloutSpec) {
			s.Offline, s.SoakMs, s.ProgressDeadlineMs, s.MaxParallel = fleet.OfflineFail, 2000, 60_000, 1
		})
		_, stop := w.agents("web-01", "web-02")
		defer stop()
		rest(time.Second)
		w.advance(time.Hour)
		rest(time.Second)
		w.advance(-time.Hour)
		for w.batch(id, 0).State != fleet.BatchSoaking {
			rest(50 * time.Millisecond)
		}
		began := time.Now()
		w.advance(-2 * time.Minute)
		for w.batch(id, 0).State == fleet.BatchSoaking {
			rest(50 * time.Millisecond)
		}
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("the soak took %s", took)
		}
		w.until(id, fleet.RolloutCompleted)
		for _, by := range []time.Duration{time.Hour, -time.Minute, 29 * time.Second} {
			rest(10 * time.Second)
			w.advance(by)
		}
		rest(10 * time.Second)
		if got := w.clockSteps(); len(got) != 3 || got[0] != "-2m0s" || got[1] != "1h0m0s" || got[2] != "-1m0s" {
			t.Errorf("audited steps: %v", got)
		}
		found, err := w.plane().Health.Doctor(t.Context())
		if err != nil || !slices.ContainsFunc(found, func(f health.Finding) bool { return f.Subject == "clock" }) {
			t.Errorf("the doctor finds %+v, %v", found, err)
		}
	})
}

func (w *world) batch(id fleet.RolloutID, i int) fleet.Batch {
	w.tb.Helper()
	return must[api.RolloutDetail](w.tb)(w.plane().Rollout(w.tb.Context(), alice, id)).Batches[i]
}

// H20, H15: the control plane is down for a day while machines are at work: no
// machine fails for it, and what it shows are the deadlines as they will be. A
// clock that is set back while it is down is audited.
func TestDowntime_FailsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		digest := w.register("web-01", "web-02")
		// They will be offered the release, and do nothing about it yet.
		for _, m := range []fleet.MachineID{"web-01", "web-02"} {
			in := (&agent{w: w, id: m}).checkIn()
			in.WaitMs = 0
			must[api.Orders](t)(w.plane().CheckIn(t.Context(), m, in))
		}
		id := w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) {
			s.HealthyDeadlineMs, s.ProgressDeadlineMs, s.Offline = 600_000, 900_000, fleet.OfflineFail
		})
		rest(6 * time.Minute)
		w.stop()
		rest(24 * time.Hour)
		w.start()
		rest(time.Minute)
		a := w.assignments(id)["web-01"]
		if left := time.UnixMilli(a.Deadline).Sub(w.now()); a.State != fleet.AssignOffered || left < 170*time.Second || left > 190*time.Second {
			t.Errorf("after a day down web-01 is %s, and has %s", a.State, left)
		}
		w.stop()
		w.advance(-time.Hour)
		w.start()
		_, stop := w.agents("web-01", "web-02")
		defer stop()
		w.until(id, fleet.RolloutCompleted)
		if got := w.clockSteps(); len(got) != 1 || got[0] != "-1h0m0s" {
			t.Errorf("audited steps: %v", got)
		}
	})
}
