// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// checkStep holds the rules that no step may break, whatever the event.
func (m *sim) checkStep(before rollout.State, ev rollout.Event, res rollout.Result) {
	m.t.Helper()
	after := m.state
	m.checkCounts(after)
	m.checkBatches(before, after)
	m.checkGates(before)
	m.checkOffers(before, res)
	m.checkBudgets(before, res)
	m.checkGroups(before)
	for _, a := range res.Assignments {
		m.checkAssignment(before, before.Assignments[a.Machine], a, ev)
	}
	r := after.Rollout
	if before.Rollout.State.Final() && (r.State != before.Rollout.State || r.EndedAt != before.Rollout.EndedAt) {
		m.t.Fatalf("a rollout that was %s is %s", before.Rollout.State, r.State)
	}
	if r.State.Final() != (r.EndedAt != 0) || r.State == fleet.RolloutPaused && r.Why == "" {
		m.t.Fatalf("rollout %s ended at %d, why %q", r.State, r.EndedAt, r.Why)
	}
	tick := ev.Report == nil && ev.Command == nil && ev.Superseded == nil && ev.Changed == "" && ev.Gate == nil
	if tick && r.WakeAt != 0 && r.WakeAt <= m.run() {
		m.t.Fatalf("a tick at %d asks for another at %d", m.run(), r.WakeAt)
	}
	m.checkWaiting(after)
}

// checkCounts holds that a batch's counts are those of its machines.
func (m *sim) checkCounts(s rollout.State) {
	m.t.Helper()
	want := make([]fleet.Counts, len(s.Batches))
	size := make([]int, len(s.Batches))
	for _, a := range s.Assignments {
		want[a.Batch].Add(a.State, 1)
		size[a.Batch]++
	}
	total := 0
	for i, b := range s.Batches {
		total += b.Size
		if b.Counts != want[i] || b.Size != size[i] || b.Index != i || b.Size == 0 {
			m.t.Fatalf("batch %d of %d has %+v, its %d machines say %+v", i, b.Size, b.Counts, size[i], want[i])
		}
		if b.Acknowledged < 0 || b.Acknowledged > b.Counts.Failed {
			m.t.Fatalf("batch %d acknowledges %d of %d failures", i, b.Acknowledged, b.Counts.Failed)
		}
	}
	if total != s.Rollout.Machines {
		m.t.Fatalf("batches have %d machines, the rollout %d", total, s.Rollout.Machines)
	}
}

// checkBatches holds that no batch opens before those ahead of it passed.
func (m *sim) checkBatches(before, after rollout.State) {
	m.t.Helper()
	for i, b := range after.Batches {
		if b.Size != before.Batches[i].Size {
			m.t.Fatalf("batch %d had %d machines and has %d", i, before.Batches[i].Size, b.Size)
		}
		if before.Batches[i].State == fleet.BatchPassed && b.State != fleet.BatchPassed {
			m.t.Fatalf("batch %d had passed and is %s", i, b.State)
		}
		if (b.State == fleet.BatchWaiting) != (b.OpenedAt == 0) {
			m.t.Fatalf("batch %d is %s, opened at %d", i, b.State, b.OpenedAt)
		}
		for j := range i {
			if b.State != fleet.BatchWaiting && after.Batches[j].State != fleet.BatchPassed {
				m.t.Fatalf("batch %d is %s while batch %d is %s", i, b.State, j, after.Batches[j].State)
			}
		}
		if b.State == fleet.BatchGated && b.Why == "" {
			m.t.Fatalf("batch %d is gated and does not say why", i)
		}
	}
}

// checkOffers holds that machines are offered the release only while failures
// are within what is tolerated and slots are free, and only those that are
// there to take it.
func (m *sim) checkOffers(before rollout.State, res rollout.Result) {
	m.t.Helper()
	s, r := m.state, m.state.Rollout
	offers := 0
	for _, a := range res.Assignments {
		if a.Attempt == before.Assignments[a.Machine].Attempt {
			continue
		}
		offers++
		if f := m.facts[a.Machine]; !f.Online || f.Lifecycle != fleet.Active {
			m.t.Fatalf("%s was offered the release: %+v", a.Machine, f)
		}
		if a.State != fleet.AssignOffered || s.Batches[a.Batch].State == fleet.BatchWaiting {
			m.t.Fatalf("%s is at attempt %d and %s in a batch that is %s", a.Machine, a.Attempt, a.State, s.Batches[a.Batch].State)
		}
	}
	if offers == 0 {
		return
	}
	m.checkMayBegin(offers)
	m.checkLimits(offers)
	inFlight, failed := 0, 0
	for i, b := range s.Batches {
		inFlight += b.Counts.InFlight
		failed += b.Counts.Failed
		if n := b.Counts.Failed - b.Acknowledged; n > r.Spec.MaxFailures.Tolerates(b.Size) {
			m.t.Fatalf("%d offers with %d failures in batch %d, tolerated are %s", offers, n, i, r.Spec.MaxFailures)
		}
	}
	if r.State != fleet.RolloutRunning {
		m.t.Fatalf("%d offers of a rollout that is %s", offers, r.State)
	}
	if p := r.Spec.MaxParallel; p > 0 && inFlight > p {
		m.t.Fatalf("%d machines at work, at most %d may be", inFlight, p)
	}
	if t := r.Spec.MaxFailuresTotal; t != nil && failed-r.Acknowledged > t.Tolerates(r.Machines) {
		m.t.Fatalf("%d offers with %d failures in all, tolerated are %s", offers, failed-r.Acknowledged, t)
	}
}

// checkAssignment holds what may become of one machine in one step.
func (m *sim) checkAssignment(s rollout.State, old, a fleet.Assignment, ev rollout.Event) {
	m.t.Helper()
	if a.Attempt < old.Attempt || a.Attempt > old.Attempt+1 || old.EverOffered && !a.EverOffered {
		m.t.Fatalf("%s: attempt went from %d to %d", a.Machine, old.Attempt, a.Attempt)
	}
	if old.PreviousPath != "" && (a.PreviousPath != old.PreviousPath || a.PreviousDigest != old.PreviousDigest) {
		m.t.Fatalf("%s: the recorded previous system went from %s to %s", a.Machine, old.PreviousPath, a.PreviousPath)
	}
	if (a.State.InFlight() || a.State.RollingBack()) && a.Deadline == 0 {
		m.t.Fatalf("%s has no deadline", a)
	}
	if a.Batch != old.Batch {
		m.t.Fatalf("%s moved from batch %d to %d", a.Machine, old.Batch, a.Batch)
	}
	if old.Reason == fleet.ReasonSuperseded && a.State.RollingBack() {
		m.t.Fatalf("%s belongs to another rollout and is reverted: %s", a.Machine, a)
	}
	if old.State == fleet.AssignSuperseded && a.State != old.State {
		m.t.Fatalf("%s belongs to another rollout and became %s", a.Machine, a.State)
	}
	if s.Rollout.State.Final() && old.State.Final() && a.State != old.State && a.State != fleet.AssignSuperseded {
		m.t.Fatalf("%s had ended as %s in a rollout that had ended, and is %s", a.Machine, old.State, a.State)
	}
	if a.State == fleet.AssignHealthy && old.State != fleet.AssignHealthy {
		r := ev.Report
		switch {
		case r == nil || r.Machine != a.Machine || !r.Outcome.Success():
			m.t.Fatalf("%s became healthy without a report of success", a.Machine)
		case r.Rollout != old.Rollout || r.Attempt != old.Attempt || r.Digest != old.Digest || r.StorePath != old.StorePath:
			m.t.Fatalf("%s became healthy by a report of something else: %+v", a.Machine, r)
		case r.BootDefault != a.StorePath || r.Running != a.StorePath && r.Outcome != fleet.OutcomeStagedReboot:
			m.t.Fatalf("%s became healthy and does not run the release: %+v", a.Machine, r)
		}
	}
	// H18: what is served follows from the row alone.
	o := rollout.OrdersFor(a, m.state.Rollout, m.run())
	switch {
	case o.Apply != nil && !a.State.InFlight(), o.Revert != nil && a.State != fleet.AssignReverting, o.Apply != nil && o.Revert != nil:
		m.t.Fatalf("%s is served %+v", a, o)
	case o.Apply != nil && (o.Apply.Attempt != a.Attempt || o.Apply.DeadlineMs <= 0):
		m.t.Fatalf("%s is served %+v", a, o.Apply)
	}
}

// checkWaiting holds that whatever has not ended says why, and that a deadline
// is never slept through.
func (m *sim) checkWaiting(s rollout.State) {
	m.t.Helper()
	for _, a := range s.Assignments {
		if o := rollout.OrdersFor(a, s.Rollout, m.run()); o.Prefetch != "" && (a.State != fleet.AssignPending || s.Rollout.State != fleet.RolloutRunning || a.Batch > s.Rollout.Batch+1) {
			m.t.Fatalf("%s may prefetch at batch %d of a rollout that is %s", a, s.Rollout.Batch, s.Rollout.State)
		}
		why := rollout.Why(a, s, m.world(), m.now)
		if a.State.Final() != (why == "") {
			m.t.Fatalf("%s: why %q", a, why)
		}
		if a.Deadline != 0 && s.Rollout.WakeAt == 0 {
			m.t.Fatalf("%s has a deadline at %d and nobody looks", a, a.Deadline)
		}
		if s.Rollout.State.Final() && a.State.Final() && a.Reason != fleet.ReasonSuperseded && !m.released[a.Machine] {
			m.t.Fatalf("%s has ended, the rollout is %s, and the machine is not let go", a, s.Rollout.State)
		}
		if m.released[a.Machine] && !(s.Rollout.State.Final() && a.State.Final()) {
			m.t.Fatalf("%s was let go in a rollout that is %s", a, s.Rollout.State)
		}
	}
	m.checkExplained(s)
}

// checkExplained holds that whatever waits has an answer: why, and until when or
// what to do; and that what it says to do is possible.
func (m *sim) checkExplained(s rollout.State) {
	m.t.Helper()
	lines := map[string]api.Waiting{}
	for _, l := range rollout.Explain(s, m.world(), m.now) {
		lines[fmt.Sprint(l.Batch, l.Machine)] = l
		if l.Why == "" || l.Until == 0 && l.Deadline == 0 && l.Do == "" {
			m.t.Fatalf("nothing says until when, or what to do: %+v\n%+v", l, s.Rollout)
		}
		due := s.Rollout.WakeAt != 0 && s.Rollout.WakeAt <= m.run() // the next look, at once, may end it
		if (l.Until != 0 || l.Deadline != 0) && max(l.Until, l.Deadline) < m.now-minute && l.Do == "" && !due {
			m.t.Fatalf("waits for a moment that is over at %d: %+v", m.now, l)
		}
		words := strings.Fields(l.Do)
		if len(words) < 3 || words[1] != "rollout" {
			continue
		}
		c := rollout.Command{Verb: api.Verb(words[2]), Actor: "key:bob"}
		if len(words) == 6 {
			c.Machines = []fleet.MachineID{fleet.MachineID(words[5])}
		}
		if err := rollout.Check(s, c); err != nil {
			m.t.Fatalf("%+v says to do what is refused: %v", l, err)
		}
	}
	want := func(batch int, id fleet.MachineID) {
		if _, ok := lines[fmt.Sprint(batch, id)]; !ok {
			m.t.Fatalf("nothing explains batch %d, machine %q of a rollout that is %s", batch, id, s.Rollout.State)
		}
	}
	for i, b := range s.Batches {
		if !s.Rollout.State.Final() {
			want(-1, "")
			if b.State != fleet.BatchPassed {
				want(i, "")
			}
		}
	}
	for id, a := range s.Assignments {
		if !a.State.Final() && s.Batches[a.Batch].State != fleet.BatchWaiting {
			want(a.Batch, id)
		}
	}
}
