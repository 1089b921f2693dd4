// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// tick looks at everything that time, or another event, may have made due, and
// says when to look again.
func (st *step) tick() {
	if st.rollout.State == fleet.RolloutScheduled {
		st.start()
	}
	st.holdBack()
	for _, a := range st.atWork() {
		st.expire(a)
	}
	if st.rollout.State == fleet.RolloutRunning {
		st.proceed()
	}
	if st.rollout.State == fleet.RolloutReverting {
		st.endReverting()
	}
	st.rollout.WakeAt = st.nextWake()
}

// proceed carries a running rollout as far as it can go now.
func (st *step) proceed() {
	for {
		for _, a := range st.readmittable() {
			st.readmit(a)
		}
		next := st.queue()
		if st.overBudget != "" && st.total().InFlight == 0 {
			st.rollout.ProgressRun = st.run // the progress deadline counts from when it may go on
		}
		st.judge()
		st.judgeProgress()
		if st.rollout.State != fleet.RolloutRunning {
			return
		}
		for _, a := range next {
			st.offer(a)
		}
		if !st.advance() {
			return
		}
	}
}

// open lets a batch begin.
func (st *step) open(i int) {
	b := &st.batches[i]
	b.State, b.Why, b.OpenedAt, b.OpenedRun = fleet.BatchOpen, "", st.now, st.run
	st.rollout.Batch = i
	st.progressed()
	st.logBatch(fleet.ActionBatchOpen, i, "")
}

// expire ends what ran out of time, or cannot go on because the machine left
// (H10).
func (st *step) expire(a fleet.Assignment) {
	if !a.State.InFlight() && !a.State.RollingBack() {
		return
	}
	f, known := st.world.Machine(a.Machine)
	begun := a.State != fleet.AssignOffered && a.State != fleet.AssignFetching
	late := st.run >= st.due(a)
	switch {
	case gone(f, known):
		st.end(a, fleet.AssignSkipped, fleet.ReasonLifecycle, "the machine was "+lifecycle(f, known))
	case f.Lifecycle != fleet.Active && (!begun || late):
		st.end(a, fleet.AssignSkipped, fleet.ReasonLifecycle, "its lifecycle became "+lifecycle(f, known))
	case !late:
	case a.State == fleet.AssignReverting:
		st.end(a, fleet.AssignRevertFailed, fleet.ReasonRevertDeadline, "it did not report within "+span(st.spec().HealthyDeadlineMs)+" that the previous system runs")
	case a.State == fleet.AssignRollingBack:
		st.end(a, fleet.AssignRollbackFailed, fleet.ReasonRollbackDeadline, "it did not report within "+span(st.spec().HealthyDeadlineMs)+" of the offer that the previous system runs")
	default:
		message := fmt.Sprintf("not healthy within %s of the offer; last: %s", span(st.spec().HealthyDeadlineMs), a.State)
		if a.Why != "" {
			message += ", " + a.Why
		}
		st.end(a, fleet.AssignFailed, fleet.ReasonHealthyDeadline, message)
	}
}

// progressed notes that the open batch made progress.
func (st *step) progressed() { st.rollout.ProgressAt, st.rollout.ProgressRun = st.now, st.run }

// progressDue is when the progress deadline counts. Like an assignment's, it
// leaves machines time to report after a start.
func (st *step) progressDue() int64 {
	due := st.rollout.ProgressRun + st.spec().ProgressDeadlineMs
	if st.rollout.ProgressRun < st.world.Since {
		return max(due, st.world.Since+reportGrace)
	}
	return due
}

func (st *step) due(a fleet.Assignment) int64 { return dueOf(a, st.world) }

// gone reports whether a machine can never take part again.
func gone(f Facts, known bool) bool { return !known || f.Lifecycle == fleet.Decommissioned }

func lifecycle(f Facts, known bool) string {
	if !known {
		return "deleted"
	}
	return string(f.Lifecycle)
}

// queue returns the pending machines of opened batches that there are slots
// for, in order. On the way it applies the policies to those that are not
// there. A machine that vanished after it was offered keeps its slot until its
// deadline: it may be the release that cut it off.
func (st *step) queue() []fleet.Assignment {
	free := st.rollout.Machines
	if n := st.spec().MaxParallel; n > 0 {
		free = n - st.total().InFlight
	}
	st.recheckAt, st.overBudget = 0, ""
	if st.hold != nil {
		return nil
	}
	var next []fleet.Assignment
	for i := range st.rollout.Batch + 1 {
		if st.batches[i].Counts.Pending == 0 {
			continue
		}
		for _, id := range st.waiting(i) {
			if len(next) >= free {
				return next
			}
			if a, _ := st.assignment(id); a.State == fleet.AssignPending && st.admit(a) && st.allows(id) {
				next = append(next, a)
			}
		}
	}
	return next
}

// admit reports whether a pending machine of an opened batch can be offered
// the release now. One that cannot is left out for its lifecycle (H10), or
// treated by policy if it is offline (H12).
func (st *step) admit(a fleet.Assignment) bool {
	f, known := st.world.Machine(a.Machine)
	policy := st.spec().Offline
	switch {
	case !known || f.Lifecycle != fleet.Active:
		st.end(a, fleet.AssignSkipped, fleet.ReasonLifecycle, "its lifecycle is "+lifecycle(f, known))
	case f.Online:
		return true
	case policy == fleet.OfflineWait || st.run < st.offlineDeadline(f):
		at := st.run + recheck
		if p := st.offlineDeadline(f); policy != fleet.OfflineWait {
			at = min(at, p)
		}
		if st.recheckAt == 0 || at < st.recheckAt {
			st.recheckAt = at
		}
	case policy == fleet.OfflineSkip:
		st.end(a, fleet.AssignSkipped, fleet.ReasonOffline, "offline "+sinceContact(f)+"; it catches up when it is online again")
	default:
		st.end(a, fleet.AssignFailed, fleet.ReasonOffline, "offline "+sinceContact(f))
	}
	return false
}

// readmit lets a machine that was left out for its lifecycle, or for being
// offline, take part again when that is over.
func (st *step) readmit(a fleet.Assignment) {
	f, known := st.world.Machine(a.Machine)
	if !readmittable(a) || !known || f.Lifecycle != fleet.Active || !f.Online {
		return
	}
	a.State, a.Reason, a.Message, a.EndedAt = fleet.AssignPending, "", "", 0
	a.OfferedAt, a.OfferedRun = 0, 0
	st.put(a)
}

// offlineDeadline is until when an offline machine is waited for, whatever the
// policy. After a start all machines get the time to reconnect.
func (st *step) offlineDeadline(f Facts) int64 { return offlineDeadline(f, st.spec(), st.world) }

func offlineDeadline(f Facts, spec fleet.RolloutSpec, w World) int64 {
	return max(f.SeenRun+spec.OfflineAfterMs, w.Since+max(spec.OfflineAfterMs, reportGrace))
}

func sinceContact(f Facts) string {
	if f.LastContact == 0 {
		return "and never seen"
	}
	return "since " + date(f.LastContact)
}

// offer makes a new attempt of a machine.
func (st *step) offer(a fleet.Assignment) {
	if !a.EverOffered {
		f, _ := st.world.Machine(a.Machine)
		a.PreviousDigest, a.PreviousPath = f.RunsRelease, f.Running // once, and never again (H06)
	}
	a.State, a.Attempt, a.EverOffered = fleet.AssignOffered, a.Attempt+1, true
	a.OfferedAt, a.OfferedRun, a.Deadline = st.now, st.run, st.run+st.spec().HealthyDeadlineMs
	a.Outcome, a.Reason, a.Message, a.Why, a.HealthyAt, a.HealthyRun, a.EndedAt = "", "", "", "", 0, 0, 0
	a.Checks = []fleet.HealthCheckResult{}
	st.put(a)
	st.wake[a.Machine] = true
}

// advance moves the batch at work on, and reports whether the next one opened.
func (st *step) advance() bool {
	i := st.rollout.Batch
	b := &st.batches[i]
	if b.State == fleet.BatchOpen && st.drained(b) {
		b.State, b.SoakUntil, b.Why = fleet.BatchSoaking, st.run+st.spec().SoakMs, ""
	}
	if b.State == fleet.BatchSoaking && st.run >= b.SoakUntil {
		st.beginGates(b)
	}
	if b.State == fleet.BatchGated {
		if b.Why = st.gate(b); b.Why == "" {
			b.State, b.EndedAt = fleet.BatchPassed, st.now
			st.logBatch(fleet.ActionBatchPass, i, "")
		}
	}
	switch {
	case b.State != fleet.BatchPassed:
		if b.State == fleet.BatchOpen {
			b.Why = st.whyOpen(b)
		}
		st.rollout.Why = b.Why
		return false
	case i+1 < len(st.batches):
		if !st.mayOpen(i + 1) {
			return false
		}
		st.rollout.Why = ""
		st.open(i + 1)
		return true
	case unfinished(st.total()) == 0:
		st.complete()
	default:
		st.rollout.Why = "all batches passed; machines that were left behind are not done"
	}
	return false
}

// drained reports whether the soak can begin: all machines are done, or the
// straggler deadline is over and there is a healthy machine to watch.
func (st *step) drained(b *fleet.Batch) bool {
	if unfinished(b.Counts) == 0 {
		return true
	}
	s := st.spec().StragglerMs
	return s > 0 && st.run >= b.OpenedRun+s && b.Counts.Healthy > 0
}

// absent names the machines that an open batch waits for when none is at work:
// those that are offline (H12).
func (st *step) absent(b *fleet.Batch) string {
	if b.Counts.InFlight+b.Counts.RollingBack > 0 {
		return ""
	}
	why := fmt.Sprintf("waits for %d offline:", b.Counts.Pending)
	named := 0
	for _, id := range st.waiting(b.Index) {
		if a, _ := st.assignment(id); a.State == fleet.AssignPending {
			if named++; named > 3 {
				return why + " and others"
			}
			why += " " + string(id)
		}
	}
	return why
}

// gate says why a soaked batch does not pass yet, "" if it does. The last
// batch has nothing after it to hold up.
func (st *step) gate(b *fleet.Batch) string {
	if why := st.gates(b); why != "" {
		return why
	}
	switch {
	case b.Approved || b.Index+1 == len(st.batches):
		return ""
	case st.spec().ApproveByOther:
		return fmt.Sprintf("batch %d waits for the approval of another owner than %s before batch %d opens", b.Index+1, st.rollout.CreatedBy, b.Index+2)
	case st.spec().Approve:
		return fmt.Sprintf("batch %d waits for approval before batch %d opens", b.Index+1, b.Index+2)
	case b.Counts.Healthy == 0 && (b.Acknowledged == 0 || b.Acknowledged < b.Counts.Failed) && !st.skippedByHand(b.Index):
		return fmt.Sprintf("no machine of batch %d became healthy, so nothing is known of the release; approve to go on all the same", b.Index+1)
	}
	return ""
}

func (st *step) skippedByHand(batch int) bool {
	for _, id := range st.members(batch) {
		if a, _ := st.assignment(id); a.State == fleet.AssignSkipped && a.Reason == fleet.ReasonSkipped {
			return true
		}
	}
	return false
}

func (st *step) complete() {
	t := st.total()
	if t.Healthy == 0 {
		st.finish(fleet.RolloutFailed, fleet.ActionRolloutFail, EngineActor, "no machine became healthy")
		return
	}
	why := strconv.Itoa(t.Healthy) + " healthy"
	if t.Failed > 0 {
		why += fmt.Sprintf(", %d failed", t.Failed)
	}
	if t.Skipped > 0 {
		why += fmt.Sprintf(", %d skipped", t.Skipped)
	}
	if n := st.skippedOffline(); n > 0 {
		why += fmt.Sprintf("; %d to catch up: nixfleet machine list --behind", n)
	}
	st.finish(fleet.RolloutCompleted, fleet.ActionRolloutComplete, EngineActor, why)
}

// skippedOffline counts the machines that catch up once the rollout has completed.
func (st *step) skippedOffline() int {
	n := 0
	for _, a := range st.readmittable() {
		if a.Reason == fleet.ReasonOffline {
			n++
		}
	}
	return n
}

// finish ends the rollout. Machines that were not offered stay as they are,
// and so do those that switched; one in the middle of a switch ends by itself
// and its claim ends then.
func (st *step) finish(state fleet.RolloutState, action, actor, why string) {
	st.each(len(st.batches)-1, func(a fleet.Assignment) {
		switch a.State {
		case fleet.AssignPending, fleet.AssignHeld, fleet.AssignOffered, fleet.AssignFetching:
			st.end(a, fleet.AssignSkipped, fleet.ReasonCancelled, "the rollout ended first")
		default:
		}
		if a, _ = st.assignment(a.Machine); a.State.Final() && a.Reason != fleet.ReasonSuperseded {
			st.endClaims = append(st.endClaims, a.Machine)
		}
	})
	for i := range st.batches {
		if b := &st.batches[i]; b.State != fleet.BatchWaiting && b.State != fleet.BatchPassed && b.State != fleet.BatchFailed {
			b.State, b.Why, b.EndedAt = fleet.BatchFailed, "the rollout ended first: "+string(state), st.now
		}
	}
	st.rollout.State, st.rollout.Why, st.rollout.EndedAt = state, why, st.now
	st.log(actor, action, map[string]string{"why": why})
}

// nextWake is the earliest running time after now at which a tick can change
// something, 0 for never.
func (st *step) nextWake() int64 {
	next := int64(0)
	at := func(t int64) {
		if t = max(t, st.run+1); next == 0 || t < next {
			next = t
		}
	}
	for _, a := range st.atWork() {
		at(st.due(a))
	}
	if st.waitsForGroup && !st.rollout.State.Final() {
		at(st.run + budgetRecheck)
	}
	if st.rollout.State != fleet.RolloutRunning {
		return next
	}
	if st.recheckAt != 0 {
		at(st.recheckAt)
	}
	if st.overBudget != "" {
		at(st.run + budgetRecheck)
	}
	if t := st.holdChanges(); t != 0 {
		at(t)
	}
	if len(st.readmittable()) > 0 {
		at(st.run + recheck)
	}
	b := st.batches[st.rollout.Batch]
	switch b.State {
	case fleet.BatchSoaking:
		at(b.SoakUntil)
	case fleet.BatchGated:
		for _, t := range gateTimes(b, st.world) {
			at(t)
		}
	case fleet.BatchOpen:
		if t := b.OpenedRun + st.spec().StragglerMs; st.spec().StragglerMs > 0 && t > st.run {
			at(t)
		}
		if st.spec().ProgressDeadlineMs > 0 {
			at(st.progressDue())
		}
	default:
	}
	return next
}

// machineChanged looks at one machine whose lifecycle changed or that is online
// again; what follows for others is left to the tick.
func (st *step) machineChanged(id fleet.MachineID) {
	a, ok := st.assignment(id)
	if !ok || a.Batch > st.rollout.Batch || st.rollout.State == fleet.RolloutScheduled {
		return
	}
	if a.State == fleet.AssignAwaitingReboot {
		st.deferReboots()
		a, _ = st.assignment(id)
	}
	st.expire(a)
	if st.rollout.State == fleet.RolloutRunning {
		a, _ = st.assignment(id)
		st.readmit(a)
		if a.State == fleet.AssignPending {
			st.admit(a)
		}
	}
	st.judge()
	if a, _ = st.assignment(id); a.State == fleet.AssignPending && st.rollout.State == fleet.RolloutRunning {
		st.wakeBy(st.run)
	}
	st.wakeIfDue()
}

// supersede ends this rollout's part in machines that another one took over.
// Healthy ones keep their state, and cannot be reverted any more.
func (st *step) supersede(ids []fleet.MachineID, by fleet.RolloutID) {
	taken, lost := map[fleet.MachineID]bool{}, []fleet.MachineID{}
	message := fmt.Sprintf("rollout %s took the machine over", by)
	for _, id := range ids {
		a, ok := st.assignment(id)
		if !ok || a.State == fleet.AssignSuperseded || taken[id] {
			continue
		}
		taken[id], lost = !a.State.Final(), append(lost, id)
		switch {
		case a.State == fleet.AssignHealthy:
			a.Reason, a.Message = fleet.ReasonSuperseded, message
			st.put(a)
		case a.State.Failure(): // its outcome stays on record
			st.acknowledgeOne(a.Batch)
			st.end(a, fleet.AssignSuperseded, fleet.ReasonSuperseded, strings.TrimPrefix(a.Message+"; "+message, "; "))
		default:
			st.end(a, fleet.AssignSuperseded, fleet.ReasonSuperseded, message)
		}
	}
	maps.DeleteFunc(taken, func(_ fleet.MachineID, live bool) bool { return !live })
	switch {
	case len(taken) > 0 && !st.rollout.State.Final() && unfinished(st.total()) == 0:
		st.finish(fleet.RolloutSuperseded, fleet.ActionRolloutSupersede, EngineActor, fmt.Sprintf("rollout %s took its machines over", by))
	case len(lost) > 0:
		st.log(EngineActor, fleet.ActionRolloutSupersede, map[string]string{"by": string(by), "machines": list(lost)})
	}
}

// acknowledgeOne keeps the count of failures that no longer count in step when
// one of the batch's failures goes away.
func (st *step) acknowledgeOne(batch int) {
	acknowledgeLess(&st.batches[batch])
	if b := &st.batches[batch]; b.Acknowledged > 0 {
		b.Acknowledged--
		st.rollout.Acknowledged = max(0, st.rollout.Acknowledged-1)
	}
}
