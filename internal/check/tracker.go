// SPDX-License-Identifier: MIT

package check

import "github.com/arcanesys/nixfleet/fleet"

// Look is what one probe saw.
type Look struct {
	OK         bool
	Observed   string
	At         int64   // Unix ms
	DurationMs int64   // of the probe
	Since      float64 // seconds from the beginning of the start period to the probe
}

// Tracker turns the looks of one check into its status: pending until enough
// looks in a row were good, passing, or failing once more looks in a row were
// bad than are forgiven. Bad looks within the start period do not count until
// the check has passed once (A08).
type Tracker struct {
	check  fleet.HealthCheck
	result fleet.HealthCheckResult
	passed bool
}

// NewTracker returns the tracker of a check that nobody has looked at.
func NewTracker(c fleet.HealthCheck) *Tracker {
	return &Tracker{check: c, result: fleet.HealthCheckResult{Name: c.Name, Kind: c.Kind, Status: fleet.HealthCheckPending, Required: c.Required, Observed: "not looked at yet"}}
}

// Result is what the looks amount to so far.
func (t *Tracker) Result() fleet.HealthCheckResult { return t.result }

// Add takes a look into account and returns the result.
func (t *Tracker) Add(l Look) fleet.HealthCheckResult {
	r := &t.result
	r.Observed, r.At, r.DurationMs = l.Observed, l.At, l.DurationMs
	if l.OK {
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
	if !t.passed && l.Since < t.check.StartPeriodSeconds {
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

// Longest is how many seconds a check may take to pass or fail, when the looks
// do not alternate.
func Longest(c fleet.HealthCheck) float64 {
	looks := float64(max(c.Retries+1, c.Successes) + 1)
	return c.StartPeriodSeconds + looks*(c.IntervalSeconds+c.TimeoutSeconds)
}
