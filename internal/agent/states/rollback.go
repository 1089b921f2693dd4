// SPDX-License-Identifier: MIT

package states

import (
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// rollBack begins to restore the previous system, which is always allowed.
func (j Journal) rollBack(o fleet.Outcome, r fleet.Reason, message string) (Journal, bool) {
	w := j.Work
	w.Outcome, w.Reason, w.Message = o, r, message
	w.RollbackTries = 0
	j.Step = RollbackProfile
	return j, true
}

// failedRollback is the outcome when the previous system cannot be restored.
func (w *Work) failedRollback() fleet.Outcome {
	if w.RevertKey != "" {
		return fleet.OutcomeRevertFailed
	}
	return fleet.OutcomeRollbackFailed
}

// end ends the attempt where it is.
func (j Journal) end(o fleet.Outcome, r fleet.Reason, message string) (Journal, bool) {
	j.Work.Outcome, j.Work.Reason, j.Work.Message = o, r, message
	j.Step = Report
	return j, true
}

func (j Journal) rollingBack(in Input, now Moment) (Journal, bool) {
	w := j.Work
	_, done := in.(Done)
	f, failed := in.(Failed)
	switch j.Step {
	case RollbackProfile:
		switch {
		case failed && w.RollbackTries < maxRollback-1:
			w.RollbackTries++
			return j, true
		case failed && w.ProfileOnly:
			return j.end(w.failedRollback(), f.Reason, w.Message+"\n"+f.Message)
		case done && w.ProfileOnly:
			j.Step = Report
			return j, true
		case done || failed: // a profile that cannot be set must not keep the previous system from running
			w.RollbackTries = 0
			if failed {
				w.Message += "\n" + f.Message
			}
			w.Action = ActionSwitch
			if w.Rebooted && w.Reboot && w.MayReboot {
				w.Action = ActionBoot
			}
			return j.enterSwitch(RollbackSwitch, now)
		}
	case RollbackSwitch:
		if s, ok := in.(Switched); ok {
			return j.rolledBack(s, now)
		}
		if failed {
			return j.retryRollback(f.Message, now)
		}
	case RollbackReboot:
		if failed {
			return j.end(w.failedRollback(), fleet.ReasonPreviousFailed, w.Message+"\n"+f.Message)
		}
	case RollbackHandOver:
		if done || failed {
			j.Step = Report
			return j, true
		}
	}
	return j, false
}

// rolledBack judges the previous system's own activation (A07).
func (j Journal) rolledBack(s Switched, now Moment) (Journal, bool) {
	w := j.Work
	good := s.Code == 0 || s.Code == 3 || s.Code == 4
	switch {
	case s.TimedOut:
		return j.retryRollback("its switch did not end in time", now)
	case w.Action == ActionBoot && s.Code == 0:
		j.Step = RollbackReboot
		return j, true
	case !good || w.Action == ActionBoot || s.Running != w.Previous.Path:
		return j.retryRollback(fmt.Sprintf("switch-to-configuration exited %d and %s runs\n%s", s.Code, s.Running, s.Message), now)
	case s.BootDefault != "" && s.BootDefault != w.Previous.Path: // O09
		return j.end(w.failedRollback(), fleet.ReasonProfileFailed, w.Message+"\nthe previous system runs, but the next boot is "+string(s.BootDefault))
	}
	j.Step = RollbackHandOver
	return j, true
}

func (j Journal) retryRollback(why string, now Moment) (Journal, bool) {
	w := j.Work
	if w.RollbackTries++; w.RollbackTries < maxRollback {
		return j.enterSwitch(RollbackSwitch, now)
	}
	return j.end(w.failedRollback(), fleet.ReasonPreviousFailed,
		fmt.Sprintf("%s: %s\nrolling back to %s failed %d times: %s", w.Reason, w.Message, w.Previous.Path, maxRollback, why))
}

// rebooted handles a boot at each step. Whether an order, a person or a power
// failure caused it makes no difference (A03).
func (j Journal) rebooted(in Rebooted, now Moment) (Journal, bool) {
	w := j.Work
	if w.BootID == "" || w.BootID == now.BootID {
		return j, false
	}
	w.BootID = now.BootID
	onTarget := in.Running == w.Target.Path
	switch j.Step {
	case Arm, Profile:
		j.Step = Prepare // nothing was switched; look again at what runs
	case AwaitReboot, Switch, HandOver, Confirm, Disarm, Verify:
		switch {
		case w.Converged && !onTarget:
			return j.end(fleet.OutcomeFailed, fleet.ReasonBootedOld, "the machine was booted into "+string(in.Running))
		case w.Converged:
			w.VerifyFrom = now.Boot
		case onTarget:
			w.Rebooted = true
			return j.watchNew(now)
		case j.Step == Switch:
			return j.rollBack(fleet.OutcomeFailed, fleet.ReasonInterrupted, "the machine was booted during the switch, into "+string(in.Running))
		default:
			return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonBootedOld, "the machine was booted into "+string(in.Running))
		}
	case RollbackSwitch:
		w.Rebooted = onTarget
		return j.enterSwitch(RollbackSwitch, now)
	case RollbackReboot:
		if in.Running != w.Previous.Path {
			return j.end(w.failedRollback(), fleet.ReasonBootedOld, w.Message+"\nthe machine was booted into "+string(in.Running))
		}
		j.Step = RollbackHandOver
	case Report:
		return j.bootedBeforeReport(in, onTarget)
	}
	return j, true
}

// bootedBeforeReport judges a boot after the outcome was decided. A release that is
// live does not stay so when another system was booted.
func (j Journal) bootedBeforeReport(in Rebooted, onTarget bool) (Journal, bool) {
	w := j.Work
	live := w.Outcome == fleet.OutcomeLive || w.Outcome == fleet.OutcomeLiveDegraded
	message := "the machine was booted into " + string(in.Running)
	switch {
	case !live || onTarget:
		return j, true
	case w.Converged:
		return j.end(fleet.OutcomeFailed, fleet.ReasonBootedOld, message)
	}
	return j.rollBack(fleet.OutcomeRolledBack, fleet.ReasonBootedOld, message)
}

// watchdogFired records that the watchdog rolled back, and completes what is left.
func (j Journal) watchdogFired(in WatchdogFired) (Journal, bool) {
	w := j.Work
	reason := fleet.ReasonWatchdog
	switch j.Step {
	case Switch, HandOver, Disarm, AwaitReboot, Verify:
	case Confirm:
		reason = fleet.ReasonNoNetwork
	default:
		return j, false
	}
	j, _ = j.rollBack(fleet.OutcomeRolledBack, reason, in.Message)
	if in.Running == w.Previous.Path && in.BootDefault == w.Previous.Path {
		j.Step = RollbackHandOver
	}
	return j, true
}

// finish keeps what later attempts need to know.
func (j Journal) finish(now Moment) (Journal, bool) {
	w := j.Work
	j.Done = append(slices.Clone(j.Done), w.Order.Key())
	if w.RevertKey != "" && w.RevertKey != w.Order.Key() {
		j.Done = append(j.Done, w.RevertKey)
	}
	j.Done = j.Done[max(0, len(j.Done)-maxDone):]
	switch {
	case w.Outcome == fleet.OutcomeStagedReboot:
		j.Staged = &w.Target
	case w.Outcome.Success():
		j = j.wentLive(now)
	case w.Outcome != fleet.OutcomeRefused:
		j = j.leftRelease(now).stays(now)
	}
	j.Trust = j.Trust.RaiseFloor(now.WallMs)
	j.Drift = ""
	j.Work, j.Step = nil, Idle
	return j, true
}

func (j Journal) wentLive(now Moment) Journal {
	w := j.Work
	if j.Current == nil || j.Current.Path != w.Target.Path {
		j = j.keepGood(w.Previous, w.Target)
	}
	j.Staged = nil
	j.Failed = slices.DeleteFunc(slices.Clone(j.Failed), func(p fleet.StorePath) bool { return p == w.Target.Path })
	return j.becomes(w.Target, now)
}

// becomes makes s the current system. There is no other way to become it.
func (j Journal) becomes(s System, now Moment) Journal {
	j.Current = &s
	return j.stays(now)
}

// stays tells the trust state which release is current, after what may have ended
// the pending one: an attempt at the release that is current, or to leave it.
func (j Journal) stays(now Moment) Journal {
	if j.Current == nil {
		return j
	}
	if m := j.Current.mark(); m != nil {
		j.Trust = j.Trust.Became(*m, now.WallMs)
	}
	return j
}

// keepGood makes previous the last good system of a machine that moves to target,
// unless it was left for an older one: then it is above the floor.
func (j Journal) keepGood(previous, target System) Journal {
	m, floor := previous.mark(), j.Trust.Floor
	above := m != nil && floor != nil && m.Sequence > floor.Lines[m.Line].Sequence
	switch {
	case previous.Path == target.Path || previous.Path == "":
	case !above:
		j.LastGood, j.Trust.LastGood = &previous, m
	case j.LastGood != nil && j.LastGood.Path == target.Path:
		j.LastGood, j.Trust.LastGood = nil, nil
	}
	return j
}

func (j Journal) leftRelease(now Moment) Journal {
	w := j.Work
	ordered := w.RevertKey != ""
	floor := j.Trust.Floor
	switch {
	case ordered:
		j.Trust = j.Trust.Left(w.Target.Digest, now.WallMs)
	case floor != nil && floor.Pending != nil && floor.Pending.Digest == w.Target.Digest && !w.Converged:
		f := floor.RolledBack(now.WallMs)
		j.Trust.Floor = &f
	}
	if !ordered && w.Outcome != fleet.OutcomeFailed && w.Target.Path != "" && w.Target.Path != w.Previous.Path {
		j.Failed = append(slices.Clone(j.Failed), w.Target.Path)
		j.Failed = j.Failed[max(0, len(j.Failed)-maxFailed):]
	}
	if w.Outcome.OnPrevious() && w.Previous.Digest != "" {
		previous := w.Previous
		if ordered && j.LastGood != nil && j.LastGood.Path == previous.Path {
			j.LastGood, j.Trust.LastGood = nil, nil
		}
		j = j.becomes(previous, now)
	}
	return j
}
