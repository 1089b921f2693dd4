// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"testing"
	"time"

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
