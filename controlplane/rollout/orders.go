// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// OrdersFor is what a machine's agent may do now for the rollout that claims
// it: prefetch, apply or revert, or nothing. It only follows what Step decided,
// and check-ins are answered with it alone, so an agent never gets what the plan
// refuses (H18). Run is the running time now.
func OrdersFor(a fleet.Assignment, r fleet.Rollout, run int64) api.Orders {
	var o api.Orders
	switch {
	case a.Rollout != r.ID:
	case a.State == fleet.AssignReverting:
		o.Revert = &fleet.Order{Digest: a.Digest, Rollout: r.ID, Attempt: a.Attempt}
	case a.State.InFlight() && run < a.Deadline:
		o.Apply = &fleet.Order{
			Digest: a.Digest, Rollout: r.ID, Attempt: a.Attempt,
			MinHealthyMs: r.Spec.MinHealthyMs, DeadlineMs: a.Deadline - run,
			Windows: r.Spec.Windows, Blackouts: r.Spec.Blackouts, Reboot: r.Spec.Reboot, RebootWindows: r.Spec.RebootWindows,
		}
	case a.State == fleet.AssignPending && r.State == fleet.RolloutRunning && a.Batch <= r.Batch+1:
		// The next batch may fetch; those behind it would load caches and
		// disks with what a canary may yet stop.
		o.Prefetch = a.Digest
	}
	return o
}

// Desired is what a machine should run: the release of the rollout that claims
// it, from the offer on and unless it failed there; else that of its latest
// healthy assignment; else nil, for hold. Either argument may be nil.
func Desired(claim, healthy *fleet.Assignment) *fleet.Desired {
	a := healthy
	if claim != nil && (claim.State.InFlight() || claim.State == fleet.AssignHealthy) {
		a = claim
	}
	if a == nil {
		return nil
	}
	return &fleet.Desired{Digest: a.Digest, StorePath: a.StorePath, Rollout: a.Rollout}
}

// holdFor is what holds a running rollout; nil for nothing.
func holdFor(state State, w World, now int64) *hold {
	if state.Rollout.State != fleet.RolloutRunning && state.Rollout.State != fleet.RolloutScheduled {
		return nil
	}
	return holdOf(state.indexed().calendar, w, now)
}

// explain says of a line that the rollout is held.
func (h *hold) explain(l api.Waiting) api.Waiting {
	if h != nil {
		l.Why, l.Until, l.Do = h.why, h.until, h.do
	}
	return l
}

func whyRollout(r fleet.Rollout) string {
	if r.State == fleet.RolloutScheduled {
		return "it has not started"
	}
	return fmt.Sprintf("batch %d is at work", r.Batch+1)
}

func whyBatch(b fleet.Batch, at Moment) string {
	switch b.State {
	case fleet.BatchWaiting:
		if b.Index == 0 {
			return "the rollout has not started"
		}
		return fmt.Sprintf("waits for batch %d to pass", b.Index)
	case fleet.BatchOpen, fleet.BatchReverting:
		why := fmt.Sprintf("%d pending, %d at work, %d rolling back", b.Counts.Pending, b.Counts.InFlight, b.Counts.RollingBack)
		if n := b.Counts.Skipped; n > 0 {
			why += fmt.Sprintf("; %d of %d left or were skipped, and keep their place", n, b.Size)
		}
		return why
	case fleet.BatchSoaking:
		return "soaks until about " + date(at.Expect(b.SoakUntil))
	case fleet.BatchGated, fleet.BatchPassed, fleet.BatchFailed:
	}
	return string(b.State)
}

// Why says why an assignment has not ended, "" if it has. What is in it is
// true at now, and is not kept in the row.
func Why(a fleet.Assignment, state State, w World, now int64) string {
	left, at := "", Moment{Wall: now, Run: w.Run}
	if a.Deadline != 0 {
		left = "until about " + date(at.Expect(a.Deadline))
	}
	switch {
	case a.State.Final():
		return ""
	case a.State == fleet.AssignPending || a.State == fleet.AssignHeld:
		return whyPending(a, state, w, at)
	case a.State == fleet.AssignReverting:
		return "was ordered to roll back, has " + left
	case a.State == fleet.AssignRollingBack:
		return "rolls back by itself, has " + left
	}
	why := "at work, has " + left
	if opens := mayReboot(a, state, now); opens != 0 {
		why = "may reboot from " + date(opens) + " on, has " + left
	}
	if f, known := w.Machine(a.Machine); known && !f.Online {
		why = "offline " + sinceContact(f) + ", has " + left
	} else if a.State == fleet.AssignOffered {
		why = "offered, has not begun; has " + left
	}
	if w.Run >= a.Deadline {
		why += ", which is over"
	}
	if a.Why != "" {
		why += "; " + a.Why
	}
	return why
}

// mayReboot is when a machine that waits for a reboot may reboot next, in Unix
// milliseconds; 0 if it may now, or does not wait for that.
func mayReboot(a fleet.Assignment, state State, now int64) int64 {
	if a.State != fleet.AssignAwaitingReboot {
		return 0
	}
	return rebootsAt(state.indexed(), now)
}

// whyOffline says what becomes of a machine that is offline.
var whyOffline = map[fleet.OfflinePolicy]string{
	fleet.OfflineWait: "its batch waits for it",
	fleet.OfflineSkip: "the rollout will go on without it",
	fleet.OfflineFail: "it will count as failed",
}

func whyPending(a fleet.Assignment, state State, w World, at Moment) string {
	r, b := state.Rollout, state.Batches[a.Batch]
	f, known := w.Machine(a.Machine)
	switch {
	case r.State != fleet.RolloutRunning:
		return "the rollout is " + string(r.State)
	case b.State == fleet.BatchWaiting:
		return whyBatch(b, at)
	case !known || f.Lifecycle != fleet.Active:
		return "its lifecycle is " + lifecycle(f, known)
	case holdFor(state, w, at.Wall) != nil:
		return holdFor(state, w, at.Wall).why
	case !f.Online:
		return fmt.Sprintf("offline %s; %s", sinceContact(f), whyOffline[r.Spec.Offline])
	case whyBudget(a.Machine, w) != "":
		return "waits for " + whyBudget(a.Machine, w)
	case r.Spec.MaxParallel > 0:
		return fmt.Sprintf("waits for a slot: %d machines may be at work", r.Spec.MaxParallel)
	}
	return "is offered at the next look"
}
