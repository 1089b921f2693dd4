// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"slices"
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
	h := &hold{why: "outside its windows, or in a blackout"}
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
// to switch are withdrawn.
func (st *step) holdBack() {
	st.hold = holdOf(st.indexed().calendar, st.world, st.now)
	st.deferReboots()
	if st.hold == nil || st.rollout.State.Final() {
		return
	}
	if st.rollout.State == fleet.RolloutRunning {
		st.rollout.ProgressRun = st.holdChanges() // the progress deadline counts from then
	}
	for _, a := range st.atWork() {
		if a.State == fleet.AssignOffered || a.State == fleet.AssignFetching {
			st.withdrawOffer(a)
		}
	}
}

// rebootWindows is how many windows may pass until a machine has failed that waits
// for a reboot.
const rebootWindows = 3

// deferReboots has the deadlines of machines that wait for a reboot count from when
// they may reboot, and the progress deadline too.
func (st *step) deferReboots() {
	x := st.indexed()
	if x.calendar.Always() && x.reboots.Always() {
		return
	}
	waits := slices.DeleteFunc(st.atWork(), func(a fleet.Assignment) bool { return a.State != fleet.AssignAwaitingReboot })
	if len(waits) == 0 {
		return
	}
	opens := rebootsAt(x, st.now)
	if opens == 0 {
		return
	}
	at, healthy, deferred := st.runningTime(opens), st.spec().HealthyDeadlineMs, false
	for _, a := range waits {
		if x.windowsSince(a.OfferedAt, st.now) >= rebootWindows {
			continue
		}
		deferred = true
		if a.Deadline < at+min(healthy, reportGrace) {
			a.Deadline = at + healthy
			st.put(a)
		}
	}
	if deferred && st.rollout.State == fleet.RolloutRunning {
		st.rollout.ProgressRun = max(st.rollout.ProgressRun, at)
	}
}

// windowsSince counts the times at which machines might reboot from a moment until
// now, in Unix milliseconds, up to rebootWindows.
func (x *index) windowsSince(from, now int64) (n int) {
	for t := time.UnixMilli(from); n < rebootWindows; n++ {
		t = fleet.NextOfBoth(x.calendar, x.reboots, t)
		if t.IsZero() || t.UnixMilli() >= now {
			break
		}
		closes := x.reboots.Closes(t)
		if c := x.calendar.Closes(t); closes.IsZero() || !c.IsZero() && c.Before(closes) {
			closes = c
		}
		if closes.IsZero() {
			break
		}
		t = closes
	}
	return n
}

// rebootsAt is when machines may reboot next, in Unix milliseconds; 0 if they may
// now, or never.
func rebootsAt(x *index, now int64) int64 {
	t := time.UnixMilli(now)
	if x.reboots.Open(t) && x.calendar.Open(t) {
		return 0
	}
	next := fleet.NextOfBoth(x.calendar, x.reboots, t)
	if next.IsZero() {
		return 0
	}
	return next.UnixMilli()
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
