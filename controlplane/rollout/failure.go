// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// judge stops the rollout as soon as failures exceed what is tolerated, also
// when machines are still pending or at work (H04).
func (st *step) judge() {
	if st.rollout.State != fleet.RolloutRunning {
		return
	}
	for i := range st.rollout.Batch + 1 {
		b := st.batches[i]
		if n, limit := b.Counts.Failed-b.Acknowledged, st.spec().MaxFailures.Tolerates(b.Size); n > limit {
			st.failBatch(i, fmt.Sprintf("batch %d: %d of %d machines failed, %d tolerated%s", i+1, n, b.Size, limit, st.cause()))
			return
		}
	}
	if st.judgeLimits(); st.rollout.State != fleet.RolloutRunning || st.spec().MaxFailuresTotal == nil {
		return
	}
	n, limit := st.total().Failed-st.rollout.Acknowledged, st.spec().MaxFailuresTotal.Tolerates(st.rollout.Machines)
	if n > limit {
		st.failBatch(st.rollout.Batch, fmt.Sprintf("%d of %d machines of the rollout failed, %d tolerated%s", n, st.rollout.Machines, limit, st.cause()))
	}
}

// judgeProgress stops a rollout whose open batch makes no progress for too long.
func (st *step) judgeProgress() {
	p, b := st.spec().ProgressDeadlineMs, st.batches[st.rollout.Batch]
	if st.rollout.State != fleet.RolloutRunning || p == 0 || b.State != fleet.BatchOpen || unfinished(b.Counts) == 0 {
		return
	}
	if st.run >= st.progressDue() {
		st.failBatch(b.Index, fmt.Sprintf("batch %d: %s: no machine became healthy for %s", b.Index+1, fleet.ReasonProgressDeadline, span(p)))
	}
}

// cause names the machine that failed last, its reason and its message.
func (st *step) cause() string {
	a := st.lastFailed
	if a == nil {
		return ""
	}
	s := fmt.Sprintf("; %s %s", a.Machine, a.State)
	if a.Reason != "" {
		s += " (" + string(a.Reason) + ")"
	}
	if a.Message != "" {
		s += ": " + fleet.CleanText(a.Message, 300)
	}
	return s
}

// failBatch fails a batch and does what the rollout is to do on failure.
func (st *step) failBatch(batch int, why string) {
	b := &st.batches[batch]
	passed := b.State == fleet.BatchPassed
	if !passed {
		b.State, b.Why, b.EndedAt = fleet.BatchFailed, why, st.now
		st.logBatch(fleet.ActionBatchFail, batch, why)
	}
	switch st.spec().OnFailure {
	case fleet.RevertBatch:
		if passed {
			break // its successor is at work: this batch cannot be reverted alone
		}
		b.State, b.EndedAt = fleet.BatchReverting, 0
		st.rollout.State, st.rollout.Why = fleet.RolloutReverting, why
		st.log(EngineActor, fleet.ActionRolloutRevert, map[string]string{"why": why})
		st.withdraw()
		for _, id := range st.members(batch) {
			st.orderRevert(id)
		}
		st.wakeBy(st.run)
		return
	case fleet.RevertAll:
		st.revertAll(EngineActor, why)
		st.wakeBy(st.run)
		return
	case fleet.Pause:
	}
	st.pause(EngineActor, why)
}

// pause stops offering. Offers that no machine has taken are withdrawn;
// machines at work finish.
func (st *step) pause(actor, why string) {
	st.rollout.State, st.rollout.Why = fleet.RolloutPaused, why
	st.withdraw()
	st.log(actor, fleet.ActionRolloutPause, map[string]string{"why": why})
}

// withdraw withdraws the offers that no machine has answered. OfferedAt stays:
// a report of a machine that took one unseen still counts.
func (st *step) withdraw() {
	for _, a := range st.atWork() {
		if a.State == fleet.AssignOffered {
			st.withdrawOffer(a)
		}
	}
}

func (st *step) withdrawOffer(a fleet.Assignment) {
	a.State, a.Deadline = fleet.AssignPending, 0
	st.put(a)
	st.wake[a.Machine] = true
}

// revertAll reverts every machine that this rollout switched. The rollout has
// failed when that is done.
func (st *step) revertAll(actor, why string) {
	st.rollout.State, st.rollout.Why = fleet.RolloutReverting, why
	st.log(actor, fleet.ActionRolloutRevert, map[string]string{"why": why})
	st.each(st.rollout.Batch, func(a fleet.Assignment) {
		if !st.orderRevert(a.Machine) && a.State.InFlight() {
			st.end(a, fleet.AssignSkipped, fleet.ReasonCancelled, "it ran the release before this rollout; the rollout was reverted")
		}
	})
}

// orderRevert orders a machine to roll back to what ran before this rollout
// touched it, and reports whether there is anything to revert.
func (st *step) orderRevert(id fleet.MachineID) bool {
	a, ok := st.assignment(id)
	if !ok || !revertible(a) {
		return false
	}
	if a.State.Failure() {
		st.acknowledgeOne(a.Batch)
	}
	a.State, a.Reason, a.Message, a.Why = fleet.AssignReverting, fleet.ReasonRevertOrdered, "", ""
	a.Deadline, a.EndedAt = st.run+st.spec().HealthyDeadlineMs, 0
	st.put(a)
	st.wake[id] = true
	return true
}

// revertible reports whether the machine may run the release because of this
// rollout (H13: one that ran it before is left alone).
func revertible(a fleet.Assignment) bool {
	if !a.EverOffered || a.PreviousPath == a.StorePath || a.Reason == fleet.ReasonSuperseded {
		return false
	}
	switch a.State {
	case fleet.AssignHealthy, fleet.AssignRollbackFailed, fleet.AssignRevertFailed:
		return true
	case fleet.AssignFailed:
		return a.Reason == fleet.ReasonHealthyDeadline
	case fleet.AssignPending:
		return a.OfferedAt != 0
	case fleet.AssignSkipped:
		return a.OfferedAt != 0 && a.Reason == fleet.ReasonSkipped
	}
	return a.State.InFlight()
}

// endReverting ends the reverting of a batch, or of all, when no machine rolls
// back any more.
func (st *step) endReverting() {
	if st.total().RollingBack > 0 {
		return
	}
	for i := range st.batches {
		b := &st.batches[i]
		if b.State != fleet.BatchReverting {
			continue
		}
		b.State, b.EndedAt = fleet.BatchFailed, st.now
		st.pause(EngineActor, b.Why+"; the batch was reverted")
		return
	}
	st.finish(fleet.RolloutFailed, fleet.ActionRolloutFail, EngineActor, st.rollout.Why)
}
