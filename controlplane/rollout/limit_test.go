// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// checkLimits holds that no machine is offered the release while a type of failure
// is above its limit.
func (m *sim) checkLimits(offers int) {
	m.t.Helper()
	done := 0
	for _, a := range m.state.Assignments {
		if a.State == fleet.AssignHealthy || a.State.Failure() {
			done++
		}
	}
	for _, l := range m.state.Rollout.Spec.FailureLimits {
		n := 0
		for _, b := range m.state.Batches {
			of := 0
			for _, a := range m.state.Assignments {
				if a.Batch == b.Index && a.State.Failure() && l.Matches(a) {
					of++
				}
			}
			n += max(0, of-b.AcknowledgedBy[l.Type])
		}
		if done >= l.MinSample && n > l.Max.Tolerates(done) {
			m.t.Fatalf("%d offers with %d of %d that are done failed by %s, tolerated are %s", offers, n, done, l.Type, l.Max)
		}
	}
}

// A type of failure has a limit of its own, of the machines that are done, once
// they are enough to tell; resume lets those that there are no longer count.
func TestStep_LimitsEachTypeOfFailure(t *testing.T) {
	s := spec()
	s.MaxFailures, s.MaxParallel = fleet.Amount{N: 100, Percent: true}, 3
	s.FailureLimits = []fleet.FailureLimit{
		{Type: "rolled-back", Max: fleet.Amount{N: 40, Percent: true}, MinSample: 5},
		{Type: "rollback-failed", MinSample: 1},
	}
	m := newSim(t, 12, s)
	m.tick()
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.back(m.at(0, 2), fleet.ReasonCheckFailed)
	if m.state.Rollout.State != fleet.RolloutRunning {
		t.Fatalf("3 of 3 are no sample: %s", m.state.Rollout.Why)
	}
	m.live(m.at(0, 3))
	m.live(m.at(0, 4))
	if want := "3 of the 5 machines that are done failed by rolled-back, 2 tolerated"; m.state.Rollout.State != fleet.RolloutPaused || m.state.Rollout.Why != want {
		t.Fatalf("%s: %s, want %s", m.state.Rollout.State, m.state.Rollout.Why, want)
	}
	m.verb(api.VerbResume)
	m.live(m.at(0, 5))
	if m.state.Rollout.State != fleet.RolloutRunning {
		t.Fatalf("failures before the resume count: %s", m.state.Rollout.Why)
	}
	r := m.backReport(m.at(0, 6), fleet.ReasonPreviousFailed)
	r.Outcome = fleet.OutcomeRollbackFailed
	m.report(r)
	if want := "1 of the 7 machines that are done failed by rollback-failed, 0 tolerated; " + string(m.at(0, 6)) + " rollback-failed (previous-failed): app.service is failed"; m.state.Rollout.Why != want {
		t.Errorf("why %q, want %q", m.state.Rollout.Why, want)
	}
}

func TestParseFailureLimit_RefusesWhatIsNoLimit(t *testing.T) {
	for _, text := range []string{"", "rolled-back", "rolled-back=", "healthy=1", "rolled-back=1/0", "rolled-back=1/x", "reverted=0", "nonsense=1"} {
		if _, err := fleet.ParseFailureLimit(text); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v", text, err)
		}
	}
	if l, err := fleet.ParseFailureLimit("check-failed=10%/20"); err != nil || l != (fleet.FailureLimit{Type: "check-failed", Max: fleet.Amount{N: 10, Percent: true}, MinSample: 20}) {
		t.Errorf("%+v, %v", l, err)
	}
}
