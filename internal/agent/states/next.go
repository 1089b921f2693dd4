// SPDX-License-Identifier: MIT

package states

import (
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Limits, in seconds.
const (
	switchLimit = 600.0 // of a switch, unless the order's deadline wants less
	maxRollback = 3     // tries of each step of rolling back
)

// Next returns the journal after in, and whether in changed it. An input that
// has no meaning at the journal's step changes nothing.
func Next(j Journal, in Input, now Moment) (Journal, bool) {
	if j.Work == nil {
		return j.idle(in, now)
	}
	w := *j.Work
	j.Work = &w
	waited := j.Waiting != ""
	j.Waiting = ""
	next, changed := j.working(in, now)
	return next, changed || waited
}

func (j Journal) working(in Input, now Moment) (Journal, bool) {
	switch in := in.(type) {
	case Ordered:
		return j.ordered(in.Order, now)
	case Withdrawn:
		return j.withdrawn()
	case Rebooted:
		return j.rebooted(in, now)
	case WatchdogFired:
		return j.watchdogFired(in)
	}
	switch j.Step {
	case Judge:
		return j.judged(in)
	case Fetch:
		return j.fetched(in, now)
	case Prepare:
		return j.prepared(in, now)
	case Arm, Profile, Disarm:
		return j.stepped(in, now)
	case Switch:
		return j.switched(in, now)
	case HandOver:
		return j.handedOver(in)
	case Confirm:
		return j.confirmed(in)
	case Verify:
		return j.verified(in)
	case RollbackProfile, RollbackSwitch, RollbackReboot, RollbackHandOver:
		return j.rollingBack(in, now)
	case Report:
		if _, ok := in.(Done); ok {
			return j.finish(now)
		}
	case AwaitReboot:
		if in, ok := in.(Failed); ok {
			return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonRebootNeeded, in.Message)
		}
	case Idle:
	}
	return j, false
}

func (j Journal) idle(in Input, now Moment) (Journal, bool) {
	switch in := in.(type) {
	case Ordered:
		return j.begin(in.Order, now)
	case Held:
		return j.waiting(in.Why)
	case Withdrawn:
		return j.waiting("")
	case Observed:
		return j.observed(in, now)
	case Rebooted:
		return j.observed(Observed(in), now)
	case Learned:
		return j.learned(in)
	case Adopted:
		if j.Trust.Floor == nil { // a floor that is known is never given up
			j.Trust.Floor = &in.Floor
			return j, true
		}
	}
	return j, false
}

func (j Journal) waiting(why string) (Journal, bool) {
	changed := j.Waiting != why
	j.Waiting = why
	return j, changed
}

// learned keeps what was learned, unless the documents are known already.
func (j Journal) learned(in Learned) (Journal, bool) {
	if in.Documents == j.Learned && slices.EqualFunc(in.Trust.Grants, j.Trust.Grants, sameGrant) {
		return j, false
	}
	t, l := j.Trust, in.Trust
	t.Root, t.Timestamp, t.Grants = l.Root, l.Timestamp, l.Grants
	t.Revocations, t.RevocationsDigest = l.Revocations, l.RevocationsDigest
	t.HighestSignedTime = max(t.HighestSignedTime, l.HighestSignedTime)
	j.Trust, j.Learned = t, in.Documents
	return j, true
}

func sameGrant(a, b fleet.Grant) bool {
	return a.Kind == b.Kind && a.Digest == b.Digest && a.SignedAt == b.SignedAt && a.Expires == b.Expires
}

func (j Journal) begin(o Order, now Moment) (Journal, bool) {
	if j.Did(o) {
		return j, false
	}
	w := &Work{Order: o, Began: now}
	if o.Kind == Apply {
		j.Work, j.Step, j.Waiting = w, Judge, ""
		return j, true
	}
	r := trust.Revert(j.Trust, now.WallMs, o.Digest)
	switch {
	case r != nil && r.Reason.Holds():
		return j.waiting(r.Error())
	case r == nil && (j.Current == nil || j.Current.Digest != o.Digest):
		r = &trust.Refusal{Reason: fleet.ReasonRevertUnknown, Detail: "release " + o.Digest.Short() + " is not the one running here"}
	case r == nil && j.LastGood == nil:
		r = &trust.Refusal{Reason: fleet.ReasonNoLastGood, Detail: "no earlier system is recorded"}
	}
	j.Work, j.Waiting = w, ""
	if r != nil {
		return j.end(fleet.OutcomeRefused, r.Reason, r.Detail)
	}
	w.Target, w.Previous, w.BootID = *j.Current, *j.LastGood, now.BootID
	w.RevertKey = o.Key()
	return j.rollBack(fleet.OutcomeReverted, fleet.ReasonRevertOrdered, "")
}

// observed records drift, the boot of a staged system, and the end of a revert
// window.
func (j Journal) observed(in Observed, now Moment) (Journal, bool) {
	pending, drift := j.Trust.Floor != nil && j.Trust.Floor.Pending != nil, j.Drift
	j.Trust = j.Trust.RaiseFloor(now.WallMs)
	changed := pending && j.Trust.Floor.Pending == nil
	if j.Staged != nil && in.Running == j.Staged.Path {
		staged := *j.Staged
		if j.Current != nil {
			j = j.keepGood(*j.Current, staged)
		}
		j.Staged = nil
		j = j.becomes(staged, now)
		changed = true
	}
	j.Drift = ""
	if j.Drifted(in.Running) {
		j.Drift = in.Running
	}
	return j, changed || j.Drift != drift
}

// ordered judges an order that comes while another is at work. Only one to
// revert the release that is being verified has an effect.
func (j Journal) ordered(o Order, now Moment) (Journal, bool) {
	w := j.Work
	switch j.Step {
	case AwaitReboot, HandOver, Confirm, Disarm, Verify:
	default:
		return j, false
	}
	if o.Kind != Revert || o.Digest != w.Order.Digest || w.Converged {
		return j, false
	}
	s := j.Trust
	if s.LastGood = w.Previous.mark(); s.LastGood == nil {
		return j, false
	}
	if r := trust.Revert(s, now.WallMs, o.Digest); r != nil {
		return j, false
	}
	w.RevertKey = o.Key()
	return j.rollBack(fleet.OutcomeReverted, fleet.ReasonRevertOrdered, "")
}

func (j Journal) withdrawn() (Journal, bool) {
	switch j.Step {
	case Judge, Fetch, Prepare:
		return j.drop("")
	}
	return j, false
}

// drop leaves an attempt that has changed nothing, without an outcome.
func (j Journal) drop(why string) (Journal, bool) {
	j.Work, j.Step, j.Waiting = nil, Idle, why
	return j, true
}

func (j Journal) judged(in Input) (Journal, bool) {
	switch in := in.(type) {
	case Accepted:
		h, e := in.Release.Header, in.Release.Entry
		j.Work.Accepted = in.Release
		j.Work.Target = System{Path: e.StorePath, Digest: in.Release.Digest, Line: h.Line, Sequence: h.Sequence, Name: h.Name}
		j.Step = Fetch
		return j, true
	case Refused:
		return j.refused(in)
	case Held:
		return j.drop(in.Why)
	case Failed:
		return j.drop(in.Message)
	}
	return j, false
}

func (j Journal) refused(in Refused) (Journal, bool) {
	if in.Reason.Holds() {
		return j.drop(string(in.Reason) + ": " + in.Message)
	}
	return j.end(fleet.OutcomeRefused, in.Reason, in.Message)
}

func (j Journal) fetched(in Input, now Moment) (Journal, bool) {
	w := j.Work
	switch in := in.(type) {
	case Done:
		j.Step = Prepare
		return j, true
	case Replaced:
		w.Replaced = in.Paths
		j.Step = Prepare
		return j, true
	case Refused:
		return j.refused(in)
	case Held:
		return j.drop(in.Why)
	case Failed:
		if in.Again && !w.late(now) {
			w.Tries++
			w.Message = in.Message
			return j, true
		}
		return j.end(fleet.OutcomeFailed, in.Reason, in.Message)
	}
	return j, false
}

// late reports whether the order's deadline has passed.
func (w *Work) late(now Moment) bool {
	return w.Order.DeadlineMs > 0 && w.Began.since(now)*1000 > float64(w.Order.DeadlineMs)
}

func (j Journal) prepared(in Input, now Moment) (Journal, bool) {
	w := j.Work
	switch in := in.(type) {
	case Held:
		return j.drop(in.Why)
	case Failed:
		return j.end(fleet.OutcomeFailed, in.Reason, in.Message)
	case Prepared:
		w.Message = ""
		w.BootID, w.FailedBefore, w.Baseline = now.BootID, in.FailedUnits, in.Baseline
		w.Reboot, w.MayReboot = in.Reboot, in.MayReboot
		w.Confirm = float64(w.Accepted.Header.Policy.ConfirmWindowMs) / 1000
		if in.Confirm > 0 {
			w.Confirm = min(w.Confirm, in.Confirm)
		}
		w.Previous = j.previous(in.Running)
		if w.Previous.Path == "" {
			return j.end(fleet.OutcomeFailed, fleet.ReasonNoLastGood, "cannot tell which system runs, and so which to roll back to")
		}
		w.Action = ActionSwitch
		if w.Reboot {
			w.Action = ActionBoot
		}
		j = j.stays(now)
		j.Trust = j.Trust.Record(w.Accepted, now.WallMs)
		if j.Current != nil && j.Current.Digest == w.Accepted.Digest {
			j = j.stays(now)
		}
		if in.Running == w.Target.Path && in.BootDefault == w.Target.Path && !in.Reboot {
			w.Converged = true
			w.VerifyFrom = now.Boot
			j.Trust = j.Trust.Activated(now.WallMs)
			j.Step = Verify
			return j, true
		}
		w.WatchUntil = now.Boot + w.SwitchLimit() + w.Confirm + WatchMargin(w.Confirm)
		j.Step = Arm
		return j, true
	}
	return j, false
}

// previous is where a rollback leads: to what runs now, unless that is a system
// that has failed here before.
func (j Journal) previous(running fleet.StorePath) System {
	if j.Current != nil && (j.Current.Path == running || running == "" || slices.Contains(j.Failed, running)) {
		return *j.Current
	}
	if j.LastGood != nil && j.LastGood.Path == running {
		return *j.LastGood
	}
	return System{Path: running}
}

// WatchMargin is how much later than the agent the watchdog acts, in seconds,
// so that it acts only when the agent does not.
func WatchMargin(confirm float64) float64 { return min(15, max(2, confirm/5)) }

// SwitchLimit is how long a switch may take, in seconds.
func (w *Work) SwitchLimit() float64 {
	if d := float64(w.Order.DeadlineMs) / 2000; d > 0 {
		return min(switchLimit, max(d, 5))
	}
	return switchLimit
}

// stepped handles the steps that succeed or fail without a result.
func (j Journal) stepped(in Input, now Moment) (Journal, bool) {
	w := j.Work
	switch in := in.(type) {
	case Failed:
		switch j.Step {
		case Arm:
			return j.end(fleet.OutcomeFailed, in.Reason, in.Message)
		case Profile:
			w.ProfileOnly = true
			return j.rollBack(fleet.OutcomeFailed, in.Reason, in.Message)
		}
	case Done:
		switch j.Step {
		case Arm:
			j.Step = Profile
			return j, true
		case Profile:
			return j.enterSwitch(Switch, now)
		case Disarm:
			j.Step = Verify
			return j, true
		}
	}
	return j, false
}

// enterSwitch names a new unit for the switch. A name is never used twice, so
// that what a failed switch left behind cannot block the next one (A06).
func (j Journal) enterSwitch(s Step, now Moment) (Journal, bool) {
	j.Serial++
	j.Step = s
	j.Work.Unit = fmt.Sprintf("nixfleet-switch-%d-%d", j.Serial, now.WallMs/1000)
	j.Work.SwitchUntil = now.Boot + j.Work.SwitchLimit()
	return j, true
}

func (j Journal) switched(in Input, now Moment) (Journal, bool) {
	w := j.Work
	s, ok := in.(Switched)
	if f, failed := in.(Failed); failed {
		return j.rollBack(fleet.OutcomeRolledBack, f.Reason, f.Message)
	}
	if !ok {
		return j, false
	}
	w.Failed = newlyFailed(w.FailedBefore, s.FailedUnits)
	activated := s.Code == 0 || s.Code == 3 || s.Code == 4
	switch {
	case s.TimedOut:
		return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonSwitchTimeout, fmt.Sprintf("the switch did not end within %.0f s\n%s", w.SwitchLimit(), s.Message))
	case s.Code < 0:
		return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonSwitchKilled, "the switch ended without an exit code\n"+s.Message)
	case w.Action == ActionBoot && s.Code != 0, !activated:
		return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonActivation, fmt.Sprintf("switch-to-configuration %s exited %d\n%s", w.Action, s.Code, s.Message))
	case w.Action == ActionBoot && !w.MayReboot:
		return j.end(fleet.OutcomeStagedReboot, fleet.ReasonRebootNeeded, "the system is the boot default; the old kernel runs until the next reboot")
	case w.Action == ActionBoot:
		j.Step = AwaitReboot
		return j, true
	case s.Running != w.Target.Path:
		return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonActivation, fmt.Sprintf("switch-to-configuration exited %d and %s runs\n%s", s.Code, s.Running, s.Message))
	}
	return j.watchNew(now)
}

// watchNew begins the time in which the target must be confirmed and healthy.
func (j Journal) watchNew(now Moment) (Journal, bool) {
	w := j.Work
	j.Trust = j.Trust.Activated(now.WallMs)
	w.BootID = now.BootID
	w.ConfirmUntil = now.Boot + w.Confirm
	w.VerifyFrom = now.Boot
	j.Step = HandOver
	return j, true
}

func newlyFailed(before, after []string) []string {
	var out []string
	for _, u := range after {
		if !slices.Contains(before, u) {
			out = append(out, u)
		}
	}
	return out
}

func (j Journal) handedOver(in Input) (Journal, bool) {
	switch in := in.(type) {
	case Done:
		j.Step = Confirm
		return j, true
	case Failed:
		return j.rollBack(fleet.OutcomeRolledBack, in.Reason, in.Message)
	}
	return j, false
}

func (j Journal) confirmed(in Input) (Journal, bool) {
	switch in := in.(type) {
	case Confirmed:
		j.Work.Confirmed = in.By
		j.Step = Disarm
		return j, true
	case Unconfirmed:
		return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonNoNetwork, in.Message)
	}
	return j, false
}

func (j Journal) verified(in Input) (Journal, bool) {
	w := j.Work
	switch in := in.(type) {
	case Healthy:
		w.Checks = in.Checks
		if !w.Converged {
			w.Failed = newlyFailed(w.FailedBefore, in.FailedUnits)
		}
		if len(w.Failed) > 0 {
			return j.end(fleet.OutcomeLiveDegraded, fleet.ReasonUnitsFailed, "")
		}
		return j.end(fleet.OutcomeLive, "", "")
	case Unhealthy:
		w.Checks = in.Checks
		if w.Converged { // it ran before: there is nothing to roll back to
			return j.end(fleet.OutcomeFailed, in.Reason, in.Message)
		}
		return j.rollBack(fleet.OutcomeRolledBack, in.Reason, in.Message)
	case Failed: // the machine was switched locally, which is never undone (A13)
		return j.end(fleet.OutcomeFailed, in.Reason, in.Message)
	}
	return j, false
}
