// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// EngineActor is the audit trail's actor of what no operator ordered.
	EngineActor = "control-plane"
	// reportGrace is how long machines have, after the control plane is up
	// again, to report what happened while it was down (H15).
	reportGrace = 2 * 60 * 1000
	// recheck bounds how long a machine that is online again can be missed when
	// its event gets lost.
	recheck = 30 * 1000
)

// Step decides what an event means for a rollout. It is pure: state is not
// modified, and the same arguments give the same result. A verb that Check
// refuses changes nothing. What now says is noted, and decides whether a window
// is open or the fleet frozen: a wall clock that is set moves no deadline (H20).
//
// A report costs the same whatever the size of the rollout: machines that a
// freed slot lets go are offered by the tick that WakeAt asks for. The caller
// ticks when WakeAt is not in the future, best once after it has applied all
// reports at hand; a tick never asks for another one at the same moment.
func Step(state State, ev Event, w World, now int64) Result {
	st := &step{
		state: state, world: w, now: now, run: w.Run,
		rollout: state.Rollout, batches: slices.Clone(state.Batches),
		changed: map[fleet.MachineID]fleet.Assignment{}, wake: map[fleet.MachineID]bool{},
		begun: map[string]map[fleet.MachineID]bool{},
	}
	switch {
	case ev.Report != nil:
		st.report(*ev.Report)
	case ev.Gate != nil:
		st.gateResult(*ev.Gate)
	case ev.Changed != "":
		st.machineChanged(ev.Changed)
	case ev.Command != nil:
		if Check(state, *ev.Command) != nil {
			return Result{}
		}
		st.command(*ev.Command)
		st.tick()
	case len(ev.Superseded) > 0:
		st.supersede(ev.Superseded, ev.By)
		st.tick()
	default:
		st.tick()
	}
	return st.result()
}

// step is one call of Step: state is only read, what changes is beside it.
type step struct {
	state State
	world World
	now   int64 // wall clock, for records, windows and freezes
	run   int64 // running time, for what is waited for

	rollout fleet.Rollout
	batches []fleet.Batch
	changed map[fleet.MachineID]fleet.Assignment
	index   *index
	// requeued is set once a machine became pending in this step.
	requeued bool
	// recheckAt is the running time at which to look at pending machines again that are not there now.
	recheckAt int64
	// hold is why nothing may be offered now; looked at by each tick.
	hold *hold
	// begun are the machines that this step lets begin, by budget; overBudget is why
	// one was held back by its budget at the latest look.
	begun      map[string]map[fleet.MachineID]bool
	overBudget string
	// waitsForGroup is set when a batch may not open because of what goes before it.
	waitsForGroup bool

	audit      []fleet.AuditEvent
	wake       map[fleet.MachineID]bool
	endClaims  []fleet.MachineID
	probes     []Probe
	lastFailed *fleet.Assignment // the machine that failed last in this step
}

func (st *step) result() Result {
	res := Result{Audit: st.audit, Probes: st.probes}
	if rolloutChanged(st.state.Rollout, st.rollout) {
		r := st.rollout
		res.Rollout = &r
	}
	for i, b := range st.batches {
		if !sameBatch(b, st.state.Batches[i]) {
			res.Batches = append(res.Batches, b)
		}
	}
	res.Assignments = slices.SortedFunc(maps.Values(st.changed), func(a, b fleet.Assignment) int {
		return cmp.Compare(a.Machine, b.Machine)
	})
	res.Wake = slices.Sorted(maps.Keys(st.wake))
	slices.Sort(st.endClaims)
	res.EndClaims = st.endClaims
	return res
}

// rolloutChanged compares what the engine changes; the spec is frozen, the
// version is the store's.
func rolloutChanged(a, b fleet.Rollout) bool {
	return a.State != b.State || a.Why != b.Why || a.Batch != b.Batch || a.StartedAt != b.StartedAt ||
		a.EndedAt != b.EndedAt || a.ProgressAt != b.ProgressAt || a.ProgressRun != b.ProgressRun || a.Acknowledged != b.Acknowledged || a.Approved != b.Approved || a.WakeAt != b.WakeAt
}

// sameBatch compares what the engine changes.
func sameBatch(a, b fleet.Batch) bool {
	return a.State == b.State && a.Why == b.Why && a.Counts == b.Counts && a.OpenedAt == b.OpenedAt && a.OpenedRun == b.OpenedRun && a.SoakUntil == b.SoakUntil &&
		a.EndedAt == b.EndedAt && a.Approved == b.Approved && a.ApprovedBy == b.ApprovedBy && a.Acknowledged == b.Acknowledged && maps.Equal(a.AcknowledgedBy, b.AcknowledgedBy) &&
		slices.Equal(a.Gates, b.Gates)
}

func (st *step) spec() fleet.RolloutSpec { return st.rollout.Spec }

func (st *step) assignment(id fleet.MachineID) (fleet.Assignment, bool) {
	if a, ok := st.changed[id]; ok {
		return a, true
	}
	a, ok := st.state.Assignments[id]
	return a, ok
}

// put keeps an assignment's new row and its batch's counts.
func (st *step) put(a fleet.Assignment) {
	old, _ := st.assignment(a.Machine)
	if old.State != a.State {
		c := &st.batches[a.Batch].Counts
		c.Add(old.State, -1)
		c.Add(a.State, 1)
		st.requeued = st.requeued || a.State == fleet.AssignPending
	}
	st.changed[a.Machine] = a
}

// end puts an assignment into a final state.
func (st *step) end(a fleet.Assignment, s fleet.AssignmentState, reason fleet.Reason, message string) {
	if a.State.InFlight() || a.State.RollingBack() {
		st.wake[a.Machine] = true
	}
	a.State, a.Reason, a.Message, a.Why = s, reason, message, ""
	a.Deadline, a.EndedAt = 0, st.now
	st.put(a)
	if s.Failure() {
		st.lastFailed = &a
	}
	if st.rollout.State.Final() && s != fleet.AssignSuperseded {
		st.endClaims = append(st.endClaims, a.Machine)
	}
}

// each calls f for the machines of the batches up to and with last.
func (st *step) each(last int, f func(fleet.Assignment)) {
	for i := range last + 1 {
		for _, id := range st.members(i) {
			a, _ := st.assignment(id)
			f(a)
		}
	}
}

// total adds up the counts of all batches.
func (st *step) total() fleet.Counts {
	var t fleet.Counts
	for _, b := range st.batches {
		t.Pending += b.Counts.Pending
		t.InFlight += b.Counts.InFlight
		t.Healthy += b.Counts.Healthy
		t.Failed += b.Counts.Failed
		t.RollingBack += b.Counts.RollingBack
		t.Skipped += b.Counts.Skipped
	}
	return t
}

// unfinished counts the machines that have not ended.
func unfinished(c fleet.Counts) int { return c.Pending + c.InFlight + c.RollingBack }

func (st *step) log(actor, action string, detail map[string]string) {
	st.audit = append(st.audit, fleet.AuditEvent{
		At: st.now, Actor: actor, Action: action, Subject: "rollout:" + string(st.rollout.ID), Detail: detail,
	})
}

func (st *step) logBatch(action string, i int, why string) {
	d := map[string]string{"batch": strconv.Itoa(i + 1)}
	if why != "" {
		d["why"] = why
	}
	st.log(EngineActor, action, d)
}

// wakeBy asks for a tick at t, in running time, or before.
func (st *step) wakeBy(t int64) {
	if st.rollout.WakeAt == 0 || t < st.rollout.WakeAt {
		st.rollout.WakeAt = t
	}
}

// wakeIfDue asks for a tick after a machine's state changed, if there is something
// for it to do.
func (st *step) wakeIfDue() {
	if st.rollout.State.Final() {
		return
	}
	b, t := st.batches[st.rollout.Batch], st.total()
	switch {
	case b.Counts.InFlight+b.Counts.RollingBack == 0, // done, or only offline ones are left
		b.State == fleet.BatchOpen && st.drained(&b),
		st.rollout.State == fleet.RolloutReverting && t.RollingBack == 0:
		st.wakeBy(st.run)
	case len(st.spec().FailureLimits) > 0 && t.Failed > 0:
		st.wakeBy(st.run) // the sample may be large enough
	case st.rollout.State == fleet.RolloutRunning && (st.spec().MaxParallel > 0 || st.world.Budgets != nil) && t.Pending > 0:
		st.wakeBy(st.run) // there may be a slot
	}
}

// date is how messages name a moment of the wall clock.
func date(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") }

// span is how messages name a duration.
func span(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }
