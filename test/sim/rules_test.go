// SPDX-License-Identifier: MIT

package sim

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// The rules.
const (
	nothingLost    = "what was acknowledged is kept: reports, rollouts, audit entries (H09, A09)"
	oneRollout     = "a machine is in one state, in one batch, and at work for one rollout (H07, H08, H17)"
	endedStays     = "what has ended stays as it ended (H07, H09)"
	batchOpens     = "a batch opens when the one before has passed, approved if it has to be (H15)"
	failuresStop   = "a rollout with more failures than are tolerated does not run (H04)"
	healthyIsTrue  = "a machine is healthy by the success of that attempt only (H01, H02, H05)"
	signedOnly     = "a machine activates only what was signed for it (E01)"
	aboveFloor     = "a machine applies nothing below its floor (E03)"
	ordersOnce     = "an order is carried out once (H03, A02)"
	offeredFirst   = "a machine switches only after its batch has opened and it was offered the release (H18)"
	outcomeIsTrue  = "what a machine reports is what it runs (A03)"
	repeatsAreNull = "a report that comes again changes nothing (H09)"
	auditHolds     = "the audit trail is one chain, which contains every head that was seen (E10)"
	everyoneRests  = "after the trouble every rollout ends or says what it waits for (H12, H20)"
	desiredRuns    = "a healthy machine runs what it should run (H06, H13)"
	oneAnswer      = "a call that is repeated under its key is carried out once (H09)"
	keepsHours     = "no machine is offered a release outside the windows, or while the fleet is frozen (H18)"
	deadlinesRun   = "no attempt runs out of time before its time, whatever the clocks show (H20)"
	plainRefusals  = "no call ends in an internal error"
	stopsAndStarts = "the control plane stops and starts again (H15)"
)

var rules = []string{
	nothingLost, oneRollout, endedStays, batchOpens, failuresStop, healthyIsTrue, signedOnly, aboveFloor, ordersOnce, offeredFirst, outcomeIsTrue,
	repeatsAreNull, auditHolds, everyoneRests, desiredRuns, oneAnswer, keepsHours, deadlinesRun, plainRefusals, stopsAndStarts,
}

// violated notes that a rule does not hold.
func (w *world) violated(rule, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.failures) < 20 {
		w.failures = append(w.failures, fmt.Sprintf("%s %s: %s", time.Since(w.begun).Round(time.Second), rule, fmt.Sprintf(format, args...)))
	}
}

// part is a rollout as the store has it.
type part struct {
	fleet.Rollout
	batches     []fleet.Batch
	assignments []fleet.Assignment
}

// read returns all rollouts, newest first, and who claims which machine.
func (w *world) read() (parts []part, claims map[fleet.MachineID]fleet.RolloutID) {
	ctx := context.Background()
	err := w.plane.store.Read(ctx, func(r store.Reader) error {
		page, err := r.Rollouts(ctx, fleet.RolloutFilter{}, fleet.PageRequest{Limit: 1000})
		if err != nil {
			return err
		}
		for _, v := range page.Items {
			p := part{Rollout: v}
			if p.batches, err = r.Batches(ctx, v.ID); err != nil {
				return err
			}
			if p.assignments, err = r.AllAssignments(ctx, v.ID); err != nil {
				return err
			}
			parts = append(parts, p)
		}
		claims, err = r.Claims(ctx)
		return err
	})
	w.must(err)
	return parts, claims
}

// unseen is for how long an attempt may have run before it is seen, or after its end.
const unseen = 45 * time.Second

// lookAtDeadline holds that an attempt has its time. The time of the bubble is at
// least that in which the control plane ran.
func (w *world) lookAtDeadline(p part, a fleet.Assignment) {
	if a.Attempt == 0 {
		return
	}
	key := attemptKey(p.ID, a.Machine, a.Attempt)
	begun, known := w.offered[key]
	if !known {
		begun = time.Now()
		w.offered[key] = begun
	}
	limit := time.Duration(p.Spec.HealthyDeadlineMs) * time.Millisecond
	if ran := time.Since(begun) + unseen; a.State == fleet.AssignFailed && a.Reason == fleet.ReasonHealthyDeadline && ran < limit {
		w.violated(deadlinesRun, "%s: %s after at most %s of %s", p.ID, a, ran, limit)
	}
}

// lookAtReboot holds that a machine reboots into a release only when its order allows
// that. It gives its reports a moment before.
func (w *world) lookAtReboot(m *machine, j states.Journal) {
	if j.Step != states.AwaitReboot || j.Work == nil {
		return
	}
	o := j.Work.Order
	c, err := fleet.ParseCalendar(o.RebootWindows, nil)
	w.must(err)
	if now := time.Now(); !o.Reboot.Allows() || !c.Open(now) && !c.Open(now.Add(-10*time.Second)) {
		w.violated(keepsHours, "%s reboots for %s, which says %q and %v", m.id, o.Key(), o.Reboot, o.RebootWindows)
	}
}

// seen is when an assignment's attempt was seen first.
func (w *world) seen(a fleet.Assignment) time.Time {
	return w.offered[attemptKey(a.Rollout, a.Machine, a.Attempt)]
}

// lookAtFreeze holds that a frozen fleet is offered nothing.
func (w *world) lookAtFreeze(parts []part) {
	w.ledger.mu.Lock()
	now := w.ledger.frozen
	w.ledger.mu.Unlock()
	attempts := map[string]bool{}
	for _, p := range parts {
		for _, a := range p.assignments {
			key := attemptKey(p.ID, a.Machine, a.Attempt)
			attempts[key] = true
			if now != 0 && now == w.freezes && a.Attempt > 0 && !w.attempts[key] {
				w.violated(keepsHours, "%s: %s is offered the release, and the fleet is frozen", p.ID, a)
			}
		}
	}
	w.attempts, w.freezes = attempts, now
}

// look holds what is in the store against the rules.
func (w *world) look() {
	if w.plane.store == nil {
		return
	}
	parts, claims := w.read()
	w.lookAtFreeze(parts)
	at := map[fleet.MachineID]fleet.RolloutID{}
	for _, p := range parts {
		w.lookAt(p)
		for _, a := range p.assignments {
			if a.State.Final() {
				continue
			}
			if other, ok := at[a.Machine]; ok {
				w.violated(oneRollout, "%s is %s for %s, and %s works on it too", a.Machine, a.State, p.ID, other)
			}
			at[a.Machine] = p.ID
			if claims[a.Machine] != p.ID {
				w.violated(oneRollout, "%s is %s for %s, and %q claims it", a.Machine, a.State, p.ID, claims[a.Machine])
			}
		}
	}
}

func (w *world) lookAt(p part) {
	counts := make([]fleet.Counts, len(p.batches))
	calendar, err := p.Spec.Calendar()
	w.must(err)
	for _, a := range p.assignments {
		if a.Batch < 0 || a.Batch >= len(counts) || !a.State.Valid() {
			w.violated(oneRollout, "%s: %s in batch %d", p.ID, a, a.Batch)
			return
		}
		counts[a.Batch].Add(a.State, 1)
		w.ledger.mu.Lock()
		lived := w.ledger.lived[attemptKey(p.ID, a.Machine, a.Attempt)]
		w.ledger.mu.Unlock()
		if a.State == fleet.AssignHealthy && !lived {
			w.violated(healthyIsTrue, "%s: %s, and no such attempt ended well", p.ID, a)
		}
		if at := time.UnixMilli(a.OfferedAt); a.OfferedAt != 0 && !calendar.Always() && !calendar.Open(at) {
			w.violated(keepsHours, "%s: %s was offered the release at %s, and %v", p.ID, a, at.UTC(), p.Spec.Windows)
		}
		w.lookAtDeadline(p, a)
	}
	size := 0
	for i, b := range p.batches {
		size += b.Size
		if b.Counts != counts[i] {
			w.violated(oneRollout, "%s batch %d counts %+v, and its machines are %+v", p.ID, i, b.Counts, counts[i])
		}
		if i == 0 && b.OpenedAt > 0 && p.Spec.Approve && (!p.Approved || p.Spec.ApproveByOther && p.ApprovedBy == p.CreatedBy) {
			w.violated(batchOpens, "%s is open, and approved by %q", p.ID, p.ApprovedBy)
		}
		if i > 0 && b.OpenedAt > 0 {
			before := p.batches[i-1]
			switch {
			case before.State != fleet.BatchPassed:
				w.violated(batchOpens, "%s batch %d is open, and the one before is %s", p.ID, i, before.State)
			case p.Spec.Approve && !before.Approved, p.Spec.ApproveByOther && before.ApprovedBy == p.CreatedBy:
				w.violated(batchOpens, "%s batch %d is open, and the one before is approved by %q", p.ID, i, before.ApprovedBy)
			}
		}
		if failed := b.Counts.Failed - b.Acknowledged; p.State == fleet.RolloutRunning && i <= p.Batch && failed > p.Spec.MaxFailures.Tolerates(b.Size) {
			w.violated(failuresStop, "%s runs, and %d of batch %d failed", p.ID, failed, i)
		}
	}
	if size != len(p.assignments) || size != p.Machines {
		w.violated(oneRollout, "%s has %d machines, its batches %d, its assignments %d", p.ID, p.Machines, size, len(p.assignments))
	}
	was, known := w.ended[p.ID]
	if known && (was.State != p.State || was.EndedAt != p.EndedAt) {
		w.violated(endedStays, "%s was %s and is %s", p.ID, was.State, p.State)
	}
	if p.State.Final() {
		w.ended[p.ID] = p.Rollout
	}
}

// waits says what is not at rest: a rollout that neither ended nor names what it
// waits for, an agent at work, a report that is not delivered.
func (w *world) waits() string {
	if w.plane.store == nil {
		return "the control plane is down"
	}
	parts, _ := w.read()
	for _, p := range parts {
		switch {
		case p.State.Final():
		case (p.State == fleet.RolloutPaused || p.State == fleet.RolloutScheduled) && p.Why != "":
		case p.State == fleet.RolloutRunning && p.batches[p.Batch].State == fleet.BatchGated && p.batches[p.Batch].Why != "":
		default:
			return fmt.Sprintf("%s is %s: %s; %s", p.ID, p.State, p.Why, w.explain(p.ID))
		}
		for _, a := range p.assignments {
			if a.State.InFlight() || a.State.RollingBack() {
				return fmt.Sprintf("%s: %s, until %s", p.ID, a, time.UnixMilli(a.Deadline).UTC())
			}
		}
	}
	for _, m := range w.machines {
		if w.ledger.isGone(m.id) {
			continue
		}
		m.mu.Lock()
		p := m.process
		m.mu.Unlock()
		switch {
		case p == nil:
			return fmt.Sprintf("%s: no agent runs", m.id)
		case p.snap.Journal().Step != states.Idle:
			return fmt.Sprintf("%s: its agent is at %s", m.id, p.snap.Journal().Step)
		case p.outbox.Len() > 0:
			return fmt.Sprintf("%s: %d reports are queued", m.id, p.outbox.Len())
		}
	}
	return ""
}

func (l *ledger) isGone(id fleet.MachineID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone[id]
}

func (w *world) explain(id fleet.RolloutID) string {
	var lines []api.Waiting
	_, err := w.admin.call(http.MethodGet, "/api/v1/rollouts/"+string(id)+"/waiting", nil, &lines)
	return fmt.Sprintf("%+v, %v", lines, err)
}

// judge holds a fleet at rest against the rules.
func (w *world) judge() {
	w.look()
	w.judgeReports()
	w.judgeRollouts()
	w.judgeAudit()
	w.judgeRepeats()
}

// judgeReports looks for reports that are nowhere.
func (w *world) judgeReports() {
	for _, m := range w.machines {
		stored := map[string]bool{}
		page := fleet.PageRequest{Limit: 1000}
		for {
			got, err := w.plane.store.MachineReports(context.Background(), m.id, page)
			if err != nil {
				w.must(err)
				return
			}
			for _, r := range got.Items {
				stored[r.ID] = true
			}
			if page.Cursor = got.Next; page.Cursor == "" {
				break
			}
		}
		w.ledger.mu.Lock()
		for id := range w.ledger.acknowledged[m.id] {
			if !stored[id] {
				w.violated(nothingLost, "report %s of %s was acknowledged", id, m.id)
			}
		}
		for id, r := range w.ledger.reports[m.id] {
			if !stored[id] && !w.ledger.gone[m.id] { // the queue is empty
				w.violated(nothingLost, "%s of %s was queued and delivered: %s %s%s", r.ID, m.id, r.Rollout, r.Phase, r.Outcome)
			}
		}
		w.ledger.mu.Unlock()
	}
}

// judgeRollouts compares what machines should run, and why, with what they run.
func (w *world) judgeRollouts() {
	parts, claims := w.read()
	newest := map[fleet.MachineID]fleet.Assignment{}
	offered := map[string]bool{}
	known := map[fleet.RolloutID]bool{}
	names := map[string]bool{}
	for _, p := range parts {
		known[p.ID] = true
		if names[p.Spec.Name] {
			w.violated(oneAnswer, "two rollouts are the one that was created as %s", p.Spec.Name)
		}
		names[p.Spec.Name] = true
		for _, a := range p.assignments {
			if a.EverOffered && p.batches[a.Batch].OpenedAt > 0 {
				for n := range a.Attempt {
					offered[attemptKey(p.ID, a.Machine, n+1)] = true
				}
			}
			if n := newest[a.Machine]; a.EverOffered && cmp.Or(w.seen(a).Compare(w.seen(n)), cmp.Compare(a.OfferedRun, n.OfferedRun)) > 0 {
				newest[a.Machine] = a
			}
		}
		if p.State.Final() {
			for id, by := range claims {
				if by == p.ID {
					w.violated(oneRollout, "%s has ended and claims %s", p.ID, id)
				}
			}
		}
	}
	w.ledger.mu.Lock()
	for id := range w.ledger.rollouts {
		if !known[id] {
			w.violated(nothingLost, "rollout %s was created", id)
		}
	}
	for key := range w.ledger.units {
		f := strings.Fields(key) // machine, kind, rollout/attempt, digest
		rollout, attempt, _ := strings.Cut(f[2], "/")
		if f[1] == string(states.Apply) && !offered[rollout+" "+f[0]+" "+attempt] {
			w.violated(offeredFirst, "%s switched for %s attempt %s", f[0], rollout, attempt)
		}
	}
	w.ledger.mu.Unlock()
	for _, m := range w.machines {
		a := newest[m.id]
		if a.State != fleet.AssignHealthy || a.Outcome == fleet.OutcomeStagedReboot || w.ledger.isGone(m.id) || m.byHand {
			continue
		}
		var got fleet.Machine
		w.admin.expect(http.MethodGet, "/api/v1/machines/"+string(m.id), nil, &got)
		running := m.generations().Running
		if got.Desired == nil || got.Desired.StorePath != running {
			w.violated(desiredRuns, "%s runs %s; %s of %s; it should run %+v", m.id, running, a, a.Rollout, got.Desired)
		}
	}
}

// judgeAudit reads the whole trail.
func (w *world) judgeAudit() {
	if _, err := w.plane.store.VerifyAudit(context.Background()); err != nil {
		w.violated(auditHolds, "%v", err)
	}
	var chain fleet.AuditChain
	met := map[int64]fleet.Digest{}
	page := fleet.PageRequest{Limit: 1000}
	for {
		got, err := w.plane.store.Audit(context.Background(), fleet.AuditFilter{}, page)
		if err != nil {
			w.must(err)
			return
		}
		for _, e := range got.Items {
			if err := chain.Add(e); err != nil {
				w.violated(auditHolds, "%v", err)
				return
			}
			met[chain.Size] = chain.Head
		}
		if page.Cursor = got.Next; page.Cursor == "" {
			break
		}
	}
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	for size, head := range w.ledger.heads {
		if met[size] != head {
			w.violated(auditHolds, "the head of %d entries that was seen is not in the trail", size)
		}
	}
}

// judgeRepeats sends all reports once more, newest first.
func (w *world) judgeRepeats() {
	for tries := 3; ; tries-- {
		before, claims, after, still := w.repeatAll()
		if len(after) > len(before) && tries > 1 { // an operator's call was still under way
			w.rest()
			continue
		}
		if !reflect.DeepEqual(before, after) || !reflect.DeepEqual(claims, still) {
			w.violated(repeatsAreNull, "the rollouts were\n%+v\nand are\n%+v", before, after)
		}
		return
	}
}

// repeatAll sends all reports again, and returns rollouts and claims before and
// after that.
func (w *world) repeatAll() (before []part, claims map[fleet.MachineID]fleet.RolloutID, after []part, still map[fleet.MachineID]fleet.RolloutID) {
	before, claims = w.read()
	for _, m := range w.machines {
		if w.ledger.isGone(m.id) {
			continue
		}
		w.ledger.mu.Lock()
		var all []fleet.Report
		for _, id := range slices.Backward(w.ledger.order[m.id]) {
			all = append(all, w.ledger.reports[m.id][id])
		}
		w.ledger.mu.Unlock()
		if len(all) == 0 {
			continue
		}
		if err := w.repeat(m, all); err != nil {
			w.violated(repeatsAreNull, "%s: %v", m.id, err)
		}
	}
	time.Sleep(5 * time.Second)
	after, still = w.read()
	return before, claims, after, still
}
