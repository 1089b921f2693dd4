// SPDX-License-Identifier: MIT

// Package options reads what a rollout is to be from the command line.
//
// It never asks a control plane.
package options

import (
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// Rollout are the options that say what a rollout is to be.
type Rollout struct {
	spec     fleet.RolloutSpec
	Release  string // digest, first digits, name, or latest
	Policy   string // name, or ""
	strategy string
	batches  []string
	maxFail  string
	maxTotal string
	onFail   string
	offline  string
	reboot   string
	gates    []string
	limits   []string

	inconclusive string
	times        map[string]*time.Duration
}

// Register adds the options to a command's flags.
func (o *Rollout) Register(f *pflag.FlagSet) {
	f.StringVar(&o.Release, "release", "latest", "digest, first digits, name, or latest")
	f.StringVar(&o.spec.Name, "name", "", "a name for this rollout")
	f.StringVar(&o.Policy, "policy", "", "take what is not given from this policy; nixfleet policy list shows them")
	o.RegisterPolicy(f)
}

// RegisterPolicy adds the options that a policy can have.
func (o *Rollout) RegisterPolicy(f *pflag.FlagSet) {
	f.StringSliceVar(&o.spec.Select, "on", nil, "machines: web-01,web-*,@tag,!web-3 (default: all of the release)")
	f.StringVar(&o.strategy, "strategy", "", "canary, staged or all-at-once (default canary; staged with --batches)")
	f.StringSliceVar(&o.batches, "batches", nil, "sizes of staged batches: 1,50%,100%")
	f.StringSliceVar(&o.spec.Canaries, "canary", nil, "machines of the first batch, with strategy canary")
	f.StringVar(&o.maxFail, "max-failures", "0", "failures tolerated in a batch: a count or a percentage")
	f.StringVar(&o.maxTotal, "max-failures-total", "", "failures tolerated in all")
	f.StringVar(&o.onFail, "on-failure", "pause", "pause, revert-batch or revert-all")
	f.StringVar(&o.offline, "offline", "wait", "what to do with offline machines: wait, skip or fail")
	f.IntVar(&o.spec.MaxParallel, "max-parallel", 0, "how many machines work at the same time (default: the whole batch)")
	f.BoolVar(&o.spec.Approve, "approve", false, "each batch, the first too, waits for nixfleet rollout approve")
	f.BoolVar(&o.spec.ApproveByOther, "approve-by-other", false, "each batch, the first too, waits for the approval of another owner than yours")
	f.BoolVar(&o.spec.Supersede, "supersede", false, "take machines over from other rollouts")
	f.BoolVar(&o.spec.LateJoiners, "late-joiners", false, "machines that become active meanwhile, and that --on names, get the release once the rollout has completed")
	f.StringArrayVar(&o.spec.Windows, "window", nil, `when machines may begin to switch, and may reboot: "0 3 * * 1-5 2h Europe/Paris", or once "2026-12-24T00:00/2026-12-27T00:00 Europe/Paris"`)
	f.StringArrayVar(&o.spec.Blackouts, "blackout", nil, "when they may not, written in the same way")
	f.StringVar(&o.reboot, "reboot", "", "when machines may reboot into the release: never, if-needed, or window with --reboot-window (default: as each machine's configuration says, which holds in any case)")
	f.StringArrayVar(&o.spec.RebootWindows, "reboot-window", nil, "when machines may reboot, written as --window")
	f.StringSliceVar(&o.limits, "limit", nil, "failures of one type that are tolerated: rolled-back=10%/20 is 10% of the machines that are done, once 20 are; the type is a state or a reason code")
	f.StringArrayVar(&o.spec.After, "after", nil, "machines that go first, in batches of their own: @routers; more of them go one after the other")
	f.StringSliceVar(&o.gates, "gate", nil, "gates that must pass after each batch; nixfleet gate list shows them")
	f.StringVar(&o.inconclusive, "on-inconclusive", "", "when a gate has no answer by its deadline: fail, or approve to wait for nixfleet rollout approve (default fail)")
	o.times = map[string]*time.Duration{}
	for _, t := range []struct {
		name string
		def  time.Duration
		help string
	}{
		{"min-healthy", 10 * time.Second, "how long checks must pass"},
		{"healthy-deadline", 15 * time.Minute, "from offered to healthy"},
		{"progress-deadline", 0, "longest time in which no machine becomes healthy"},
		{"soak", 0, "how long to watch a batch before the next one opens"},
		{"straggler", 0, "start the soak at the latest this long after the batch opened"},
		{"gate-deadline", 0, "how long a gate may be inconclusive (default 10m)"},
		{"offline-after", 5 * time.Minute, "how long a machine may be offline before --offline applies"},
	} {
		o.times[t.name] = f.Duration(t.name, t.def, t.help)
	}
}

// Fill returns the spec that the options describe. An error is one of usage.
func (o *Rollout) Fill() (fleet.RolloutSpec, error) {
	s := o.spec
	s.Strategy, s.OnFailure, s.Offline = fleet.Strategy(o.strategy), fleet.OnFailure(o.onFail), fleet.OfflinePolicy(o.offline)
	if s.Strategy == "" && len(o.batches) > 0 {
		s.Strategy = fleet.Staged
	}
	for _, b := range o.batches {
		n, err := fleet.ParseAmount(strings.TrimSpace(b))
		if err != nil {
			return s, command.Exit(command.ExitUsage, err)
		}
		s.Batches = append(s.Batches, n)
	}
	s.Reboot = fleet.RebootPolicy(o.reboot)
	if s.Reboot == "" && len(s.RebootWindows) > 0 {
		s.Reboot = fleet.RebootWindow
	}
	var err error
	if s.MaxFailures, err = fleet.ParseAmount(o.maxFail); err != nil {
		return s, command.Exit(command.ExitUsage, err)
	}
	if o.maxTotal != "" {
		n, err := fleet.ParseAmount(o.maxTotal)
		if err != nil {
			return s, command.Exit(command.ExitUsage, err)
		}
		s.MaxFailuresTotal = &n
	}
	for _, name := range []string{"min-healthy", "healthy-deadline", "offline-after"} {
		if *o.times[name] < time.Millisecond { // 0 would mean the default
			return s, command.Usagef("--%s %s must be above 0", name, *o.times[name])
		}
	}
	for _, text := range o.limits {
		l, err := fleet.ParseFailureLimit(text)
		if err != nil {
			return s, command.Exit(command.ExitUsage, err)
		}
		s.FailureLimits = append(s.FailureLimits, l)
	}
	for _, g := range o.gates {
		s.Gates = append(s.Gates, fleet.GateName(g))
	}
	s.OnInconclusive = fleet.OnInconclusive(o.inconclusive)
	ms := func(name string) int64 { return o.times[name].Milliseconds() }
	s.MinHealthyMs, s.HealthyDeadlineMs, s.ProgressDeadlineMs = ms("min-healthy"), ms("healthy-deadline"), ms("progress-deadline")
	s.GateDeadlineMs = ms("gate-deadline")
	s.SoakMs, s.StragglerMs, s.OfflineAfterMs = ms("soak"), ms("straggler"), ms("offline-after")
	return s, nil
}
