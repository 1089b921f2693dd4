// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func (w *world) machine(id fleet.MachineID) fleet.Machine {
	w.tb.Helper()
	return must[fleet.Machine](w.tb)(w.plane().Machine(w.tb.Context(), alice, id))
}

// A machine is there while its check-in is held, for 20 seconds after, and until 2.5
// of the intervals that it announces: API, filter and counts say so. Of one that is
// not there it is not said that its checks pass, and what it said last stays.
func TestPresence_IsOfTheCheckIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		held, cut := context.WithCancel(t.Context())
		defer cut()
		in := (&agent{w: w, id: "web-01"}).checkIn()
		in.WaitMs = 0
		in.Have, in.WaitMs = must[api.Orders](t)(w.plane().CheckIn(held, "web-01", in)).Etag, 300_000
		go func() { _, _ = w.plane().CheckIn(held, "web-01", in) }()
		plain := (&agent{w: w, id: "web-02"}).checkIn()
		plain.WaitMs, plain.PollMs, plain.NeedsReboot, plain.Drift, plain.Booted = 0, 60_000, true, true, storePath("web-02", 7)
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-02", plain))
		want := func(when string, one, two bool) {
			t.Helper()
			health := map[bool]fleet.Health{true: fleet.Healthy, false: fleet.HealthPending}
			for id, there := range map[fleet.MachineID]bool{"web-01": one, "web-02": two} {
				if m := w.machine(id); m.Offline == there || m.Health != health[there] || len(m.Checks) != 1 || m.Checks[0].Status != fleet.HealthCheckPassing {
					t.Errorf("%s: %s is offline %t, %s, checks %+v", when, id, m.Offline, m.Health, m.Checks)
				}
				page := must[api.Page[fleet.Machine]](t)(w.plane().Machines(t.Context(), alice, fleet.MachineFilter{Health: fleet.Healthy}, fleet.PageRequest{}))
				listed := false
				for _, m := range page.Items {
					listed = listed || m.ID == id
				}
				if listed != there {
					t.Errorf("%s: %s is listed as healthy: %t", when, id, listed)
				}
			}
		}
		rest(150 * time.Second)
		want("at 150 seconds", true, true)
		rest(time.Second)
		want("at 151 seconds", true, false)
		cut()
		rest(20 * time.Second)
		want("20 seconds after the cut", true, false)
		rest(time.Second)
		want("21 seconds after the cut", false, false)
		if m := w.machine("web-02"); !m.NeedsReboot || !m.Drift || m.Booted != storePath("web-02", 7) {
			t.Errorf("web-02 is %+v", m)
		}
		counts, err := w.plane().Health.Metrics(t.Context())
		if err != nil || counts.Online != 0 || counts.Health[fleet.Healthy] != 0 {
			t.Errorf("counts %+v, %v", counts, err)
		}
		w.restart()
		want("after a restart", true, true) // nobody knows
		rest(61 * time.Second)
		want("a minute after a restart", false, false)
		if m := w.machine("web-02"); !m.NeedsReboot {
			t.Errorf("after a restart web-02 is %+v", m)
		}
		rest(time.Hour)
		w.restart()
		want("after a restart an hour later", false, false)
	})
}

// H12: a second offline is enough if that is what the operator says. Who is silent
// for less than that, or for whom the control plane did not listen, is waited for.
func TestPresence_OfflineAfterIsWhatTheOperatorSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		digest := w.register("web-01", "web-02")
		_, stop := w.agents("web-01")
		defer stop()
		_, away := w.agents("web-02")
		rest(5 * time.Minute)
		away()
		rest(21 * time.Second)
		began := time.Now()
		id := w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) { s.Offline, s.OfflineAfterMs = fleet.OfflineSkip, 1000 })
		w.until(id, fleet.RolloutCompleted)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("web-02 was waited for, %s", took)
		}
		if a := w.assignments(id)["web-02"]; a.State != fleet.AssignSkipped || a.Reason != fleet.ReasonOffline {
			t.Errorf("web-02 is %s %s", a.State, a.Reason)
		}
	})
}
