// SPDX-License-Identifier: MIT

package options

import "github.com/arcanesys/nixfleet/fleet"

// given are what each flag sets of a spec. A flag that is given beats a policy.
var given = map[string]func(to *fleet.RolloutSpec, from fleet.RolloutSpec){
	"name":     func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Name = from.Name },
	"on":       func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Select = from.Select },
	"strategy": func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Strategy = from.Strategy },
	"batches": func(to *fleet.RolloutSpec, from fleet.RolloutSpec) {
		to.Strategy, to.Batches = from.Strategy, from.Batches
	},
	"canary":             func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Canaries = from.Canaries },
	"max-failures":       func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.MaxFailures = from.MaxFailures },
	"max-failures-total": func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.MaxFailuresTotal = from.MaxFailuresTotal },
	"on-failure":         func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.OnFailure = from.OnFailure },
	"offline":            func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Offline = from.Offline },
	"max-parallel":       func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.MaxParallel = from.MaxParallel },
	"approve":            func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Approve = from.Approve },
	"approve-by-other":   func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.ApproveByOther = from.ApproveByOther },
	"supersede":          func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Supersede = from.Supersede },
	"late-joiners":       func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.LateJoiners = from.LateJoiners },
	"window":             func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Windows = from.Windows },
	"blackout":           func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Blackouts = from.Blackouts },
	"reboot":             func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Reboot = from.Reboot },
	"reboot-window": func(to *fleet.RolloutSpec, from fleet.RolloutSpec) {
		to.Reboot, to.RebootWindows = from.Reboot, from.RebootWindows
	},
	"limit":             func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.FailureLimits = from.FailureLimits },
	"after":             func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.After = from.After },
	"gate":              func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.Gates = from.Gates },
	"on-inconclusive":   func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.OnInconclusive = from.OnInconclusive },
	"gate-deadline":     func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.GateDeadlineMs = from.GateDeadlineMs },
	"min-healthy":       func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.MinHealthyMs = from.MinHealthyMs },
	"healthy-deadline":  func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.HealthyDeadlineMs = from.HealthyDeadlineMs },
	"progress-deadline": func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.ProgressDeadlineMs = from.ProgressDeadlineMs },
	"soak":              func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.SoakMs = from.SoakMs },
	"straggler":         func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.StragglerMs = from.StragglerMs },
	"offline-after":     func(to *fleet.RolloutSpec, from fleet.RolloutSpec) { to.OfflineAfterMs = from.OfflineAfterMs },
}

// FillOver returns the spec of a policy with what the flags that are given say
// otherwise. An error is one of usage.
func (o *Rollout) FillOver(p fleet.RolloutPolicy, isGiven func(flag string) bool) (fleet.RolloutSpec, error) {
	flags, err := o.Fill()
	if err != nil {
		return flags, err
	}
	s := p.For("", "")
	was := s.Strategy
	for flag, set := range given {
		if isGiven(flag) {
			set(&s, flags)
		}
	}
	if s.Strategy != was { // what goes with the policy's strategy goes with it
		if !isGiven("batches") {
			s.Batches = nil
		}
		if !isGiven("canary") {
			s.Canaries = nil
		}
	}
	if s.Reboot != fleet.RebootWindow {
		s.RebootWindows = nil
	}
	if len(s.Gates) == 0 {
		s.GateDeadlineMs, s.OnInconclusive = 0, ""
	}
	return s, nil
}
