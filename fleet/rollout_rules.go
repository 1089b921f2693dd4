// SPDX-License-Identifier: MIT

package fleet

import (
	"slices"
	"strings"
)

// RolloutRules are the part of a rollout's spec that says when machines may be
// offered the release.
type RolloutRules struct {
	// Policy is the name of the policy that the spec was made from, if any. Nothing
	// is decided by it.
	Policy string `json:"policy,omitempty"`

	// After are groups of machines that go first, one after the other, each written
	// as selector terms with commas between. A machine belongs to the first that it
	// matches; the others go last. Each group has batches of its own. The next group
	// begins when all machines of those before are done, also of other rollouts.
	After []string `json:"after,omitempty"`

	// LateJoiners are machines that are active when the rollout completes, that it
	// selects, and that are not in its plan: with it they get the release once it has
	// completed, as those that catch up (Behind).
	LateJoiners bool `json:"lateJoiners,omitempty"`

	// Windows are when machines may begin to switch, and may reboot, as ParseWindow
	// reads them; none: at any time. Work that has begun goes on when they close.
	Windows []string `json:"windows,omitempty"`
	// Blackouts are when they may not, whatever Windows say.
	Blackouts []string `json:"blackouts,omitempty"`

	// Reboot is when machines may reboot into the release, beside what the policy of
	// each machine allows; empty: that policy alone. With window, RebootWindows say
	// when, and Windows and Blackouts hold too.
	Reboot        RebootPolicy `json:"reboot,omitempty"`
	RebootWindows []string     `json:"rebootWindows,omitempty"`

	// FailureLimits are what is tolerated of each type of failure, beside
	// MaxFailures.
	FailureLimits []FailureLimit `json:"failureLimits,omitempty"`

	// Gates are asked once a batch has soaked; all must pass before it does, the
	// last batch included.
	Gates []GateName `json:"gates,omitempty"`
	// GateDeadlineMs is how long the gates of a batch may be inconclusive; then
	// OnInconclusive applies.
	GateDeadlineMs int64          `json:"gateDeadlineMs,omitempty"`
	OnInconclusive OnInconclusive `json:"onInconclusive,omitempty"`
}

// defaults fills in what goes with gates.
func (r RolloutRules) defaults() RolloutRules {
	if len(r.Gates) == 0 {
		return r
	}
	if r.GateDeadlineMs == 0 {
		r.GateDeadlineMs = 10 * 60e3
	}
	if r.OnInconclusive == "" {
		r.OnInconclusive = InconclusiveFails
	}
	return r
}

// Calendar returns when machines may begin. The error's code is Invalid.
func (r RolloutRules) Calendar() (Calendar, error) { return ParseCalendar(r.Windows, r.Blackouts) }

// MaxGroups bounds the groups of a rollout that go first.
const MaxGroups = 10

// Groups returns the selectors of After. The error's code is Invalid.
func (r RolloutRules) Groups() ([]Selector, error) {
	if len(r.After) > MaxGroups {
		return nil, Errorf(Invalid, "rollout: %d groups in after are more than %d", len(r.After), MaxGroups)
	}
	var list []Selector
	for _, text := range r.After {
		sel, err := ParseSelector(strings.Split(text, ","))
		if err != nil {
			return nil, Errorf(Invalid, "rollout: after %q: %w", clip(text, 100), err).WithHint("%s", ErrorHint(err))
		}
		list = append(list, sel)
	}
	return list, nil
}

// validate reports the first thing wrong; the code is Invalid.
func (r RolloutRules) validate() error {
	if _, err := r.Calendar(); err != nil {
		return Errorf(Invalid, "rollout: %w", err).WithHint("%s", ErrorHint(err))
	}
	if err := r.validateReboot(); err != nil {
		return err
	}
	if _, err := r.Groups(); err != nil {
		return err
	}
	const day = 24 * 3600 * 1000
	if r.Policy != "" && !gateName.MatchString(r.Policy) {
		return Errorf(Invalid, "rollout: %q is not the name of a policy", clip(r.Policy, 60))
	}
	for i, l := range r.FailureLimits {
		if err := l.validate(); err != nil {
			return err
		}
		if i >= MaxGates || slices.ContainsFunc(r.FailureLimits[:i], func(o FailureLimit) bool { return o.Type == l.Type }) {
			return Errorf(Invalid, "rollout: the limit of %s is listed twice, or is one too many", l.Type)
		}
	}
	for i, g := range r.Gates {
		if !g.Valid() || slices.Contains(r.Gates[:i], g) || i >= MaxGates {
			return Errorf(Invalid, "rollout: %q is not the name of a gate, is listed twice, or is one too many", clip(string(g), 60))
		}
	}
	switch {
	case len(r.Gates) == 0 && (r.GateDeadlineMs != 0 || r.OnInconclusive != ""):
		return Errorf(Invalid, "rollout: gateDeadline and onInconclusive go with gates only")
	case len(r.Gates) == 0:
	case r.GateDeadlineMs < 1000 || r.GateDeadlineMs > 30*day:
		return Errorf(Invalid, "rollout: gateDeadline of %d ms must be between a second and 30 days", r.GateDeadlineMs)
	case !r.OnInconclusive.Valid():
		return Errorf(Invalid, "rollout: onInconclusive %q is not fail or approve", clip(string(r.OnInconclusive), 40))
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
