// SPDX-License-Identifier: MIT

package fleet

// RolloutRules are the part of a rollout's spec that says when machines may be
// offered the release.
type RolloutRules struct {
	// Windows are when machines may begin to switch, and may reboot, as ParseWindow
	// reads them; none: at any time. Work that has begun goes on when they close.
	Windows []string `json:"windows,omitempty"`
	// Blackouts are when they may not, whatever Windows say.
	Blackouts []string `json:"blackouts,omitempty"`
}

// Calendar returns when machines may begin. The error's code is Invalid.
func (r RolloutRules) Calendar() (Calendar, error) { return ParseCalendar(r.Windows, r.Blackouts) }

// validate reports the first thing wrong; the code is Invalid.
func (r RolloutRules) validate() error {
	if _, err := r.Calendar(); err != nil {
		return Errorf(Invalid, "rollout: %w", err).WithHint("%s", ErrorHint(err))
	}
	return nil
}

// Freeze says that no machine of the fleet is ordered anything new.
type Freeze struct {
	Reason string `json:"reason"`
	By     string `json:"by"`              // actor
	At     int64  `json:"at"`              // Unix milliseconds
	Until  int64  `json:"until,omitempty"` // it ends by itself then; 0: when an operator ends it
}

// Holds reports whether the fleet is frozen at a moment, in Unix milliseconds. A
// nil freeze does not hold.
func (f *Freeze) Holds(at int64) bool { return f != nil && (f.Until == 0 || at < f.Until) }
