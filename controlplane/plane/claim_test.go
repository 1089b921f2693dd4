// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// H12: a rollout whose machines are all away may end in its first step. It must not
// keep them from later ones.
func TestRollout_ThatEndsInItsFirstStepClaimsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		digest := w.register(three...)
		rest(10 * time.Minute)
		id := w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) { s.Offline, s.OfflineAfterMs = fleet.OfflineSkip, 1000 })
		w.until(id, fleet.RolloutFailed)
		if claims := must[map[fleet.MachineID]fleet.RolloutID](t)(w.store.Claims(t.Context())); len(claims) > 0 {
			t.Errorf("the rollout has failed and claims %v", claims)
		}
		_, stop := w.agents(three...)
		defer stop()
		w.until(w.rollOut(digest, allAtOnce), fleet.RolloutCompleted)
	})
}

// H17: a healthy machine that another rollout has taken over runs what that one
// says, although the first one goes on.
func TestRollout_ThatLostAMachineDoesNotSayWhatItShouldRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		_, stop := w.agents(three...)
		defer stop()
		first := w.rollOut(w.register(three...), func(s *fleet.RolloutSpec) { s.Canaries, s.Approve = []string{"web-01"}, true })
		rest(5 * time.Minute)
		newer := w.register(three...)
		second := w.rollOut(newer, allAtOnce, func(s *fleet.RolloutSpec) { s.Select, s.Supersede = []string{"web-01"}, true })
		w.until(second, fleet.RolloutCompleted)
		d := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, first))
		m := must[fleet.Machine](t)(w.plane().Machine(t.Context(), alice, "web-01"))
		if a := w.assignments(first)["web-01"]; a.Reason != fleet.ReasonSuperseded || a.Message != "rollout "+string(second)+" took the machine over" {
			t.Errorf("in the first rollout web-01 is %s, %s: %s", a.State, a.Reason, a.Message)
		}
		why := ""
		for _, l := range must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, first)) {
			why += l.Why
		}
		if !strings.Contains(why, "web-01: rollout "+string(second)+" took the machine over") {
			t.Errorf("the first rollout is explained by %s", why)
		}
		if d.State.Final() || m.Desired == nil || m.Desired.Digest != newer {
			t.Errorf("the first rollout is %s; web-01 should run %+v, want %s", d.State, m.Desired, newer)
		}
	})
}
