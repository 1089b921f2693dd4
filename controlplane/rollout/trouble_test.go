// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// H10: a machine that is put into maintenance, decommissioned or deleted on
// the way is left out; one that is active again takes part again.
func TestStep_LifecycleChangesOnTheWay(t *testing.T) {
	m := newSim(t, 6, spec("1", "100%"))
	m.settle()
	rest := m.plan.Batches[1]
	m.changed(rest[0], as(fleet.Maintenance))
	m.live(m.at(0, 0))
	m.wantStates("running = passed: healthy | open: skipped offered offered offered offered")
	m.changed(rest[1], as(fleet.Maintenance)) // it has not begun
	m.progress(rest[2], fleet.AssignApplying)
	m.changed(rest[2], as(fleet.Maintenance)) // in the middle of a switch: it may finish
	m.progress(rest[3], fleet.AssignApplying)
	m.changed(rest[3], as(fleet.Decommissioned))
	delete(m.facts, rest[4])
	m.step(rollout.Event{Changed: rest[4]})
	m.wantStates("running = passed: healthy | open: skipped skipped applying skipped skipped")
	m.changed(rest[0], as(fleet.Active))
	m.live(rest[2], rest[0])
	m.wantStates("completed = passed: healthy | passed: healthy skipped healthy skipped skipped")
	for _, id := range []fleet.MachineID{rest[1], rest[3], rest[4]} {
		if a := m.a(id); a.Reason != fleet.ReasonLifecycle || a.Message == "" {
			t.Errorf("%s: %s %q", a, a.Reason, a.Message)
		}
	}
}

// H10: a machine in maintenance whose time is over is no failure of the release.
func TestStep_DeadlineOfMachineInMaintenance(t *testing.T) {
	m := newSim(t, 2, spec())
	m.settle()
	m.live(m.at(0, 1))
	m.progress(m.at(0, 0), fleet.AssignVerifying)
	m.changed(m.at(0, 0), as(fleet.Maintenance))
	m.sleepTo(start + 10*minute)
	m.wantStates("completed = passed: skipped healthy")
}

// H12: an offline machine is waited for, skipped or failed by policy, and
// either way somebody is told.
func TestStep_OfflineMachines(t *testing.T) {
	for policy, want := range map[fleet.OfflinePolicy]string{
		fleet.OfflineWait: "running = open: pending healthy | waiting: pending",
		fleet.OfflineSkip: "running = passed: skipped healthy | open: offered",
		fleet.OfflineFail: "paused = failed: failed healthy | waiting: pending",
	} {
		s := spec("2", "100%")
		s.Offline = policy
		m := newSim(t, 3, s)
		gone := m.at(0, 0)
		m.changed(gone, offline)
		m.settle()
		m.live(m.at(0, 1))
		m.wantStates("running = open: pending healthy | waiting: pending")
		if why := m.state.Rollout.Why; why != "waits for 1 offline: "+string(gone) {
			t.Errorf("%s: why %q", policy, why)
		}
		m.sleepTo(start + 5*minute)
		m.wantStates(want)
		m.changed(gone, online)
		if policy == fleet.OfflineFail {
			continue
		}
		m.live(gone, m.at(1, 0)) // online in time: it catches up
		m.wantStates("completed = passed: healthy healthy | passed: healthy")
	}
}

// H12: one that never reconnected is listed, and does not keep the rollout open.
func TestStep_SkippedOfflineMachineStaysBehind(t *testing.T) {
	s := spec()
	s.Offline = fleet.OfflineSkip
	m := newSim(t, 2, s)
	m.changed(m.at(0, 0), offline)
	m.settle()
	m.sleepTo(start + 5*minute)
	m.live(m.at(0, 1))
	m.wantStates("completed = passed: skipped healthy")
	if a := m.a(m.at(0, 0)); a.Reason != fleet.ReasonOffline || m.state.Rollout.Why != "1 healthy, 1 skipped; 1 to catch up: nixfleet machine list --behind" {
		t.Errorf("%s %q; why %q", a.Reason, a.Message, m.state.Rollout.Why)
	}
}

// H12: a machine that is not there takes no slot; one that vanished after it
// was offered the release keeps its slot, as it may be the release that cut it
// off, and is a failure at its deadline.
func TestStep_OfflineMachinesAndSlots(t *testing.T) {
	s := spec()
	s.MaxParallel = 1
	m := newSim(t, 3, s)
	m.changed(m.at(0, 0), offline)
	m.settle()
	m.wantStates("running = open: pending offered pending")
	m.changed(m.at(0, 1), offline)
	m.sleepTo(start + 9*minute)
	m.wantStates("running = open: pending offered pending")
	m.sleepTo(start + 10*minute)
	m.wantStates("paused = failed: pending failed pending")
}

// H12: should nobody say that a machine is online again, the engine sees it.
func TestStep_FindsMachinesThatAreBack(t *testing.T) {
	m := newSim(t, 1, spec())
	m.changed("m-00", offline)
	m.settle()
	m.facts["m-00"] = rollout.Facts{Lifecycle: fleet.Active, Online: true}
	m.sleepTo(start + 31*second)
	m.wantStates("running = open: offered")

	s := spec()
	s.Offline = fleet.OfflineSkip
	m = newSim(t, 2, s)
	m.changed(m.at(0, 0), offline)
	m.settle()
	m.sleepTo(start + 6*minute)
	m.wantStates("running = open: skipped offered")
	m.facts[m.at(0, 0)] = rollout.Facts{Lifecycle: fleet.Active, Online: true}
	m.sleepTo(m.now + 31*second)
	m.wantStates("running = open: offered offered")
}

// H15: deadlines that are near when the control plane starts leave machines time
// to report what happened while it was down.
func TestStep_RestartLeavesTimeToReport(t *testing.T) {
	s := spec("1", "100%")
	s.ProgressDeadlineMs = 10 * minute
	m := newSim(t, 3, s)
	m.settle()
	m.live(m.at(0, 0))
	m.progress(m.at(1, 0), fleet.AssignVerifying)
	m.sleepTo(m.now + 10*minute - second)
	m.restart()
	m.tick()
	m.wantStates("running = passed: healthy | open: verifying offered")
	if w := m.state.Rollout.WakeAt; w != m.since+2*minute {
		t.Errorf("looks again after %d ms", w-m.since)
	}
	m.live(m.at(1, 0))
	m.sleepTo(m.now + 2*minute)
	m.wantStates("paused = passed: healthy | failed: healthy failed")
}

// H16: retry one machine, skip one, resume.
func TestStep_RetrySkipResume(t *testing.T) {
	s := spec("3", "100%")
	m := newSim(t, 4, s)
	m.settle()
	one, two, three := m.at(0, 0), m.at(0, 1), m.at(0, 2)
	m.live(three)
	m.progress(two, fleet.AssignApplying)
	m.back(one, fleet.ReasonCheckFailed)
	m.back(two, fleet.ReasonCheckFailed)
	m.verb(api.VerbRetry, one)
	m.verb(api.VerbSkip, two)
	m.wantStates("paused = failed: pending skipped healthy | waiting: pending")
	m.verb(api.VerbResume)
	m.wantStates("running = open: offered skipped healthy | waiting: pending")
	m.back(one, fleet.ReasonCheckFailed) // it counts anew
	m.wantStates("paused = failed: rolled-back skipped healthy | waiting: pending")
	m.verb(api.VerbResume) // and now it is known
	m.live(m.at(1, 0))
	m.wantStates("completed = passed: rolled-back skipped healthy | passed: healthy")
}

// H16: the failed machine, repaired by hand, is tried again and verified.
func TestStep_ResumeAfterRepair(t *testing.T) {
	m := newSim(t, 2, spec("1", "100%"))
	m.settle()
	id := m.at(0, 0)
	m.back(id, fleet.ReasonCheckFailed)
	m.changed(id, func(f *rollout.Facts) { f.Running = target(id) })
	m.verb(api.VerbRetry, id)
	m.verb(api.VerbResume)
	m.live(id, m.at(1, 0))
	m.wantStates("completed = passed: healthy | passed: healthy")
	if a := m.a(id); a.Attempt != 2 || a.PreviousPath != system(string(id)+"-old") {
		t.Errorf("%s, previous %s", a, a.PreviousPath)
	}
}

// H16: who resumes after the canary failed has seen it, and is not asked again.
func TestStep_ResumeGoesOnWithoutTheCanary(t *testing.T) {
	m := newSim(t, 2, spec("1", "100%"))
	m.settle()
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.verb(api.VerbResume)
	m.wantStates("running = passed: rolled-back | open: offered")
	m.verb(api.VerbSkip, m.at(0, 0)) // known already: it makes no room for another failure
	m.back(m.at(1, 0), fleet.ReasonCheckFailed)
	m.wantStates("paused = passed: skipped | failed: rolled-back")
}

// H16: a machine that is tried again while its batch soaks has the soak begin
// anew.
func TestStep_RetryWhileSoaking(t *testing.T) {
	s := spec("2", "100%")
	s.SoakMs, s.MaxFailures = minute, fleet.Amount{N: 1}
	m := newSim(t, 3, s)
	m.settle()
	m.live(m.at(0, 0))
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("running = soaking: healthy rolled-back | waiting: pending")
	m.sleepTo(m.now + 50*second)
	m.verb(api.VerbRetry, m.at(0, 1))
	m.wantStates("running = open: healthy offered | waiting: pending")
	m.live(m.at(0, 1))
	m.sleepTo(m.now + 50*second)
	m.wantStates("running = soaking: healthy healthy | waiting: pending")
	m.sleepTo(m.now + 10*second)
	m.wantStates("running = passed: healthy healthy | open: offered")
}

// H18: serving follows the plan: what each state of an assignment gets.
func TestOrdersFor_FollowThePlan(t *testing.T) {
	m := newSim(t, 4, spec("1", "1", "100%"))
	orders := func(batch int) api.Orders { return rollout.OrdersFor(m.a(m.at(batch, 0)), m.state.Rollout, m.run()) }
	m.settle()
	d := digest("release-2")
	apply := &fleet.Order{Digest: d, Rollout: "r1", Attempt: 1, MinHealthyMs: 1, DeadlineMs: 10 * minute}
	want := []api.Orders{{Apply: apply}, {Prefetch: d}, {}}
	for i := range want {
		if diff := cmp.Diff(want[i], orders(i)); diff != "" {
			t.Errorf("batch %d: %s", i+1, diff)
		}
	}
	if !slices.Equal(m.last.Wake, m.plan.Batches[0]) {
		t.Errorf("woke %v", m.last.Wake)
	}
	m.now += minute
	if got := orders(0).Apply.DeadlineMs; got != 9*minute {
		t.Errorf("a minute later the attempt has %d ms", got)
	}
	if late := rollout.OrdersFor(m.a(m.at(0, 0)), m.state.Rollout, start+10*minute); late.Apply != nil {
		t.Errorf("at its deadline the attempt is still served: %+v", late.Apply)
	}
	m.verb(api.VerbPause) // nobody took the offer: it is withdrawn, and nothing is fetched
	for i := range want {
		if diff := cmp.Diff(api.Orders{}, orders(i)); diff != "" {
			t.Errorf("paused, batch %d: %s", i+1, diff)
		}
	}
	m.progress(m.at(0, 0), fleet.AssignApplying) // it had taken it after all
	if orders(0).Apply == nil {
		t.Errorf("a machine at work has no orders: %s", m.a(m.at(0, 0)))
	}
	other := m.state.Rollout
	other.ID = "r2"
	if diff := cmp.Diff(api.Orders{}, rollout.OrdersFor(m.a(m.at(0, 0)), other, m.run())); diff != "" {
		t.Errorf("for another rollout: %s", diff)
	}
	m.progress(m.at(0, 0), fleet.AssignRollingBack)
	if diff := cmp.Diff(api.Orders{}, orders(0)); diff != "" {
		t.Errorf("while it rolls back by itself: %s", diff)
	}
}

// A revert is what an operator orders. An agent of the version before calls its
// own rollback one too: it is ordered nothing for that, and has rolled back.
func TestReport_RevertThatNobodyOrderedIsARollback(t *testing.T) {
	s := spec("100%")
	m := newSim(t, 2, s)
	m.settle()
	for i, outcome := range []fleet.Outcome{fleet.OutcomeReverted, fleet.OutcomeRevertFailed} {
		id := m.at(0, i)
		m.progress(id, fleet.AssignReverting)
		if a := m.a(id); a.State != fleet.AssignRollingBack || rollout.OrdersFor(a, m.state.Rollout, m.run()).Revert != nil {
			t.Errorf("%s after it said that it reverts: %s", id, a)
		}
		r := m.backReport(id, fleet.ReasonCheckFailed)
		r.Outcome = outcome
		m.report(r)
		want := []fleet.AssignmentState{fleet.AssignRolledBack, fleet.AssignRollbackFailed}[i]
		if a := m.a(id); a.State != want {
			t.Errorf("%s after outcome %s: %s, want %s", id, outcome, a, want)
		}
	}
}

// H20: a clock that jumps back undoes nothing and fails nobody; agents' clocks
// are not asked.
func TestStep_CancelLeavesMachinesInTheMiddleOfASwitchTheirEnd(t *testing.T) {
	m := newSim(t, 5, spec("4", "100%"))
	m.settle()
	m.live(m.at(0, 0))
	m.progress(m.at(0, 1), fleet.AssignFetching)
	m.progress(m.at(0, 2), fleet.AssignApplying)
	m.progress(m.at(0, 3), fleet.AssignVerifying)
	m.verb(api.VerbCancel)
	m.wantStates("cancelled = failed: healthy skipped applying verifying | waiting: skipped")
	if len(m.released) != 3 {
		t.Errorf("let go %v", m.released)
	}
	m.live(m.at(0, 2))
	m.sleepTo(m.now + 10*minute)
	m.wantStates("cancelled = failed: healthy skipped healthy failed | waiting: skipped")
	if len(m.released) != 5 || m.state.Rollout.WakeAt != 0 {
		t.Errorf("let go %v, wakes at %d", m.released, m.state.Rollout.WakeAt)
	}
}

// Approvals stand before each batch, the first too, also across a pause and a
// restart.
func TestStep_ApprovalStandsBeforeEachBatch(t *testing.T) {
	s := spec("1", "100%")
	s.Approve = true
	m := newSim(t, 2, s)
	m.settle()
	m.sleepTo(m.now + 24*60*minute)
	m.wantStates("scheduled = waiting: pending | waiting: pending")
	if want := "waits for approval before batch 1 opens"; m.state.Rollout.Why != want || m.state.Rollout.WakeAt != 0 || rollout.Explain(m.state, m.world(), m.now)[0].Why != want {
		t.Errorf("why %q, wakes at %d", m.state.Rollout.Why, m.state.Rollout.WakeAt)
	}
	m.verb(api.VerbPause)
	m.verb(api.VerbResume)
	m.restart()
	m.tick()
	m.wantStates("scheduled = waiting: pending | waiting: pending")
	m.verb(api.VerbApprove)
	if by := m.state.Rollout.ApprovedBy; by != "key:bob" {
		t.Errorf("approved by %q", by)
	}
	m.live(m.at(0, 0))
	m.wantStates("running = gated: healthy | waiting: pending")
	if want := "batch 1 waits for approval before batch 2 opens"; m.state.Rollout.Why != want || m.state.Rollout.WakeAt != 0 {
		t.Errorf("why %q, wakes at %d", m.state.Rollout.Why, m.state.Rollout.WakeAt)
	}
	m.verb(api.VerbApprove)
	m.live(m.at(1, 0))
	m.wantStates("completed = passed: healthy | passed: healthy")
	if b := m.state.Batches[0]; b.ApprovedBy != "key:bob" {
		t.Errorf("approved by %q", b.ApprovedBy)
	}
}

// H05, for a batch: a canary that nobody could look at is no canary.
func TestStep_BatchWithoutAHealthyMachineAsks(t *testing.T) {
	s := spec("1", "100%")
	s.Offline = fleet.OfflineSkip
	m := newSim(t, 2, s)
	m.changed(m.at(0, 0), offline)
	m.settle()
	m.sleepTo(start + 5*minute)
	m.wantStates("running = gated: skipped | waiting: pending")
	if !strings.Contains(m.state.Rollout.Why, "no machine of batch 1 became healthy") {
		t.Errorf("why %q", m.state.Rollout.Why)
	}
	late := *m
	late.state = clone(m.state)
	m.verb(api.VerbApprove)
	m.wantStates("running = passed: skipped | open: offered")

	late.changed(m.at(0, 0), online) // the canary is online again: it answers the question
	late.wantStates("running = gated: offered | waiting: pending")
	late.live(m.at(0, 0))
	late.wantStates("running = passed: healthy | open: offered")
}

func TestStep_StragglersAreLeftBehindNotForgotten(t *testing.T) {
	s := spec("3", "100%")
	s.StragglerMs, s.SoakMs = 2*minute, minute
	m := newSim(t, 4, s)
	m.settle()
	m.progress(m.at(0, 2), fleet.AssignFetching)
	m.sleepTo(start + 2*minute) // none is healthy: there is nothing to watch
	m.wantStates("running = open: offered offered fetching | waiting: pending")
	m.live(m.at(0, 0), m.at(0, 1))
	m.wantStates("running = soaking: healthy healthy fetching | waiting: pending")
	m.sleepTo(m.now + minute)
	m.live(m.at(1, 0))
	m.sleepTo(m.now + minute)
	m.wantStates("running = passed: healthy healthy fetching | passed: healthy")
	m.sleepTo(start + 10*minute)
	m.wantStates("paused = passed: healthy healthy failed | passed: healthy")
	m.verb(api.VerbResume)
	m.wantStates("completed = passed: healthy healthy failed | passed: healthy")
}

// A batch that passed is not reverted for a straggler: there is none at work
// that could be reverted alone.
func TestStep_FailureOfAStragglerPauses(t *testing.T) {
	s := spec("2", "100%")
	s.StragglerMs, s.OnFailure = minute, fleet.RevertBatch
	m := newSim(t, 3, s)
	m.settle()
	m.live(m.at(0, 0))
	m.sleepTo(start + minute)
	m.wantStates("running = passed: healthy offered | open: offered")
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("paused = passed: healthy rolled-back | open: pending")
}

func TestStep_ProgressDeadline(t *testing.T) {
	s := spec()
	s.ProgressDeadlineMs = 3 * minute
	m := newSim(t, 3, s)
	m.settle()
	m.sleepTo(start + 2*minute)
	m.live(m.at(0, 0))
	at := m.state.Rollout.ProgressAt
	m.sleepTo(at + 2*minute)
	if w := m.state.Rollout.WakeAt; w != at+3*minute {
		t.Errorf("looks again %d ms after the last progress", w-at)
	}
	m.sleepTo(at + 3*minute - 1)
	m.wantStates("running = open: healthy offered offered")
	m.sleepTo(at + 3*minute)
	m.wantStates("paused = failed: healthy pending pending")
	if !strings.Contains(m.state.Rollout.Why, "no machine became healthy for 3m0s") {
		t.Errorf("why %q", m.state.Rollout.Why)
	}
}

func TestStep_MaxParallel(t *testing.T) {
	s := spec()
	s.MaxParallel = 2
	m := newSim(t, 4, s)
	m.settle()
	m.wantStates("running = open: offered offered pending pending")
	m.live(m.at(0, 1))
	m.wantStates("running = open: offered healthy offered pending")
}

func TestStep_NothingHealthyIsNotCompleted(t *testing.T) {
	s := spec()
	s.MaxFailures = fleet.Amount{N: 100, Percent: true}
	m := newSim(t, 2, s)
	m.settle()
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("failed = passed: rolled-back rolled-back")
}

// An operator who reverts one machine is not told that the release failed.
func TestStep_RevertOfOneMachineIsNoFailure(t *testing.T) {
	m := newSim(t, 3, spec("1", "100%"))
	m.settle()
	m.live(m.at(0, 0))
	m.verb(api.VerbRevert, m.at(0, 0))
	m.wantStates("running = passed: reverting | open: offered offered")
	m.back(m.at(0, 0), fleet.ReasonRevertOrdered)
	m.live(m.plan.Batches[1]...)
	m.wantStates("completed = passed: reverted | passed: healthy healthy")
}

// E01, at the control plane: a machine that refuses need not know the path.
func TestStep_RefusalCounts(t *testing.T) {
	m := newSim(t, 1, spec())
	m.settle()
	r := m.backReport("m-00", fleet.ReasonProofMismatch)
	r.Outcome, r.StorePath = fleet.OutcomeRefused, system("evil")
	m.report(r)
	m.wantStates("paused = failed: refused")
	if a := m.a("m-00"); a.Reason != fleet.ReasonProofMismatch || a.Outcome != fleet.OutcomeRefused {
		t.Errorf("%s %s", a.Reason, a.Outcome)
	}
}
