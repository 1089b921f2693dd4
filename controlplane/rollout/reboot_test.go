// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// rebootable notes for which machines that wait for a reboot there was a time since
// the step before at which they might.
func (h *history) rebootable(m *sim, before rollout.State) {
	m.t.Helper()
	spec := m.state.Rollout.Spec
	windows, err := spec.Calendar()
	if err != nil {
		m.t.Fatalf("windows: %v", err)
	}
	reboots, err := spec.RebootCalendar()
	if err != nil {
		m.t.Fatalf("reboot windows: %v", err)
	}
	next := fleet.NextOfBoth(windows, reboots, time.UnixMilli(min(h.before, m.now)))
	might := !next.IsZero() && next.UnixMilli() <= max(h.before, m.now)
	h.before = m.now
	for id, a := range before.Assignments {
		if a.State != fleet.AssignAwaitingReboot {
			delete(h.rebooting, id)
		} else if might {
			h.rebooting[id] = true
		}
	}
}

// awaitsReboot has a machine wait for a reboot, which does not come.
func (d driver) awaitsReboot(*rapid.T) {
	d.progress(d.atWork(), fleet.AssignAwaitingReboot)
	d.sleepTo(d.now + 11*minute)
}

// A machine that waits for a reboot has the time from the next reboot window on that
// lies in a window of the rollout. Its order says when; explain does too.
func TestStep_WaitsForTheRebootWindow(t *testing.T) {
	s := spec("1", "100%")
	s.ProgressDeadlineMs = 45 * minute
	s.Windows = []string{"0 6 * * * 6h"}
	s.Reboot, s.RebootWindows = fleet.RebootWindow, []string{"0 1 * * * 2h", "30 9 * * * 10m"}
	s.HealthyDeadlineMs = 20 * minute
	m := newSim(t, 2, s) // at 08:00
	m.tick()
	first := m.at(0, 0)
	if o := rollout.OrdersFor(m.a(first), m.state.Rollout, m.run()).Apply; o.Reboot != fleet.RebootWindow || len(o.RebootWindows) != 2 {
		t.Fatalf("the order is %+v", o)
	}
	m.progress(first, fleet.AssignAwaitingReboot)
	opens := start + 90*minute
	if l := m.explains(first); l.Until != opens || !strings.HasPrefix(l.Why, "may reboot from 2027-01-15 09:30:00 UTC on") {
		t.Errorf("explained by %+v", l)
	}
	m.sleepTo(opens + 9*minute)
	m.wantStates("running = open: awaiting-reboot | waiting: pending")
	m.live(first)
	second := m.at(1, 0)
	m.wantStates("running = passed: healthy | open: offered")
	m.progress(second, fleet.AssignAwaitingReboot) // it does not reboot, in three windows
	last := opens + 2*24*60*minute
	m.sleepTo(last + 19*minute)
	m.wantStates("running = passed: healthy | open: awaiting-reboot")
	m.sleepTo(last + 20*minute)
	m.wantStates("paused = passed: healthy | failed: failed")
	if a := m.a(second); a.Reason != fleet.ReasonHealthyDeadline {
		t.Errorf("it failed for %s", a.Reason)
	}
}

func TestBuild_RefusesRebootsThatCannotBe(t *testing.T) {
	for name, rules := range map[string]fleet.RolloutRules{
		"no window":      {Reboot: fleet.RebootWindow},
		"no policy":      {RebootWindows: []string{"0 3 * * * 1h"}},
		"another policy": {Reboot: fleet.RebootNever, RebootWindows: []string{"0 3 * * * 1h"}},
		"a word":         {Reboot: "sometimes"},
		"no zone":        {Reboot: fleet.RebootWindow, RebootWindows: []string{"0 3 * * * 1h Europe/Pariss"}},
		"never together": {Windows: []string{"0 3 * * * 1h"}, Reboot: fleet.RebootWindow, RebootWindows: []string{"0 5 * * * 1h"}},
	} {
		s := spec()
		s.RolloutRules = rules
		if _, _, err := rollout.Build(input(1, s)); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}
