// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

func TestStep_GoesBatchByBatchToTheEnd(t *testing.T) {
	s := spec("1", "50%", "100%")
	s.SoakMs = 30 * second
	m := newSim(t, 6, s)
	m.wantStates("scheduled = waiting: pending | waiting: pending pending | waiting: pending pending pending")
	m.settle()
	m.wantStates("running = open: offered | waiting: pending pending | waiting: pending pending pending")
	m.progress(m.at(0, 0), fleet.AssignFetching)
	m.progress(m.at(0, 0), fleet.AssignApplying)
	m.progress(m.at(0, 0), fleet.AssignVerifying)
	m.live(m.at(0, 0))
	m.wantStates("running = soaking: healthy | waiting: pending pending | waiting: pending pending pending")
	m.sleepTo(m.now + 30*second)
	m.wantStates("running = passed: healthy | open: offered offered | waiting: pending pending pending")
	m.live(m.plan.Batches[1]...)
	m.sleepTo(m.now + 30*second)
	m.live(m.plan.Batches[2]...)
	m.sleepTo(m.now + 30*second)
	m.wantStates("completed = passed: healthy | passed: healthy healthy | passed: healthy healthy healthy")
	want := "batch.open(1) batch.pass(1) batch.open(2) batch.pass(2) batch.open(3) batch.pass(3) rollout.complete"
	if got := m.actions(); got != want {
		t.Errorf("audit: %s\nwant   %s", got, want)
	}
	if len(m.released) != 6 || m.state.Rollout.WakeAt != 0 || m.state.Rollout.Why != "6 healthy" {
		t.Errorf("let go %d machines, wakes at %d, why %q", len(m.released), m.state.Rollout.WakeAt, m.state.Rollout.Why)
	}
}

// H01: only a report of this rollout, attempt, release and system counts.
func TestStep_IgnoresReportsOfAnythingElse(t *testing.T) {
	m := newSim(t, 1, spec())
	m.settle()
	id := m.at(0, 0)
	m.now += second
	for name, edit := range map[string]func(*fleet.Report){
		"another rollout":  func(r *fleet.Report) { r.Rollout = "r0" },
		"an older attempt": func(r *fleet.Report) { r.Attempt = 0 },
		"a later attempt":  func(r *fleet.Report) { r.Attempt = 2 },
		"another release":  func(r *fleet.Report) { r.Digest = digest("release-1") },
		"another system":   func(r *fleet.Report) { r.StorePath = system("other") },
		"no system":        func(r *fleet.Report) { r.StorePath = "" },
		"no rollout":       func(r *fleet.Report) { r.Rollout, r.Attempt, r.Digest = "", 0, "" },
		"an outsider":      func(r *fleet.Report) { r.Machine = "m-99" },
		"drift":            func(r *fleet.Report) { r.Kind = fleet.ReportDrift },
	} {
		r := m.liveReport(id)
		edit(&r)
		if m.report(r); m.last.Assignments != nil || m.last.Rollout != nil {
			t.Errorf("%s: changed %+v", name, m.last)
		}
	}
	m.live(id)
	m.wantStates("completed = passed: healthy")
}

// H05: what is not shown to be well is not healthy, and is a failure in the end.
func TestStep_NoDataIsNotHealthy(t *testing.T) {
	required := func(s fleet.HealthCheckStatus) fleet.HealthCheckResult {
		return fleet.HealthCheckResult{Name: "a", Required: true, Status: s}
	}
	for name, tt := range map[string]struct {
		edit func(*fleet.Report)
		why  string
	}{
		"no checks, nothing confirmed": {func(r *fleet.Report) { r.Checks, r.Confirmed = nil, "" }, "without a check or a confirmation"},
		"optional checks only": {func(r *fleet.Report) {
			r.Checks, r.Confirmed = []fleet.HealthCheckResult{{Name: "a", Status: fleet.HealthCheckPassing}}, ""
		}, "without a check"},
		"a pending check":              {func(r *fleet.Report) { r.Checks = append(r.Checks, required(fleet.HealthCheckPending)) }, "is pending"},
		"a failing check":              {func(r *fleet.Report) { r.Checks = append(r.Checks, required(fleet.HealthCheckFailing)) }, "is unhealthy"},
		"old system runs":              {func(r *fleet.Report) { r.Running = system("m-00-old") }, "another system runs"},
		"old system would boot":        {func(r *fleet.Report) { r.BootDefault = system("m-00-old") }, "boot default"},
		"running unknown":              {func(r *fleet.Report) { r.Running = "" }, "another system runs"},
		"staged, not the boot default": {func(r *fleet.Report) { r.Outcome, r.BootDefault = fleet.OutcomeStagedReboot, "" }, "boot default"},
	} {
		m := newSim(t, 1, spec())
		m.settle()
		m.now += second
		r := m.liveReport("m-00")
		tt.edit(&r)
		m.report(r)
		if a := m.a("m-00"); a.State != fleet.AssignVerifying || !strings.Contains(a.Why, tt.why) {
			t.Errorf("%s: %s, why %q; want verifying, %q", name, a.State, a.Why, tt.why)
		}
		m.sleepTo(start + 10*minute)
		if a := m.a("m-00"); a.Reason != fleet.ReasonHealthyDeadline || !strings.Contains(a.Message, tt.why) {
			t.Errorf("%s: at the deadline %s %s %q", name, a.State, a.Reason, a.Message)
		}
		m.wantStates("paused = failed: failed")
	}
}

func TestStep_HealthyWithoutChecksNeedsAConfirmation(t *testing.T) {
	m := newSim(t, 1, spec())
	m.settle()
	m.now += second
	r := m.liveReport("m-00")
	r.Checks, r.Confirmed, r.Outcome = nil, "beacon", fleet.OutcomeLiveDegraded
	m.report(r)
	m.wantStates("completed = passed: healthy")
}

func TestStep_MinHealthyIsCheckedAgain(t *testing.T) {
	s := spec()
	s.MinHealthyMs = 100 * second
	m := newSim(t, 1, s)
	m.settle()
	m.now += 80 * second
	m.report(m.liveReport("m-00"))
	m.wantStates("running = open: verifying")
	m.now += 11 * second // a tenth is allowed for clocks that run apart
	m.report(m.liveReport("m-00"))
	m.wantStates("completed = passed: healthy")
}

// H02: unhealthy is sticky within an attempt.
func TestStep_FailureIsNeverUndone(t *testing.T) {
	m := newSim(t, 2, spec("1", "100%"))
	m.settle()
	id := m.at(0, 0)
	m.now += second
	ok := m.liveReport(id)
	m.back(id, fleet.ReasonCheckFailed)
	m.wantStates("paused = failed: rolled-back | waiting: pending")
	m.report(ok)
	m.verb(api.VerbRetry, id)
	m.report(ok) // of the attempt before, while the next is not offered yet
	m.wantStates("paused = failed: pending | waiting: pending")
	m.verb(api.VerbResume)
	m.report(ok)
	m.wantStates("running = open: offered | waiting: pending")
}

// A machine that rolls back by itself while its batch soaks is a failure.
func TestStep_FailureWhileSoakingCounts(t *testing.T) {
	s := spec("1", "100%")
	s.SoakMs = minute
	m := newSim(t, 2, s)
	m.settle()
	m.live(m.at(0, 0))
	m.wantStates("running = soaking: healthy | waiting: pending")
	m.back(m.at(0, 0), fleet.ReasonWatchdog)
	m.wantStates("paused = failed: rolled-back | waiting: pending")
}

// H04: failures above what is tolerated stop a batch at once.
func TestStep_FailsWithMachinesStillPending(t *testing.T) {
	s := spec("5", "100%")
	s.MaxFailures, s.MaxParallel = fleet.Amount{N: 1}, 3
	m := newSim(t, 10, s)
	m.settle()
	m.wantStates("running = open: offered offered offered pending pending | waiting: pending pending pending pending pending")
	m.progress(m.at(0, 2), fleet.AssignApplying)
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.wantStates("running = open: rolled-back offered applying offered pending | waiting: pending pending pending pending pending")
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("paused = failed: rolled-back rolled-back applying pending pending | waiting: pending pending pending pending pending")
	for _, want := range []string{"batch 1: 2 of 5 machines failed, 1 tolerated", string(m.at(0, 1)), "check-failed", "app.service is failed"} {
		if !strings.Contains(m.state.Rollout.Why, want) {
			t.Errorf("why %q lacks %q", m.state.Rollout.Why, want)
		}
	}
	m.live(m.at(0, 2)) // work that had begun ends
	m.wantStates("paused = failed: rolled-back rolled-back healthy pending pending | waiting: pending pending pending pending pending")
}

func TestStep_FailuresOfAllBatchesAreCountedTogether(t *testing.T) {
	s := spec("2", "2", "2")
	s.MaxFailures, s.MaxFailuresTotal = fleet.Amount{N: 1}, &fleet.Amount{N: 1}
	m := newSim(t, 6, s)
	m.settle()
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.live(m.at(0, 1))
	m.wantStates("running = passed: rolled-back healthy | open: offered offered | waiting: pending pending")
	m.back(m.at(1, 0), fleet.ReasonCheckFailed)
	m.wantStates("paused = passed: rolled-back healthy | failed: rolled-back pending | waiting: pending pending")
	m.verb(api.VerbResume)
	m.live(m.at(1, 1))
	m.live(m.plan.Batches[2]...)
	m.wantStates("completed = passed: rolled-back healthy | passed: rolled-back healthy | passed: healthy healthy")
}

// H06: a machine rolls back to what ran before this rollout touched it, also
// after pause, resume, a retry and a second failure.
func TestStep_RecordsThePreviousSystemOnce(t *testing.T) {
	s := spec()
	s.OnFailure = fleet.RevertBatch
	m := newSim(t, 2, s)
	m.settle()
	bad, good := m.at(0, 0), m.at(0, 1)
	m.live(good)
	m.back(bad, fleet.ReasonCheckFailed)
	m.wantStates("reverting = reverting: rolled-back reverting")
	o := rollout.OrdersFor(m.a(good), m.state.Rollout, m.run())
	if d := cmp.Diff(&fleet.Order{Digest: digest("release-2"), Rollout: "r1", Attempt: 1}, o.Revert); d != "" || o.Apply != nil {
		t.Fatalf("orders of the failing batch's healthy machine: %s %+v", d, o.Apply)
	}
	m.back(good, fleet.ReasonRevertOrdered)
	m.wantStates("paused = failed: rolled-back reverted")
	m.changed(bad, func(f *rollout.Facts) { f.Running, f.RunsRelease = system("by-hand"), "" })
	m.verb(api.VerbRetry)
	m.verb(api.VerbResume)
	m.wantStates("running = open: offered offered")
	m.back(bad, fleet.ReasonCheckFailed)
	for _, id := range []fleet.MachineID{bad, good} {
		if a := m.a(id); a.PreviousPath != system(string(id)+"-old") || a.PreviousDigest != digest("release-1") || a.Attempt != 2 {
			t.Errorf("%s: previous is %s of %s", a, a.PreviousPath, a.PreviousDigest.Short())
		}
	}
}

func TestStep_RevertAllRevertsEverySwitchedMachine(t *testing.T) {
	s := spec("1", "2", "100%")
	s.OnFailure = fleet.RevertAll
	m := newSim(t, 4, s)
	m.settle()
	m.live(m.at(0, 0))
	m.progress(m.at(1, 1), fleet.AssignApplying)
	m.back(m.at(1, 0), fleet.ReasonCheckFailed)
	m.wantStates("reverting = passed: reverting | failed: rolled-back reverting | waiting: pending")
	m.progress(m.at(1, 1), fleet.AssignVerifying) // it had not seen the order
	m.live(m.at(1, 1))
	m.wantStates("reverting = passed: reverting | failed: rolled-back reverting | waiting: pending")
	m.back(m.at(0, 0), fleet.ReasonRevertOrdered)
	m.sleepTo(m.now + 10*minute) // the other says nothing
	m.wantStates("failed = passed: reverted | failed: rolled-back revert-failed | waiting: skipped")
	if a := m.a(m.at(1, 1)); a.Reason != fleet.ReasonRevertDeadline {
		t.Errorf("%s: %s", a, a.Reason)
	}
}

// A machine that was offered the release and said nothing may have switched:
// it is ordered to roll back too, and so is one that ran out of time.
func TestStep_RevertReachesMachinesThatSaidNothing(t *testing.T) {
	s := spec()
	s.OnFailure, s.MaxFailures = fleet.RevertBatch, fleet.Amount{N: 1}
	m := newSim(t, 3, s)
	m.settle()
	m.progress(m.at(0, 0), fleet.AssignVerifying)
	m.sleepTo(start + 5*minute)
	m.verb(api.VerbPause)
	m.verb(api.VerbResume) // the two that said nothing have new offers, and more time
	m.sleepTo(start + 10*minute)
	m.wantStates("running = open: failed offered offered")
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("reverting = reverting: reverting rolled-back reverting")
	m.back(m.at(0, 0), fleet.ReasonRevertOrdered)
	m.back(m.at(0, 2), fleet.ReasonRevertOrdered)
	m.wantStates("paused = failed: reverted rolled-back reverted")
}

// A machine that refuses the order to roll back is judged by what it runs.
func TestStep_RefusedRevertIsJudgedByWhatRuns(t *testing.T) {
	for _, tt := range []struct {
		running fleet.StorePath
		want    fleet.AssignmentState
	}{{target("m-00"), fleet.AssignRevertFailed}, {system("m-00-old"), fleet.AssignReverted}, {"", fleet.AssignRevertFailed}} {
		m := newSim(t, 1, spec())
		m.settle()
		m.progress("m-00", fleet.AssignFetching)
		m.verb(api.VerbRevert)
		r := m.backReport("m-00", fleet.ReasonRevertUnknown)
		r.Outcome, r.Running, r.BootDefault = fleet.OutcomeRefused, tt.running, tt.running
		m.report(r)
		if a := m.a("m-00"); a.State != tt.want {
			t.Errorf("runs %q: %s, want %s", tt.running, a.State, tt.want)
		}
		m.wantStates("failed = failed: " + string(tt.want))
	}
}

// H13: a machine on the target already is verified like any other, and a
// rollout in which all are completes; it is never taken off what it ran.
func TestStep_MachineOnTheTarget(t *testing.T) {
	s := spec("1", "100%")
	s.OnFailure = fleet.RevertAll
	m := newSim(t, 2, s)
	for id, f := range m.facts {
		f.Running, f.RunsRelease = target(id), digest("release-2")
		m.facts[id] = f
	}
	m.settle()
	m.live(m.at(0, 0))
	m.back(m.at(1, 0), fleet.ReasonCheckFailed)
	m.wantStates("failed = passed: healthy | failed: rolled-back")

	m = newSim(t, 1, spec())
	m.facts["m-00"] = rollout.Facts{Lifecycle: fleet.Active, Online: true, Running: target("m-00")}
	m.settle()
	m.live("m-00")
	m.wantStates("completed = passed: healthy")
}
