// SPDX-License-Identifier: MIT

package check

import "github.com/arcanesys/nixfleet/fleet"

// Observation is the result of one probe.
type Observation struct {
	OK         bool
	Observed   string
	At         int64   // Unix ms
	DurationMs int64   // of the probe
	Since      float64 // seconds from the beginning of the start period to the probe
}

// Tracker turns the probes of one check into its status: pending at first, passing
// after Successes good probes in a row, failing after more than Retries bad ones
// in a row. Bad probes within the start period do not count until the check has
// passed once (A08).
type Tracker struct {
	check  fleet.HealthCheck
	result fleet.HealthCheckResult
	passed bool
}

// NewTracker returns the tracker of a check that was not probed yet.
func NewTracker(c fleet.HealthCheck) *Tracker {
	return &Tracker{check: c, result: fleet.HealthCheckResult{Name: c.Name, Kind: c.Kind, Status: fleet.HealthCheckPending, Required: c.Required, Observed: "not probed yet"}}
}

// Result returns the status after the probes so far.
func (t *Tracker) Result() fleet.HealthCheckResult { return t.result }

// Add takes a probe into account and returns the result.
func (t *Tracker) Add(o Observation) fleet.HealthCheckResult {
	r := &t.result
	r.Observed, r.At, r.DurationMs = o.Observed, o.At, o.DurationMs
	if o.OK {
		r.Failures = 0
		r.Passes++
		if r.Passes >= t.check.Successes {
			r.Status, t.passed = fleet.HealthCheckPassing, true
		} else if r.Status == fleet.HealthCheckFailing && t.passed {
			r.Status = fleet.HealthCheckPending
		}
		return *r
	}
	r.Passes = 0
	if !t.passed && o.Since < t.check.StartPeriodSeconds {
		r.Status = fleet.HealthCheckPending
		return *r
	}
	r.Failures++
	if r.Failures > t.check.Retries {
		r.Status = fleet.HealthCheckFailing
	} else if r.Status == fleet.HealthCheckPassing {
		r.Status = fleet.HealthCheckPending
	}
	return *r
}

// Longest returns how many seconds a check may take to pass or fail, if good and
// bad probes do not alternate.
func Longest(c fleet.HealthCheck) float64 {
	probes := float64(max(c.Retries+1, c.Successes) + 1)
	return c.StartPeriodSeconds + probes*(c.IntervalSeconds+c.TimeoutSeconds)
}
