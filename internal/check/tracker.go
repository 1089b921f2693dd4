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
	check  fleet.Check
	result fleet.CheckResult
	passed bool
}

// NewTracker returns the tracker of a check that nobody has looked at.
func NewTracker(c fleet.Check) *Tracker {
	return &Tracker{check: c, result: fleet.CheckResult{Name: c.Name, Kind: c.Kind, Status: fleet.CheckPending, Required: c.Required, Observed: "not looked at yet"}}
}

// Result is what the looks amount to so far.
func (t *Tracker) Result() fleet.CheckResult { return t.result }

// Add takes a look into account and returns the result.
func (t *Tracker) Add(l Look) fleet.CheckResult {
	r := &t.result
	r.Observed, r.At, r.DurationMs = l.Observed, l.At, l.DurationMs
	if l.OK {
		r.Failures = 0
		r.Passes++
		if r.Passes >= t.check.Successes {
			r.Status, t.passed = fleet.CheckPassing, true
		} else if r.Status == fleet.CheckFailing && t.passed {
			r.Status = fleet.CheckPending
		}
		return *r
	}
	r.Passes = 0
	if !t.passed && l.Since < t.check.StartPeriodSeconds {
		r.Status = fleet.CheckPending
		return *r
	}
	r.Failures++
	if r.Failures > t.check.Retries {
		r.Status = fleet.CheckFailing
	} else if r.Status == fleet.CheckPassing {
		r.Status = fleet.CheckPending
	}
	return *r
}

// Longest is how many seconds a check may take to pass or fail, when the looks
// do not alternate.
func Longest(c fleet.Check) float64 {
	looks := float64(max(c.Retries+1, c.Successes) + 1)
	return c.StartPeriodSeconds + looks*(c.IntervalSeconds+c.TimeoutSeconds)
}
