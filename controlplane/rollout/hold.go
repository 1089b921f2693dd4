// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// holdRecheck is how often a held rollout is looked at, whatever it waits for:
// the wall clock may step.
const holdRecheck = 10 * 60 * 1000

// hold is why no machine of a rollout may be offered the release now.
type hold struct {
	why   string
	do    string // what an operator can do about it
	until int64  // when it may be over, by the wall clock; 0: not known
	// reboots: neither may machines reboot into the release.
	reboots bool
}

// holdOf looks for what holds the whole rollout; nil for nothing.
func holdOf(c fleet.Calendar, w World, now int64) *hold {
	if f := w.Freeze; f.Holds(now) {
		h := &hold{why: "the fleet is frozen by " + f.By + ": " + f.Reason, do: "nixfleet unfreeze", until: f.Until}
		if f.Until != 0 {
			h.why += ", until " + date(f.Until)
		}
		return h
	}
	t := time.UnixMilli(now)
	if c.Always() || c.Open(t) {
		return nil
	}
	h := &hold{why: "outside its windows, or in a blackout", reboots: true}
	if next := c.Next(t); !next.IsZero() {
		h.until = next.UnixMilli()
		h.why += ", until " + date(h.until)
	}
	return h
}

// runningTime is the running time at which the wall clock shows a moment, if the
// control plane runs until then and nobody sets the clock.
func (st *step) runningTime(wall int64) int64 { return st.run + wall - st.now }

// holdBack looks whether the rollout is held. If so, machines that have not begun
// to switch are withdrawn, and the deadlines of those that wait for a reboot
// count from when they may.
func (st *step) holdBack() {
	st.hold = holdOf(st.indexed().calendar, st.world, st.now)
	if st.hold == nil || st.rollout.State.Final() {
		return
	}
	if st.rollout.State == fleet.RolloutRunning {
		st.rollout.ProgressRun = st.holdChanges() // the progress deadline counts from then
	}
	for _, a := range st.atWork() {
		switch a.State {
		case fleet.AssignOffered, fleet.AssignFetching:
			st.withdrawOffer(a)
		case fleet.AssignAwaitingReboot:
			opens := st.runningTime(st.hold.until)
			if st.hold.reboots && st.hold.until != 0 && a.Deadline < opens {
				a.Deadline = opens + st.spec().HealthyDeadlineMs
				st.put(a)
			}
		default:
		}
	}
}

// withdrawn reports whether a phase is news of an offer that was withdrawn because
// the rollout is held: the machine drops it when it hears of that.
func (st *step) withdrawn(a fleet.Assignment, phase fleet.AssignmentState) bool {
	return a.State == fleet.AssignPending && phase == fleet.AssignFetching && holdOf(st.indexed().calendar, st.world, st.now) != nil
}

// holdChanges is the running time at which to look at a running rollout again because it may be held,
// or no longer is; 0 for never.
func (st *step) holdChanges() int64 {
	soon, t := st.run+holdRecheck, int64(0)
	if st.hold != nil {
		t = st.hold.until
	} else if closes := st.indexed().calendar.Closes(time.UnixMilli(st.now)); !closes.IsZero() {
		t = closes.UnixMilli()
	} else {
		return 0
	}
	if t == 0 {
		return soon
	}
	return min(st.runningTime(t), soon)
}

// whyOpen says what an open batch waits for, "" while machines are at work.
func (st *step) whyOpen(b *fleet.Batch) string {
	if st.hold != nil && b.Counts.Pending > 0 {
		return st.hold.why
	}
	if st.overBudget != "" && b.Counts.InFlight+b.Counts.RollingBack == 0 {
		return "waits for " + st.overBudget
	}
	return st.absent(b)
}
