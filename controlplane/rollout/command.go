// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Check returns nil if the command is possible now. Else the error says what is:
// its code is Conflict, NotFound or Invalid for the machines that it names, or
// Forbidden for what another has to do.
func Check(state State, c Command) error {
	r := state.Rollout
	if !c.Verb.Valid() {
		return fleet.Errorf(fleet.Invalid, "%q is not a verb of rollouts", fleet.CleanText(string(c.Verb), 40)).
			WithHint("pause, resume, cancel, approve, retry, skip or revert")
	}
	if r.State.Final() {
		return fleet.Errorf(fleet.Conflict, "rollout %s is %s", r.ID, r.State).WithHint("it has ended; create another one")
	}
	if r.State == fleet.RolloutReverting {
		return fleet.Errorf(fleet.Conflict, "rollout %s is reverting machines", r.ID).
			WithHint("it ends by itself; rollout explain shows the deadline of each machine")
	}
	switch c.Verb {
	case api.VerbPause:
		if r.State == fleet.RolloutPaused {
			return fleet.Errorf(fleet.Conflict, "rollout %s is paused already", r.ID).WithHint("resume or cancel it")
		}
	case api.VerbResume:
		if r.State != fleet.RolloutPaused {
			return fleet.Errorf(fleet.Conflict, "rollout %s is %s, not paused", r.ID, r.State).WithHint("only a paused rollout can be resumed")
		}
	case api.VerbCancel:
	case api.VerbApprove:
		if b := state.Batches[r.Batch]; !wantsFirstApproval(r) && (b.State != fleet.BatchGated || b.Approved && !gateWantsApproval(b)) {
			return fleet.Errorf(fleet.Conflict, "rollout %s does not wait for approval", r.ID).WithHint("batch %d is %s", b.Index+1, b.State)
		}
		if r.Spec.ApproveByOther && sameOwner(c.Actor, r.CreatedBy) {
			return fleet.Errorf(fleet.Forbidden, "rollout %s waits for the approval of another owner than its author, %s", r.ID, r.CreatedBy).
				WithHint("whichever key of yours it is: somebody else has to approve")
		}
	case api.VerbRetry, api.VerbSkip, api.VerbRevert:
		return checkMachines(state, c)
	}
	if len(c.Machines) > 0 {
		return fleet.Errorf(fleet.Invalid, "%s is about the whole rollout, not about machines", c.Verb)
	}
	return nil
}

func checkMachines(state State, c Command) error {
	if c.Verb == api.VerbSkip && len(c.Machines) == 0 {
		return fleet.Errorf(fleet.Invalid, "skip: name the machines to go on without")
	}
	for _, id := range c.Machines {
		a, ok := state.Assignments[id]
		if !ok {
			return fleet.Errorf(fleet.NotFound, "machine %s is not in rollout %s", fleet.CleanText(string(id), 80), state.Rollout.ID)
		}
		if !applies(c.Verb, a) {
			return fleet.Errorf(fleet.Conflict, "%s: machine %s is %s", c.Verb, id, a.State).WithHint("%s", applicable(c.Verb))
		}
		if b := state.Batches[a.Batch]; c.Part && c.Verb == api.VerbSkip && b.State != fleet.BatchPassed && b.Index+1 < len(state.Batches) && b.Counts.Healthy == 0 {
			// A skip by hand lets a batch pass of which nothing is known.
			return fleet.Errorf(fleet.Forbidden, "skip: no machine of batch %d is healthy, so it could pass by this skip and open the next batch on machines that your key is not for", b.Index+1).
				WithHint("an operator of the whole rollout can skip %s", id)
		}
	}
	if len(c.Machines) > 0 {
		return nil
	}
	for _, a := range state.Assignments {
		if applies(c.Verb, a) {
			return nil
		}
	}
	return fleet.Errorf(fleet.Conflict, "%s: rollout %s has no machine for that", c.Verb, state.Rollout.ID).WithHint("%s", applicable(c.Verb))
}

// applies reports whether a machine can be retried, skipped or reverted.
func applies(v api.Verb, a fleet.Assignment) bool {
	switch v {
	case api.VerbRetry:
		return a.State.Failure() || a.State == fleet.AssignSkipped
	case api.VerbSkip:
		return !a.State.Final() && !a.State.RollingBack() || a.State.Failure()
	case api.VerbRevert:
		return revertible(a)
	case api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove:
	}
	return false
}

func applicable(v api.Verb) string {
	switch v {
	case api.VerbRetry:
		return "machines that failed or were skipped can be retried"
	case api.VerbSkip:
		return "machines that wait, are at work or failed can be skipped"
	case api.VerbRevert:
		return "machines that this rollout switched can be reverted"
	case api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove:
	}
	return ""
}

// command carries out what Check accepted. The tick does what follows from it.
func (st *step) command(c Command) {
	switch c.Verb {
	case api.VerbPause:
		st.pause(c.Actor, orElse(c.Reason, "by "+c.Actor))
	case api.VerbResume:
		st.resume(c)
	case api.VerbCancel:
		st.finish(fleet.RolloutCancelled, fleet.ActionRolloutCancel, c.Actor, orElse(c.Reason, "by "+c.Actor))
	case api.VerbApprove:
		st.approve(c)
	case api.VerbRetry:
		ids := st.targets(c)
		for _, id := range ids {
			st.retry(id)
		}
		st.logCommand(fleet.ActionRolloutRetry, c, ids)
	case api.VerbSkip:
		ids := st.targets(c)
		for _, id := range ids {
			a, _ := st.assignment(id)
			if a.State.Failure() {
				st.acknowledgeOne(a.Batch)
			}
			st.end(a, fleet.AssignSkipped, fleet.ReasonSkipped, orElse(c.Reason, "by "+c.Actor))
		}
		st.logCommand(fleet.ActionRolloutSkip, c, ids)
	case api.VerbRevert:
		if len(c.Machines) == 0 {
			st.revertAll(c.Actor, orElse(c.Reason, "reverted by "+c.Actor))
			return
		}
		ids := st.targets(c)
		for _, id := range ids {
			st.orderRevert(id)
		}
		st.logCommand(fleet.ActionRolloutRevert, c, ids)
	}
}

// targets are the machines of a command in the order of the plan.
func (st *step) targets(c Command) []fleet.MachineID {
	named := make(map[fleet.MachineID]bool, len(c.Machines))
	for _, id := range c.Machines {
		named[id] = true
	}
	var ids []fleet.MachineID
	st.each(len(st.batches)-1, func(a fleet.Assignment) {
		if applies(c.Verb, a) && (len(named) == 0 || named[a.Machine]) {
			ids = append(ids, a.Machine)
		}
	})
	return ids
}

// resume goes on; failures up to now no longer count.
func (st *step) resume(c Command) {
	st.rollout.State, st.rollout.Why = fleet.RolloutRunning, ""
	st.progressed()
	if st.rollout.StartedAt == 0 {
		st.rollout.State = fleet.RolloutScheduled
	}
	st.rollout.Acknowledged = 0
	for i := range st.batches {
		b := &st.batches[i]
		b.Acknowledged = b.Counts.Failed
		st.rollout.Acknowledged += b.Acknowledged
		if b.State == fleet.BatchFailed {
			b.State, b.Why, b.EndedAt, b.SoakUntil = fleet.BatchOpen, "", 0, 0
		}
		if b.State == fleet.BatchGated {
			st.beginGates(b) // what a gate said before no longer counts
		}
	}
	st.acknowledgeTypes()
	st.logCommand(fleet.ActionRolloutResume, c, nil)
}

// retry makes a machine pending once more. What ran before this rollout stays
// on record (H06).
func (st *step) retry(id fleet.MachineID) {
	a, _ := st.assignment(id)
	if a.State.Failure() {
		st.acknowledgeOne(a.Batch)
	}
	a.State, a.Why, a.EndedAt, a.Deadline, a.OfferedAt, a.OfferedRun = fleet.AssignPending, "", 0, 0, 0, 0
	st.put(a)
	if b := &st.batches[a.Batch]; b.State == fleet.BatchSoaking || b.State == fleet.BatchGated {
		b.State, b.SoakUntil, b.Why, b.Approved, b.ApprovedBy = fleet.BatchOpen, 0, "", false, ""
	}
}

func (st *step) logCommand(action string, c Command, ids []fleet.MachineID) {
	d := map[string]string{}
	if c.Reason != "" {
		d["why"] = c.Reason
	}
	if len(ids) > 0 {
		d["machines"] = list(ids)
	}
	st.log(c.Actor, action, d)
}

// list names machines, the first ten of them.
func list(ids []fleet.MachineID) string {
	s := ""
	for i, id := range ids {
		if i == 10 {
			return s + fmt.Sprintf(" and %d more", len(ids)-i)
		}
		if i > 0 {
			s += " "
		}
		s += string(id)
	}
	return s
}

// sameOwner compares two actors of keys. Names of owners that differ in the case
// of letters only are those of one person.
func sameOwner(a, b string) bool { return strings.EqualFold(a, b) }

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
