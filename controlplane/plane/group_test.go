// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// A rollout waits for the machines that go first in another one, also those of
// batches that have not opened there, and begins when they are done.
func TestGroups_WaitForOtherRollouts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		_, stop := w.agents(three...)
		defer stop()
		digest := w.register(three...)
		first := w.rollOut(digest, func(s *fleet.RolloutSpec) {
			s.Strategy, s.Batches, s.SoakMs = fleet.Staged, []fleet.Amount{{N: 1}, {N: 1}}, 600_000
			s.Select = []string{"web-*"}
		})
		rest(time.Minute)
		then := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select, s.After = []string{"db-01"}, []string{"web-*"} })
		rest(time.Minute)
		if d := w.until(then, fleet.RolloutScheduled); !strings.Contains(d.Why, "begins after web-*: 1 machines of other rollouts are not done, as of "+string(first)) {
			t.Errorf("why %q", d.Why)
		}
		w.restart()
		w.until(then, fleet.RolloutCompleted)
		if a := w.until(first, fleet.RolloutCompleted); a.EndedAt == 0 || w.batch(then, 0).OpenedAt < w.assignments(first)["web-02"].EndedAt {
			t.Errorf("the other rollout began at %d, before %+v", w.batch(then, 0).OpenedAt, w.assignments(first))
		}
	})
}
