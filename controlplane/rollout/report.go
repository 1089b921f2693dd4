// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// report takes in what a machine says of its attempt. Reports of anything but
// the present attempt have no effect (H01), and a later success does not undo a
// failure (H02).
func (st *step) report(r fleet.Report) {
	a, ok := st.assignment(r.Machine)
	if !ok || !st.concerns(r, a) {
		return
	}
	if a.PreviousPath == "" && r.Running != a.StorePath {
		a.PreviousPath = r.Running
	}
	switch {
	case r.Kind == fleet.ReportProgress:
		st.progress(a, r)
	case r.Kind != fleet.ReportOutcome:
	case r.Outcome.Success():
		st.succeeded(a, r)
	default:
		st.unsuccessful(a, r)
	}
	st.wakeIfDue()
}

// concerns reports whether r is about the assignment's attempt that runs now,
// or about a healthy machine that rolled back after all.
func (st *step) concerns(r fleet.Report, a fleet.Assignment) bool {
	if r.Rollout != st.rollout.ID || !a.EverOffered || r.Attempt != a.Attempt || r.Digest != a.Digest {
		return false
	}
	success := r.Kind == fleet.ReportOutcome && r.Outcome.Success()
	switch {
	case r.StorePath == a.StorePath:
	case r.Outcome == fleet.OutcomeRefused || r.StorePath == "" && !success:
		// A machine that refuses, or ends before it knows the path, need not
		// name it: no gate passes by that.
	default:
		return false
	}
	switch {
	case a.State.InFlight(), a.State.RollingBack():
		return true
	case a.State == fleet.AssignPending:
		return a.OfferedAt != 0 // the offer was withdrawn, but taken before
	case a.State == fleet.AssignHealthy:
		return r.Kind == fleet.ReportOutcome && !success && !st.rollout.State.Final()
	}
	return false
}

func (st *step) progress(a fleet.Assignment, r fleet.Report) {
	switch {
	case a.State.RollingBack() || r.Phase == a.State || st.withdrawn(a, r.Phase):
		return
	case r.Phase.RollingBack():
		// It was not ordered, whatever the machine calls it. Its outcome follows.
		r.Phase = fleet.AssignRollingBack
		a.Reason, a.Message = r.Reason, r.Message
	case !r.Phase.InFlight():
		return
	}
	a.State, a.Why = r.Phase, r.Message
	if a.Deadline == 0 {
		a.Deadline = a.OfferedRun + st.spec().HealthyDeadlineMs
	}
	if len(r.Checks) > 0 {
		a.Checks = slices.Clone(r.Checks)
	}
	st.put(a)
	st.wakeBy(a.Deadline)
	if a.State == fleet.AssignAwaitingReboot {
		st.wakeBy(st.run) // it may have to wait for its window
	}
}

func (st *step) succeeded(a fleet.Assignment, r fleet.Report) {
	if a.State.RollingBack() {
		return // it leaves the release
	}
	a.Checks = slices.Clone(r.Checks)
	if why := unproven(a, r, st.spec(), st.run); why != "" {
		a.State, a.Why = fleet.AssignVerifying, why
		if a.Deadline == 0 {
			a.Deadline = a.OfferedRun + st.spec().HealthyDeadlineMs
		}
		st.put(a)
		st.wakeBy(a.Deadline)
		return
	}
	a.Outcome, a.HealthyAt, a.HealthyRun = r.Outcome, st.now, st.run
	st.end(a, fleet.AssignHealthy, r.Reason, r.Message)
	if !st.rollout.State.Final() {
		st.progressed()
	}
}

// unproven says why a report of success does not make the machine healthy, ""
// if it does. No data is not healthy (H05).
func unproven(a fleet.Assignment, r fleet.Report, spec fleet.RolloutSpec, run int64) string {
	if r.BootDefault != a.StorePath {
		return "reported " + string(r.Outcome) + ", but the boot default is not the release's system"
	}
	if r.Outcome == fleet.OutcomeStagedReboot {
		return ""
	}
	switch {
	case r.Running != a.StorePath:
		return "reported " + string(r.Outcome) + ", but another system runs"
	case run-a.OfferedRun < spec.MinHealthyMs-spec.MinHealthyMs/10: // a tenth for clocks that run apart
		return "reported " + string(r.Outcome) + " sooner than minHealthy after the offer"
	}
	declared := slices.ContainsFunc(r.Checks, func(c fleet.HealthCheckResult) bool { return c.Required })
	switch {
	case !declared && r.Confirmed == "":
		return "reported " + string(r.Outcome) + " without a check or a confirmation"
	case declared && fleet.HealthOf(r.Checks) != fleet.Healthy:
		return "reported " + string(r.Outcome) + ", but its health is " + string(fleet.HealthOf(r.Checks))
	}
	return ""
}

func (st *step) unsuccessful(a fleet.Assignment, r fleet.Report) {
	ordered := a.State == fleet.AssignReverting
	state := failureState(r.Outcome)
	if ordered {
		// Whatever was reported: what counts is what runs now.
		state = fleet.AssignRevertFailed
		if r.Outcome.OnPrevious() || r.Running != "" && r.Running != a.StorePath && r.BootDefault != a.StorePath {
			state = fleet.AssignReverted
		}
	}
	a.Outcome = r.Outcome
	if len(r.Checks) > 0 {
		a.Checks = slices.Clone(r.Checks)
	}
	reason, message := r.Reason, r.Message
	switch {
	case reason == "" && ordered:
		reason = fleet.ReasonRevertOrdered
	case !ordered && !r.Outcome.Valid():
		reason, message = fleet.ReasonUnknownOutcome, "reported the outcome "+string(r.Outcome)+": "+r.Message
	}
	st.end(a, state, reason, message)
	if ordered && state == fleet.AssignReverted {
		// It obeyed: no failure of the release.
		st.batches[a.Batch].Acknowledged++
		st.rollout.Acknowledged++
		st.revertedByHand(a)
	}
	st.judge()
}

// revertedByHand pauses a running rollout when what an operator had reverted leaves a
// batch without a healthy machine: it must not pass by that.
func (st *step) revertedByHand(a fleet.Assignment) {
	b := st.batches[a.Batch]
	if st.rollout.State != fleet.RolloutRunning || b.State == fleet.BatchPassed || b.Counts.Healthy > 0 || b.Index+1 == len(st.batches) {
		return
	}
	st.pause(EngineActor, fmt.Sprintf("%s was reverted by order, and no machine of batch %d is healthy", a.Machine, b.Index+1))
}

// failureState is the state that an outcome leads to when nothing was ordered.
func failureState(o fleet.Outcome) fleet.AssignmentState {
	switch o {
	case fleet.OutcomeRolledBack, fleet.OutcomeReverted:
		return fleet.AssignRolledBack
	case fleet.OutcomeRollbackFailed, fleet.OutcomeRevertFailed:
		return fleet.AssignRollbackFailed
	case fleet.OutcomeRefused:
		return fleet.AssignRefused
	case fleet.OutcomeFailed, fleet.OutcomeLive, fleet.OutcomeLiveDegraded, fleet.OutcomeStagedReboot:
	}
	return fleet.AssignFailed
}
