// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/check"
	"github.com/arcanesys/nixfleet/internal/config"
)

// healthChecks are the checks that the running system declares. A system without a
// required check gets a minimal one: no data never counts as healthy (H05).
func healthChecks(c config.Agent) []fleet.HealthCheck {
	checks := c.HealthChecks()
	for _, k := range checks {
		if k.Required {
			return checks
		}
	}
	least := fleet.HealthCheck{Name: "system", Kind: fleet.HealthCheckUnit, Unit: "multi-user.target", IntervalSeconds: 5, TimeoutSeconds: 5, Retries: 5, Successes: 1, Required: true}
	if host.System().Darwin() {
		least.Kind, least.Unit, least.Label = fleet.HealthCheckLaunchd, "", host.AgentLabel
	}
	return append(checks, least)
}

// verify runs the checks until the required ones have passed for as long as the
// order wants, or one fails.
func (m *Machine) verify(ctx context.Context, j states.Journal) states.Input {
	cfg, err := m.ReadConfig(m.ConfigFile)
	if err != nil {
		return states.Unhealthy{Reason: fleet.ReasonCheckFailed, Message: "the new system's checks cannot be read: " + err.Error()}
	}
	checks := healthChecks(cfg)
	v := verification{
		minHealthy: minHealthy(j.Work.Order.MinHealthyMs, checks),
		results:    make(chan []fleet.HealthCheckResult, 1),
		runs: func() bool {
			g := m.Generations()
			return g.Running == j.Work.Target.Path
		},
	}
	now := time.Now()
	longest := 0.0
	for _, c := range checks {
		longest = max(longest, check.Longest(c))
	}
	v.limit = time.Duration(2*longest*float64(time.Second)) + 2*v.minHealthy + time.Minute
	v.runner = &check.Runner{
		Checks: checks, Probe: m.Probe, Begin: now.Add(-time.Duration((m.Now().Boot - j.Work.VerifyFrom) * float64(time.Second))),
		OnChange: func(r []fleet.HealthCheckResult) {
			m.SetChecks(r)
			v.offer(r)
		},
	}
	in := v.run(ctx)
	if _, ok := in.(states.Failed); ok {
		if message, fired := m.Fired(ctx); fired {
			return states.WatchdogFired{Generations: m.Generations(), Message: message}
		}
	}
	if h, ok := in.(states.Healthy); ok {
		if h.FailedUnits, err = m.Supervisor.FailedUnits(ctx); err != nil {
			m.log.Warn("failed units cannot be listed", "error", err)
		}
		return h
	}
	return in
}

// minHealthy is how long the checks must pass: as long as the order says, but at
// least one interval of each, because an order is not signed (E05).
func minHealthy(orderMs int64, checks []fleet.HealthCheck) time.Duration {
	d := time.Duration(orderMs) * time.Millisecond
	for _, c := range checks {
		if c.Required {
			d = max(d, time.Duration(min(c.IntervalSeconds, 10)*float64(time.Second)))
		}
	}
	return d
}

// verification decides on the results of checks as they arrive.
type verification struct {
	runner     *check.Runner
	minHealthy time.Duration
	limit      time.Duration
	results    chan []fleet.HealthCheckResult // the newest
	runs       func() bool                    // whether the target still runs
}

// offer replaces results that were not read yet.
func (v *verification) offer(r []fleet.HealthCheckResult) {
	select {
	case <-v.results:
	default:
	}
	v.results <- r
}

func (v *verification) run(ctx context.Context) states.Input {
	inner, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { v.runner.Run(inner); close(ended) }()
	defer func() { stop(); <-ended }()

	limit := time.NewTimer(v.limit)
	defer limit.Stop()
	var healthy <-chan time.Time // when it has been healthy for long enough
	for {
		if !v.runs() {
			return states.Failed{Reason: fleet.ReasonChangedLocally, Message: "the machine was switched locally while its checks ran"}
		}
		var r []fleet.HealthCheckResult
		select {
		case <-ctx.Done():
			return nil
		case <-limit.C:
			r = v.runner.Results()
			return states.Unhealthy{Reason: fleet.ReasonCheckTimeout, Message: fmt.Sprintf("not healthy within %s\n%s", v.limit, describe(r)), Checks: r}
		case <-healthy:
			// A last look: the interval of a check may be longer than the time
			// in which it has to pass.
			r = v.runner.ProbeRequired(ctx)
			if fleet.HealthOf(r) == fleet.Healthy && ctx.Err() == nil && v.runs() {
				return states.Healthy{Checks: r}
			}
			healthy = nil
		case r = <-v.results:
		}
		switch fleet.HealthOf(r) {
		case fleet.Unhealthy:
			return states.Unhealthy{Reason: fleet.ReasonCheckFailed, Message: describe(r), Checks: r}
		case fleet.HealthPending:
			healthy = nil
		case fleet.Healthy:
			if healthy == nil {
				healthy = time.After(v.minHealthy)
			}
		}
	}
}

// describe names the required checks that do not pass and what they observed.
func describe(results []fleet.HealthCheckResult) string {
	var b strings.Builder
	for _, r := range results {
		if r.Required && r.Status != fleet.HealthCheckPassing {
			fmt.Fprintf(&b, "check %s is %s: %s\n", r.Name, r.Status, r.Observed)
		}
	}
	return strings.TrimSpace(b.String())
}
