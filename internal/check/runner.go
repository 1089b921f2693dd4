// SPDX-License-Identifier: MIT

package check

import (
	"context"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Runner probes a set of checks, each at its own interval.
type Runner struct {
	Checks []fleet.HealthCheck
	// Begin is when the start periods begin; the zero time is now.
	Begin time.Time
	// Probe runs a check once; nil means a new Prober's.
	Probe func(context.Context, fleet.HealthCheck) (bool, string)
	// OnChange is called after each probe with all results. Calls never overlap.
	OnChange func([]fleet.HealthCheckResult)

	mu       sync.Mutex
	trackers []*Tracker
}

// Run probes until the context ends, and leaves nothing running.
func (r *Runner) Run(ctx context.Context) {
	r.init()
	var wg sync.WaitGroup
	for i := range r.Checks {
		wg.Go(func() { r.watch(ctx, i) })
	}
	wg.Wait()
}

func (r *Runner) init() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trackers != nil {
		return
	}
	if r.Begin.IsZero() {
		r.Begin = time.Now()
	}
	if r.Probe == nil {
		r.Probe = new(Prober).Probe
	}
	r.trackers = make([]*Tracker, len(r.Checks))
	for i, c := range r.Checks {
		r.trackers[i] = NewTracker(c)
	}
}

func (r *Runner) watch(ctx context.Context, i int) {
	tick := time.NewTicker(seconds(r.Checks[i].IntervalSeconds))
	defer tick.Stop()
	for {
		r.probe(ctx, i)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Runner) probe(ctx context.Context, i int) {
	begin := time.Now()
	ok, observed := r.Probe(ctx, r.Checks[i])
	if ctx.Err() != nil {
		return // the probe was cut short: its result is not the service's
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trackers[i].Add(Observation{OK: ok, Observed: observed, At: begin.UnixMilli(), DurationMs: time.Since(begin).Milliseconds(), Since: begin.Sub(r.Begin).Seconds()})
	if r.OnChange != nil {
		r.OnChange(r.results())
	}
}

// ProbeRequired probes each required check once more, now, and returns all
// results.
func (r *Runner) ProbeRequired(ctx context.Context) []fleet.HealthCheckResult {
	r.init()
	var wg sync.WaitGroup
	for i, c := range r.Checks {
		if c.Required {
			wg.Go(func() { r.probe(ctx, i) })
		}
	}
	wg.Wait()
	return r.Results()
}

// Results returns the results so far, in the order of the checks.
func (r *Runner) Results() []fleet.HealthCheckResult {
	r.init()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.results()
}

func (r *Runner) results() []fleet.HealthCheckResult {
	out := make([]fleet.HealthCheckResult, len(r.trackers))
	for i, t := range r.trackers {
		out[i] = t.Result()
	}
	return out
}
