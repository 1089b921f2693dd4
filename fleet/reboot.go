// SPDX-License-Identifier: MIT

package fleet

import "time"

// RebootPolicy says when a machine may reboot into a system that needs it. A machine
// has one in its configuration, and a rollout may have one: the stricter holds.
type RebootPolicy string

// The reboot policies.
const (
	RebootNever    RebootPolicy = "never"     // the system runs whole after somebody else's reboot
	RebootIfNeeded RebootPolicy = "if-needed" // at once
	RebootWindow   RebootPolicy = "window"    // while a reboot window is open
)

// Valid reports whether p is one of the policies.
func (p RebootPolicy) Valid() bool {
	switch p {
	case RebootNever, RebootIfNeeded, RebootWindow:
		return true
	}
	return false
}

// Allows reports whether a machine may reboot, now or later: none leaves it to the
// machine.
func (p RebootPolicy) Allows() bool { return p != RebootNever }

// validateReboot reports the first thing wrong with when machines may reboot; the
// code is Invalid.
func (r RolloutRules) validateReboot() error {
	switch {
	case r.Reboot != "" && !r.Reboot.Valid():
		return Errorf(Invalid, "rollout: reboot %q is not never, if-needed or window", clip(string(r.Reboot), 40))
	case (r.Reboot == RebootWindow) != (len(r.RebootWindows) > 0):
		return Errorf(Invalid, "rollout: reboot windows go with reboot policy window, and it needs one").WithHint(windowHint)
	}
	if _, err := r.RebootCalendar(); err != nil {
		return Errorf(Invalid, "rollout: reboot %w", err).WithHint("%s", ErrorHint(err))
	}
	return nil
}

// RebootCalendar returns when machines may reboot, as far as RebootWindows say. The
// error's code is Invalid.
func (r RolloutRules) RebootCalendar() (Calendar, error) { return ParseCalendar(r.RebootWindows, nil) }

// NextOfBoth returns the first moment from t on at which two calendars allow work to
// begin; zero if none is found, as for Calendar.Next.
func NextOfBoth(a, b Calendar, t time.Time) time.Time {
	for range maxSteps {
		t = a.Next(t)
		if t.IsZero() {
			return t
		}
		both := b.Next(t)
		if both.IsZero() || both.Equal(t) {
			return both
		}
		t = both
	}
	return time.Time{}
}
