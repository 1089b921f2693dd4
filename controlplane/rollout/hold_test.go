// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// drawRules draws when machines may begin.
func drawRules(t *rapid.T, s *fleet.RolloutSpec) {
	s.RolloutRules = rapid.SampledFrom([]fleet.RolloutRules{
		{}, {},
		{Windows: []string{"*/30 * * * * 10m Europe/Berlin"}},
		{Windows: []string{"0 * * * * 40m"}, Blackouts: []string{"10 * * * * 5m Asia/Kathmandu", "2027-01-15T08:00/2027-01-15T08:20"}},
	}).Draw(t, "rules")
	if rapid.IntRange(0, 3).Draw(t, "reboots?") == 0 {
		s.Reboot, s.RebootWindows = fleet.RebootWindow, []string{"*/20 * * * * 5m"}
	}
	s.FailureLimits = rapid.SampledFrom([][]fleet.FailureLimit{nil, nil, {{Type: "rolled-back", MinSample: 2}}, {{Type: "failed", Max: fleet.Amount{N: 50, Percent: true}, MinSample: 1}, {Type: "check-failed", Max: fleet.Amount{N: 1}, MinSample: 3}}}).Draw(t, "limits")
	s.After = rapid.SampledFrom([][]string{nil, nil, {"m-00"}, {"m-*0", "m-*"}}).Draw(t, "after")
	if n := rapid.IntRange(0, 2).Draw(t, "gates"); n > 0 {
		s.Gates, s.GateDeadlineMs = []fleet.GateName{"errors", "change"}[:n], 3*minute
		s.OnInconclusive = rapid.SampledFrom([]fleet.OnInconclusive{fleet.InconclusiveFails, fleet.InconclusiveApproval}).Draw(t, "onInconclusive")
	}
}

func (d driver) freezes(r *rapid.T) {
	d.freeze = rapid.SampledFrom([]*fleet.Freeze{nil, {Reason: "audit", By: "key:bob"}, {Reason: "audit", By: "key:bob", Until: d.now + 7*minute}}).Draw(r, "freeze")
	d.tick() // as the loop does
}

// wallClock sets the wall clock.
func (d driver) wallClock(r *rapid.T) {
	d.wall(rapid.SampledFrom([]int64{-3 * 60 * minute, -minute, second, 25 * minute}).Draw(r, "step"))
}

// checkMayBegin holds that machines are offered the release only inside the
// rollout's windows, outside its blackouts, and while the fleet is not frozen.
func (m *sim) checkMayBegin(offers int) {
	m.t.Helper()
	wall := time.UnixMilli(m.now)
	if m.freeze.Holds(wall.UnixMilli()) {
		m.t.Fatalf("%d offers while the fleet is frozen", offers)
	}
	c, err := m.state.Rollout.Spec.Calendar()
	if err != nil || !c.Open(wall) {
		m.t.Fatalf("%d offers at %s, outside %v: %v", offers, wall.UTC(), m.state.Rollout.Spec.RolloutRules, err)
	}
}

func (m *sim) explains(machine fleet.MachineID) api.Waiting {
	m.t.Helper()
	for _, l := range rollout.Explain(m.state, m.world(), m.now) {
		if l.Machine == machine && (machine != "" || l.Batch == -1) {
			return l
		}
	}
	m.t.Fatalf("nothing explains %q", machine)
	return api.Waiting{}
}

// The engine starts at 08:00 UTC, which is 09:00 in Paris: nothing begins before
// the window, what has begun goes on after it, and what has not is withdrawn.
func TestStep_BeginsInsideWindowsOnly(t *testing.T) {
	s := spec("1", "100%")
	s.Windows = []string{"0 10 * * * 40m Europe/Paris"}
	s.ProgressDeadlineMs, s.HealthyDeadlineMs = 45*minute, 90*minute
	m := newSim(t, 3, s)
	m.tick()
	m.wantStates("running = open: pending | waiting: pending pending")
	opens := start + 60*minute
	if l := m.explains(""); l.Until != opens || !strings.Contains(l.Why, "windows") || !strings.Contains(l.Why, "2027-01-15 09:00:00 UTC") {
		t.Fatalf("explained by %+v", l)
	}
	first := m.at(0, 0)
	if o := rollout.OrdersFor(m.a(first), m.state.Rollout, m.run()); o.Apply != nil || o.Prefetch == "" {
		t.Fatalf("orders before the window: %+v", o)
	}
	m.sleepTo(opens - 1)
	m.wantStates("running = open: pending | waiting: pending pending")
	m.sleepTo(opens)
	m.wantStates("running = open: offered | waiting: pending pending")
	if o := rollout.OrdersFor(m.a(first), m.state.Rollout, m.run()); o.Apply == nil || len(o.Apply.Windows) != 1 {
		t.Fatalf("the order does not say when the machine may begin: %+v", o)
	}
	m.live(first)
	m.sleepTo(opens + 38*minute)
	m.progress(m.at(1, 0), fleet.AssignApplying)
	m.progress(m.at(1, 1), fleet.AssignFetching)
	m.sleepTo(opens + 40*minute)
	m.wantStates("running = passed: healthy | open: applying pending")
	m.progress(m.at(1, 1), fleet.AssignFetching) // it has not heard of it yet
	m.live(m.at(1, 0))
	m.wantStates("running = passed: healthy | open: healthy pending")
	m.sleepTo(opens + 24*60*minute)
	m.wantStates("running = passed: healthy | open: healthy offered")
	m.live(m.at(1, 1))
	if m.state.Rollout.State != fleet.RolloutCompleted {
		t.Fatal(m.state.Rollout)
	}
}

// A machine that waits for a reboot when the window closes has its deadline from
// the next window on.
func TestStep_WaitsForARebootUntilTheNextWindow(t *testing.T) {
	s := spec()
	s.Windows = []string{"0 8 * * * 10m"}
	m := newSim(t, 1, s)
	m.tick()
	m.progress("m-00", fleet.AssignAwaitingReboot)
	m.sleepTo(start + 24*60*minute - 1)
	m.wantStates("running = open: awaiting-reboot")
	m.sleepTo(start + 24*60*minute)
	m.live("m-00")
	if m.state.Rollout.State != fleet.RolloutCompleted {
		t.Fatal(m.state.Rollout)
	}
}

func TestStep_OrdersNothingNewWhileFrozen(t *testing.T) {
	s := spec("1", "100%")
	s.OnFailure, s.MaxFailures = fleet.Pause, fleet.Amount{N: 1}
	m := newSim(t, 4, s)
	m.tick()
	m.live(m.at(0, 0))
	m.progress(m.at(1, 0), fleet.AssignApplying)
	m.progress(m.at(1, 1), fleet.AssignFetching)
	m.freeze = &fleet.Freeze{Reason: "incident 7", By: "key:bob", Until: m.now + 30*minute}
	m.tick()
	m.wantStates("running = passed: healthy | open: applying pending pending")
	if l := m.explains(m.at(1, 2)); !strings.Contains(l.Why, "incident 7") || l.Do != "nixfleet unfreeze" || l.Until != m.freeze.Until {
		t.Fatalf("explained by %+v", l)
	}
	m.back(m.at(1, 0), fleet.ReasonCheckFailed) // by itself
	m.verb(api.VerbRevert, m.at(0, 0))
	if o := rollout.OrdersFor(m.a(m.at(0, 0)), m.state.Rollout, m.run()); o.Revert == nil {
		t.Fatalf("a revert is not ordered while frozen: %+v", o)
	}
	m.back(m.at(0, 0), fleet.ReasonRevertOrdered)
	m.verb(api.VerbRetry, m.at(1, 0))
	m.wantStates("running = passed: reverted | open: pending pending pending")
	m.sleepTo(m.freeze.Until)
	m.wantStates("running = passed: reverted | open: offered offered offered")
}

func TestBuild_RefusesARolloutThatMayNeverBegin(t *testing.T) {
	for _, rules := range []fleet.RolloutRules{
		{Windows: []string{"0 3 * * * 1h Europe/Pariss"}},
		{Blackouts: []string{"tomorrow"}},
		{Windows: []string{"0 3 * * * 1h"}, Blackouts: []string{"0 0 * * * 24h"}},
		{Windows: []string{"2020-01-01T00:00/2020-01-02T00:00"}},
	} {
		s := spec()
		s.RolloutRules = rules
		if _, _, err := rollout.Build(input(1, s)); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%+v: %v, want invalid", rules, err)
		}
	}
}
