// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"reflect"
	"strings"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// history remembers, beside the engine and by what happened alone, what the engine
// may do next. It is for a rollout as long as one sim has it.
type history struct {
	// offered is the running time of each machine's last offer, and again which
	// machines may be offered the release once more.
	offered map[fleet.MachineID]int64
	again   map[fleet.MachineID]bool
	// excused are failures that an operator accepted, or ordered.
	excused map[fleet.MachineID]bool
	// rebooting machines wait for a reboot: whether they might since they do.
	rebooting map[fleet.MachineID]bool
	before    int64 // wall clock at the step before
	// calm is the running time at which a batch was last seen at work.
	calm map[int]int64
	// approvedBy are who approved a batch since it was last at work; first is for
	// the first batch.
	approvedBy map[int]string
	first      string
	resumed    map[int]bool // after the last failure of the batch
	skipped    map[int]bool
}

func newHistory() *history {
	return &history{
		offered: map[fleet.MachineID]int64{}, again: map[fleet.MachineID]bool{}, excused: map[fleet.MachineID]bool{}, rebooting: map[fleet.MachineID]bool{},
		calm: map[int]int64{}, approvedBy: map[int]string{}, resumed: map[int]bool{}, skipped: map[int]bool{},
	}
}

// check holds a step against what happened before it.
func (h *history) check(m *sim, before rollout.State, ev rollout.Event, res rollout.Result) {
	m.t.Helper()
	if c := ev.Command; c != nil && rollout.Check(before, *c) == nil {
		h.commanded(before, *c)
	}
	h.rebootable(m, before)
	h.checkRollout(m, before, ev)
	for _, a := range res.Assignments {
		h.checkMachine(m, before.Assignments[a.Machine], a)
	}
	h.checkFailures(m)
	for i, b := range m.state.Batches {
		h.checkBatch(m, before.Batches[i], b)
	}
	h.checkRepeat(m, ev)
}

// commanded notes what an operator's command allows.
func (h *history) commanded(before rollout.State, c rollout.Command) {
	r := before.Rollout
	switch c.Verb {
	case api.VerbApprove:
		if r.StartedAt == 0 {
			h.first = c.Actor
		} else {
			h.approvedBy[r.Batch] = c.Actor
		}
	case api.VerbResume:
		for i := range before.Batches {
			h.resumed[i] = true
		}
		for id, a := range before.Assignments {
			h.excused[id] = h.excused[id] || a.State.Failure()
		}
	case api.VerbRetry, api.VerbSkip, api.VerbRevert:
		for id, a := range before.Assignments {
			if len(c.Machines) > 0 && c.Machines[0] != id {
				continue
			}
			h.again[id] = h.again[id] || c.Verb == api.VerbRetry
			if c.Verb == api.VerbSkip {
				h.skipped[a.Batch] = true
			}
		}
	case api.VerbPause, api.VerbCancel:
	}
}

// checkRollout holds why a rollout changed its state.
func (h *history) checkRollout(m *sim, before rollout.State, ev rollout.Event) {
	m.t.Helper()
	was, is := before.Rollout.State, m.state.Rollout.State
	ordered := func(v api.Verb) bool { return ev.Command != nil && ev.Command.Verb == v }
	if was == is {
		return
	}
	good := true
	switch is {
	case fleet.RolloutRunning:
		good = was == fleet.RolloutScheduled || was == fleet.RolloutPaused && ordered(api.VerbResume)
	case fleet.RolloutScheduled:
		good = was == fleet.RolloutPaused && ordered(api.VerbResume) && before.Rollout.StartedAt == 0
	case fleet.RolloutCancelled:
		good = ordered(api.VerbCancel)
	case fleet.RolloutSuperseded:
		good = len(ev.Superseded) > 0
	case fleet.RolloutCompleted:
		good = was == fleet.RolloutRunning || ordered(api.VerbResume)
		for _, b := range m.state.Batches {
			good = good && b.State == fleet.BatchPassed && b.Counts.Pending+b.Counts.InFlight+b.Counts.RollingBack == 0
		}
	case fleet.RolloutReverting:
		good = ordered(api.VerbRevert) || m.state.Rollout.Spec.OnFailure != fleet.Pause
	case fleet.RolloutPaused, fleet.RolloutFailed:
	}
	if !good {
		m.t.Fatalf("the rollout was %s and is %s by %+v", was, is, ev)
	}
}

// checkMachine holds what became of a machine in a step.
func (h *history) checkMachine(m *sim, was, is fleet.Assignment) {
	m.t.Helper()
	id, run := is.Machine, m.run()
	if is.Attempt != was.Attempt {
		if was.Attempt > 0 && !h.again[id] {
			m.t.Fatalf("%s is offered the release once more, and nobody had it retried: it was %s", id, was) // H03
		}
		h.offered[id], h.again[id] = run, false
		delete(h.excused, id)
	}
	// One whose offer was withdrawn, and one that was left out, may be offered it later.
	left := is.State == fleet.AssignSkipped && (is.Reason == fleet.ReasonOffline || is.Reason == fleet.ReasonLifecycle)
	h.again[id] = h.again[id] || left || is.State == fleet.AssignPending && was.State.InFlight()
	if is.State == fleet.AssignReverted {
		h.excused[id] = true
	}
	if !is.State.Failure() && !is.State.RollingBack() {
		delete(h.excused, id)
	}
	if was.State.Failure() && is.State == fleet.AssignHealthy && is.Attempt == was.Attempt {
		m.t.Fatalf("%s is healthy, and attempt %d had failed: %s", id, is.Attempt, was) // H02
	}
	if is.State == was.State {
		return
	}
	h.resumed[is.Batch] = h.resumed[is.Batch] && !is.State.Failure()
	f, known := m.world().Machine(id)
	ran, spec := run-h.offered[id], m.state.Rollout.Spec
	switch {
	case is.Reason == fleet.ReasonHealthyDeadline && is.State.Failure() && ran < spec.HealthyDeadlineMs:
		m.t.Fatalf("%s ran out of time %d ms after its offer: %s", id, ran, is) // H20
	case was.State == fleet.AssignAwaitingReboot && is.Reason == fleet.ReasonHealthyDeadline && is.State.Failure() && !h.rebooting[id]:
		m.t.Fatalf("%s ran out of time before it might reboot: %s", id, is)
	case is.Reason == fleet.ReasonOffline && is.State.Final() && (f.Online || spec.Offline == fleet.OfflineWait || run-max(m.since, f.SeenRun) < spec.OfflineAfterMs):
		m.t.Fatalf("%s is %s for being offline, which is to %s after %d ms: %+v", id, is, spec.Offline, spec.OfflineAfterMs, f) // H12
	case is.Reason == fleet.ReasonLifecycle && is.State.Final() && known && f.Lifecycle == fleet.Active:
		m.t.Fatalf("%s is %s, and its lifecycle is %s", id, is, f.Lifecycle) // H10
	case is.State == fleet.AssignHealthy && is.Outcome != fleet.OutcomeStagedReboot && ran < spec.MinHealthyMs-spec.MinHealthyMs/10:
		m.t.Fatalf("%s is healthy %d ms after its offer", id, ran) // H05
	case is.State == fleet.AssignReverting && (is.PreviousPath == is.StorePath || !is.EverOffered):
		m.t.Fatalf("%s is reverted from what it ran before: %s", id, is) // H13
	}
}

// checkFailures holds that a rollout does not run with more failures than are
// tolerated (H04).
func (h *history) checkFailures(m *sim) {
	m.t.Helper()
	r := m.state.Rollout
	if r.State != fleet.RolloutRunning || r.WakeAt != 0 && r.WakeAt <= m.run() {
		return // a tick is due
	}
	failed, total := map[int]int{}, 0
	for id, a := range m.state.Assignments {
		if a.State.Failure() && !h.excused[id] {
			failed[a.Batch]++
			total++
		}
	}
	for i, b := range m.state.Batches {
		if limit := r.Spec.MaxFailures.Tolerates(b.Size); i <= r.Batch && failed[i] > limit {
			m.t.Fatalf("the rollout runs, %d of batch %d failed, and %d are tolerated", failed[i], i, limit)
		}
	}
	if t := r.Spec.MaxFailuresTotal; t != nil && total > t.Tolerates(r.Machines) {
		m.t.Fatalf("the rollout runs, %d failed in all, and %d are tolerated", total, t.Tolerates(r.Machines))
	}
}

// checkBatch holds why a batch opened, or passed.
func (h *history) checkBatch(m *sim, was, is fleet.Batch) {
	m.t.Helper()
	i, run, spec := is.Index, m.run(), m.state.Rollout.Spec
	other := func(by string) bool {
		return by != "" && !(spec.ApproveByOther && strings.EqualFold(by, m.state.Rollout.CreatedBy))
	}
	if i == 0 && was.State == fleet.BatchWaiting && is.State != was.State && (spec.Approve || spec.ApproveByOther) && !other(h.first) {
		m.t.Fatalf("the rollout has begun, approved by %q", h.first)
	}
	if was.State == fleet.BatchWaiting || was.State == fleet.BatchOpen || was.State == fleet.BatchFailed || was.State == fleet.BatchReverting {
		h.calm[i] = run
	}
	if is.State == fleet.BatchOpen {
		delete(h.approvedBy, i)
	}
	// One that was left out and takes part again later does not hold up its batch.
	busy := is.Counts.Pending + is.Counts.InFlight + is.Counts.RollingBack
	late := spec.StragglerMs > 0 && run >= is.OpenedRun+spec.StragglerMs && is.Counts.Healthy > 0
	done := is.State == fleet.BatchSoaking || is.State == fleet.BatchGated || is.State == fleet.BatchPassed
	if was.State == fleet.BatchOpen && done && busy > 0 && !late {
		m.t.Fatalf("batch %d is %s with %d machines at work or waiting", i, is.State, busy)
	}
	if is.State != fleet.BatchPassed || was.State == fleet.BatchPassed {
		return
	}
	last := i+1 == len(m.state.Batches)
	switch {
	case run-h.calm[i] < spec.SoakMs:
		m.t.Fatalf("batch %d passed %d ms after it was done, and is to be watched for %d", i, run-h.calm[i], spec.SoakMs)
	case !last && (spec.Approve || spec.ApproveByOther) && !other(h.approvedBy[i]):
		m.t.Fatalf("batch %d passed, approved by %q", i, h.approvedBy[i])
	case !last && is.Counts.Healthy == 0 && h.approvedBy[i] == "" && !h.resumed[i] && !h.skipped[i]:
		m.t.Fatalf("batch %d passed, no machine of it is healthy, and nobody said so", i)
	}
}

// checkRepeat holds that what comes again changes nothing (H09).
func (h *history) checkRepeat(m *sim, ev rollout.Event) {
	m.t.Helper()
	if ev.Report == nil && ev.Gate == nil {
		return
	}
	if r := ev.Report; r != nil && m.a(r.Machine).State == fleet.AssignReverting {
		return // it would be taken for the answer to the order: the store knows it by its id
	}
	res := rollout.Step(clone(m.state), ev, m.world(), m.now)
	for _, a := range res.Assignments {
		if !reflect.DeepEqual(a, m.state.Assignments[a.Machine]) {
			m.t.Fatalf("a report that comes again makes\n%+v of\n%+v", a, m.state.Assignments[a.Machine])
		}
	}
	if len(res.Batches) > 0 || len(res.Audit) > 0 || len(res.EndClaims) > 0 || res.Rollout != nil && res.Rollout.State != m.state.Rollout.State {
		m.t.Fatalf("an event that comes again does %+v", res)
	}
}

// drawMore draws what drawSpec leaves out.
func drawMore(t *rapid.T, s *fleet.RolloutSpec) {
	s.OfflineAfterMs = rapid.SampledFrom([]int64{0, minute, 9 * minute}).Draw(t, "offlineAfter")
	s.MinHealthyMs = rapid.SampledFrom([]int64{1, 1, 20 * second}).Draw(t, "minHealthy")
	s.ApproveByOther = s.Approve && rapid.Bool().Draw(t, "approveByOther")
	if s.Strategy == fleet.AllAtOnce && rapid.IntRange(0, 3).Draw(t, "canary?") == 0 {
		s.Strategy, s.Canaries = fleet.Canary, []string{string(machineID(0))}
	}
}

// converged has some machines run the release before the rollout (H13).
func (d driver) converged() {
	for i := range d.state.Rollout.Machines {
		if id := machineID(i); rapid.IntRange(0, 4).Draw(d.r, "converged?") == 0 {
			f := d.facts[id]
			f.Running = target(id)
			d.facts[id] = f
		}
	}
}

// reverts has an operator revert one machine, which obeys.
func (d driver) reverts(r *rapid.T) {
	c := rollout.Command{Verb: api.VerbRevert, Actor: "key:bob", Machines: []fleet.MachineID{d.atWork()}}
	if rollout.Check(d.state, c) != nil {
		return
	}
	d.step(rollout.Event{Command: &c})
	d.settle()
	if rapid.Bool().Draw(r, "obeys") {
		d.back(c.Machines[0], fleet.ReasonRevertOrdered)
	}
}

// actor draws who gives a command: the rollout's author, by two names, or another.
func actor(r *rapid.T) string {
	return rapid.SampledFrom([]string{"key:bob", "key:bob", "key:alice", "key:Alice"}).Draw(r, "actor")
}
