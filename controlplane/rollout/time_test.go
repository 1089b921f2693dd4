// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// H20: the clock steps ahead by an hour for a second, and behind by two minutes in
// a soak of two seconds: no machine fails, and the soak takes two seconds. What an
// agent's clock says counts for nothing.
func TestStep_ClockJumps(t *testing.T) {
	s := spec("1", "100%")
	s.SoakMs, s.ProgressDeadlineMs, s.StragglerMs, s.Offline = 2*second, 5*minute, 3*minute, fleet.OfflineFail
	m := newSim(t, 2, s)
	m.settle()
	m.wall(60 * minute)
	m.sleepTo(m.now + second)
	m.wantStates("running = open: offered | waiting: pending")
	m.wall(-60 * minute)
	r := m.liveReport(m.at(0, 0))
	r.At = 1
	m.report(r)
	m.wantStates("running = soaking: healthy | waiting: pending")
	m.sleepTo(m.now + second)
	m.wall(-2 * minute)
	m.sleepTo(m.now + second - 1)
	m.wantStates("running = soaking: healthy | waiting: pending")
	m.sleepTo(m.now + 1)
	m.wantStates("running = passed: healthy | open: offered")
	if b := m.state.Batches[1]; b.OpenedAt != m.now {
		t.Errorf("the second batch is said to have opened %d ms from now", b.OpenedAt-m.now)
	}
}

// H20, H15: a day in which the control plane is down fails nobody and ends no
// soak, and what is left of a deadline is shown from now on.
func TestStep_TimeDownCountsForNobody(t *testing.T) {
	s := spec("1", "100%")
	s.SoakMs, s.ProgressDeadlineMs, s.Offline = 4*minute, 12*minute, fleet.OfflineFail
	m := newSim(t, 3, s)
	m.settle()
	m.live(m.at(0, 0))
	m.sleepTo(m.now + minute)
	m.wall(24 * 60 * minute)
	m.restart()
	m.tick()
	m.wantStates("running = soaking: healthy | waiting: pending pending")
	m.sleepTo(m.now + 3*minute)
	m.wantStates("running = passed: healthy | open: offered offered")
	m.wall(24 * 60 * minute)
	m.restart()
	m.sleepTo(m.now + 5*minute)
	m.wantStates("running = passed: healthy | open: offered offered")
	for _, w := range rollout.Explain(m.state, m.world(), m.now) {
		if w.Machine != "" && (w.Deadline != m.now+5*minute || !strings.Contains(w.Why, fmt.Sprintf("until about %s", utc(w.Deadline)))) {
			t.Errorf("explained as %+v", w)
		}
	}
	if o := rollout.OrdersFor(m.a(m.at(1, 0)), m.state.Rollout, m.run()); o.Apply == nil || o.Apply.DeadlineMs != 5*minute {
		t.Errorf("orders %+v", o.Apply)
	}
	m.sleepTo(m.now + 5*minute)
	m.wantStates("paused = passed: healthy | failed: failed failed")
}

// H20: whatever befalls a rollout, it fares the same on a control plane whose
// clock is set at every turn and that is down for hours at every restart.
func TestStep_NoClockMovesARollout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		s.RolloutRules = fleet.RolloutRules{} // windows are about the wall clock
		n := rapid.IntRange(1, 5).Draw(t, "machines")
		steady, jumpy := newSim(t, n, s), newSim(t, n, s)
		both := func(do func(m *sim)) {
			do(steady)
			jumpy.wall(rapid.SampledFrom([]int64{0, 1, 40 * second, -2 * minute, 60 * minute, -24 * 60 * minute, 400 * 24 * 60 * minute}).Draw(t, "by"))
			do(jumpy)
			if a, b := steady.key(), jumpy.key(); a != b {
				t.Fatalf("the steady one is %s\nthe other one is %s", a, b)
			}
			if a, b := steady.state.Rollout.WakeAt, jumpy.state.Rollout.WakeAt; a != b {
				t.Fatalf("the steady one looks again at %d, the other one at %d", a, b)
			}
		}
		machine := func() fleet.MachineID { return machineID(rapid.IntRange(0, n-1).Draw(t, "machine")) }
		t.Repeat(map[string]func(*rapid.T){
			"time": func(r *rapid.T) {
				ms := rapid.SampledFrom([]int64{1, second, 31 * second, 3 * minute, 11 * minute}).Draw(r, "ms")
				both(func(m *sim) { m.sleepTo(m.now + ms) })
			},
			"live":     func(*rapid.T) { id := machine(); both(func(m *sim) { m.live(id) }) },
			"fail":     func(*rapid.T) { id := machine(); both(func(m *sim) { m.back(id, fleet.ReasonCheckFailed) }) },
			"progress": func(*rapid.T) { id := machine(); both(func(m *sim) { m.progress(id, fleet.AssignApplying) }) },
			"restart":  func(*rapid.T) { both(func(m *sim) { m.restart(); m.settle() }) },
			"link": func(r *rapid.T) {
				id, up := machine(), rapid.Bool().Draw(r, "online")
				both(func(m *sim) {
					m.changed(id, func(f *rollout.Facts) { f.Online, f.LastContact, f.SeenRun = up, m.now, m.run() })
				})
			},
			"verb": func(r *rapid.T) {
				v := rollout.Command{Actor: "key:bob", Verb: rapid.SampledFrom([]api.Verb{api.VerbPause, api.VerbResume, api.VerbApprove, api.VerbRetry, api.VerbRevert}).Draw(r, "verb")}
				both(func(m *sim) { m.step(rollout.Event{Command: &v}); m.settle() })
			},
		})
	})
}
