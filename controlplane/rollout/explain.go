// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Explain says why a rollout has not ended, until about when, and what an operator
// can do: the rollout, then its batches, each with its machines. Machines of
// batches that are not open share their batch's line. Each line names a moment or
// something to do, most often both.
func Explain(state State, w World, now int64) []api.Waiting {
	state.index = state.indexed()
	x := explainer{state: state, r: state.Rollout, w: w, at: Moment{Wall: now, Run: w.Run}, hold: holdFor(state, w, now)}
	lines := []api.Waiting{}
	if !x.r.State.Final() {
		lines = append(lines, x.rollout())
	}
	for i, b := range state.Batches {
		if !x.r.State.Final() && b.State != fleet.BatchPassed {
			l := x.batch(i)
			l.Why += x.taken(i)
			lines = append(lines, l)
		}
		if b.State == fleet.BatchWaiting {
			continue
		}
		for _, id := range state.index.order[i] {
			if a := state.Assignments[id]; !a.State.Final() {
				lines = append(lines, x.machine(a))
			}
		}
	}
	return lines
}

// explainer is what the lines of one answer share.
type explainer struct {
	state State
	r     fleet.Rollout
	w     World
	at    Moment
	hold  *hold
}

// verb is the command line of a verb.
func (x explainer) verb(v api.Verb) string {
	return "nixfleet rollout " + string(v) + " " + string(x.r.ID)
}

func (x explainer) rollout() api.Waiting {
	l := api.Waiting{Batch: -1, State: string(x.r.State), Why: orElse(x.r.Why, whyRollout(x.r)), Deadline: x.at.Expect(x.r.WakeAt)}
	switch {
	case x.r.State == fleet.RolloutPaused:
		l.Do = x.verb(api.VerbResume)
	case x.r.State == fleet.RolloutScheduled && wantsFirstApproval(x.r):
		l.Do = x.verb(api.VerbApprove)
	case x.r.State == fleet.RolloutRunning:
		l.Do = x.work(x.state.Batches[x.r.Batch]).Do
	}
	return x.hold.explain(l)
}

func (x explainer) batch(i int) api.Waiting {
	b := x.state.Batches[i]
	if b.State == fleet.BatchSoaking && x.r.State == fleet.RolloutReverting { // its soak leads to nothing any more
		l := x.rollout()
		l.Batch, l.State = i, string(b.State)
		return l
	}
	if b.State != fleet.BatchWaiting {
		return x.work(b)
	}
	// It waits for what the batch at work, or the rollout, waits for.
	l := x.rollout()
	l.Batch, l.State, l.Why = i, string(b.State), orElse(b.Why, whyBatch(b, x.at))
	return l
}

// taken says by which rollout machines of a batch were taken over, "" for none.
func (x explainer) taken(i int) string {
	first, more := fleet.Assignment{}, -1
	for _, id := range x.state.index.order[i] {
		if a := x.state.Assignments[id]; a.Reason == fleet.ReasonSuperseded {
			if more++; more == 0 {
				first = a
			}
		}
	}
	switch {
	case more < 0:
		return ""
	case more == 0:
		return fmt.Sprintf("; %s: %s", first.Machine, first.Message)
	}
	return fmt.Sprintf("; %s: %s, and %d more were taken over", first.Machine, first.Message, more)
}

// work is the line of a batch that has opened.
func (x explainer) work(b fleet.Batch) api.Waiting {
	l := api.Waiting{Batch: b.Index, State: string(b.State), Why: orElse(b.Why, whyBatch(b, x.at))}
	switch b.State {
	case fleet.BatchOpen, fleet.BatchReverting, fleet.BatchPassed:
		x.atWork(b, &l)
	case fleet.BatchGated:
		for _, g := range b.Gates {
			if g.Answer != fleet.GatePass {
				l.Deadline = max(l.Deadline, x.at.Expect(gateDue(g, x.w)))
			}
		}
		if x.r.State == fleet.RolloutRunning && (gateWantsApproval(b) || len(gateTimes(b, x.w)) == 0 && !b.Approved) {
			l.Do = x.verb(api.VerbApprove)
		}
	case fleet.BatchSoaking:
		l.Deadline = x.at.Expect(b.SoakUntil)
	case fleet.BatchFailed, fleet.BatchWaiting:
	}
	if x.r.State == fleet.RolloutPaused {
		l.Do = x.verb(api.VerbResume)
	}
	if l.Deadline == 0 && l.Do == "" {
		l.Deadline = x.at.Expect(x.r.WakeAt)
	}
	return l
}

// atWork says by when the machines of a batch that are at work have ended, or what
// the first that is not holds up.
func (x explainer) atWork(b fleet.Batch, l *api.Waiting) {
	first := api.Waiting{}
	for _, id := range x.state.index.order[b.Index] {
		a := x.state.Assignments[id]
		if atWork(a) {
			l.Deadline = max(l.Deadline, x.at.Expect(dueOf(a, x.w)))
		} else if first.Machine == "" && !a.State.Final() {
			first = x.machine(a)
		}
	}
	if b.Counts.Pending > 0 {
		*l = x.hold.explain(*l)
	}
	if l.Deadline == 0 && l.Do == "" {
		l.Deadline, l.Until, l.Do = first.Deadline, first.Until, first.Do
	}
}

// dueOf is when an assignment's deadline counts: one from before the control
// plane's last start leaves machines time to report.
func dueOf(a fleet.Assignment, w World) int64 {
	if a.OfferedRun < w.Since {
		return max(a.Deadline, w.Since+reportGrace)
	}
	return a.Deadline
}

// machine is the line of a machine that has not ended.
func (x explainer) machine(a fleet.Assignment) api.Waiting {
	l := api.Waiting{Machine: a.Machine, Batch: a.Batch, State: string(a.State), Why: Why(a, x.state, x.w, x.at.Wall)}
	if atWork(a) {
		l.Deadline, l.Until = x.at.Expect(dueOf(a, x.w)), mayReboot(a, x.state, x.at.Wall)
		return l
	}
	f, known := x.w.Machine(a.Machine)
	switch {
	case x.r.State == fleet.RolloutPaused:
		l.Do = x.verb(api.VerbResume)
	case x.r.State != fleet.RolloutRunning:
		l.Deadline = x.at.Expect(x.r.WakeAt)
	case !known:
		l.Do = x.verb(api.VerbSkip) + " --on " + string(a.Machine)
	case f.Lifecycle != fleet.Active:
		l.Do = "nixfleet machine set-lifecycle " + string(a.Machine) + " active"
	case x.hold != nil:
		return x.hold.explain(l)
	case !f.Online:
		l.Do = x.verb(api.VerbSkip) + " --on " + string(a.Machine)
		if x.r.Spec.Offline != fleet.OfflineWait {
			l.Until = x.at.Expect(offlineDeadline(f, x.r.Spec, x.w))
		}
	case whyBudget(a.Machine, x.w) != "":
		l.Do, l.Deadline = "nixfleet budget list", x.at.Expect(x.r.WakeAt)
	default: // a slot, or the next look
		l.Deadline = x.at.Expect(x.r.WakeAt)
	}
	return l
}
