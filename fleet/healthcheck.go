// SPDX-License-Identifier: MIT

package fleet

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// HealthCheckKind says how a check looks at a machine.
type HealthCheckKind string

// The kinds of check.
const (
	HealthCheckUnit    HealthCheckKind = "unit"    // a systemd unit is active, and stays so
	HealthCheckLaunchd HealthCheckKind = "launchd" // a launchd service has a process
	HealthCheckHTTP    HealthCheckKind = "http"    // a URL answers with the expected status
	HealthCheckTCP     HealthCheckKind = "tcp"     // a port accepts a connection
	HealthCheckCommand HealthCheckKind = "command" // a program exits 0
)

// Valid reports whether k is one of the kinds.
func (k HealthCheckKind) Valid() bool {
	switch k {
	case HealthCheckUnit, HealthCheckLaunchd, HealthCheckHTTP, HealthCheckTCP, HealthCheckCommand:
		return true
	}
	return false
}

// HealthCheck is a health check as the machine's own system declares it. It comes
// with the closure, so only a release signer can change it. Durations are in
// seconds.
type HealthCheck struct {
	Name         string          `json:"name"`
	Kind         HealthCheckKind `json:"kind"`
	Unit         string          `json:"unit,omitempty"`    // unit
	Label        string          `json:"label,omitempty"`   // launchd
	URL          string          `json:"url,omitempty"`     // http
	Address      string          `json:"address,omitempty"` // tcp: host:port
	Command      []string        `json:"command,omitempty"` // command: program and arguments, no shell
	ExpectStatus int             `json:"expectStatus,omitempty"`

	IntervalSeconds    float64 `json:"intervalSeconds"`    // between two probes
	TimeoutSeconds     float64 `json:"timeoutSeconds"`     // of one probe; then it is killed
	Retries            int     `json:"retries"`            // failures in a row, after the first, that are forgiven
	StartPeriodSeconds float64 `json:"startPeriodSeconds"` // after the switch, in which failures do not count
	Successes          int     `json:"successes"`          // in a row, until the check passes
	Required           bool    `json:"required"`           // its failure rolls the machine back
}

// Validate reports the first thing wrong with c; the code is Invalid.
func (c HealthCheck) Validate() error {
	bad := func(format string, args ...any) error {
		return Errorf(Invalid, "check "+clip(c.Name, 63)+": "+format, args...)
	}
	if !Tag(c.Name).Valid() {
		return Errorf(Invalid, "check name %q must be letters, digits and -_.:/", clip(c.Name, 80))
	}
	switch c.Kind {
	case HealthCheckUnit:
		if !strings.Contains(c.Unit, ".") || strings.ContainsAny(c.Unit, " /\x00") {
			return bad("unit %q must be a unit with its suffix, such as nginx.service", clip(c.Unit, 80))
		}
	case HealthCheckLaunchd:
		if c.Label == "" || strings.ContainsAny(c.Label, " /\x00") {
			return bad("label %q must be a launchd label", clip(c.Label, 80))
		}
	case HealthCheckHTTP:
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
			return bad("url %q must be an http or https URL", clip(c.URL, 120))
		}
		if c.ExpectStatus != 0 && (c.ExpectStatus < 100 || c.ExpectStatus > 599) {
			return bad("expectStatus %d is not an HTTP status", c.ExpectStatus)
		}
	case HealthCheckTCP:
		if _, port, err := net.SplitHostPort(c.Address); err != nil || port == "" {
			return bad("address %q must be host:port", clip(c.Address, 120))
		}
	case HealthCheckCommand:
		if len(c.Command) == 0 || !strings.HasPrefix(c.Command[0], "/") {
			return bad("command must begin with the absolute path of a program")
		}
	default:
		return bad("kind %q is not unit, launchd, http, tcp or command", clip(string(c.Kind), 40))
	}
	switch {
	case c.IntervalSeconds <= 0 || c.IntervalSeconds > 3600:
		return bad("intervalSeconds must be above 0 and at most 3600")
	case c.TimeoutSeconds <= 0 || c.TimeoutSeconds > 3600:
		return bad("timeoutSeconds must be above 0 and at most 3600")
	case c.Retries < 0 || c.Retries > 1000:
		return bad("retries must be between 0 and 1000")
	case c.StartPeriodSeconds < 0 || c.StartPeriodSeconds > 86400:
		return bad("startPeriodSeconds must be between 0 and 86400")
	case c.Successes < 1 || c.Successes > 1000:
		return bad("successes must be between 1 and 1000")
	}
	return nil
}

// HealthCheckStatus is what a check says now. Pending is not passing.
type HealthCheckStatus string

// The statuses of a check.
const (
	HealthCheckPending HealthCheckStatus = "pending" // has not passed yet; failures within the start period or retries
	HealthCheckPassing HealthCheckStatus = "passing" // passed as often in a row as it must
	HealthCheckFailing HealthCheckStatus = "failing" // failed more often in a row than its retries forgive
)

// Valid reports whether s is one of the statuses.
func (s HealthCheckStatus) Valid() bool {
	switch s {
	case HealthCheckPending, HealthCheckPassing, HealthCheckFailing:
		return true
	}
	return false
}

// MaxObserved bounds HealthCheckResult.Observed, in bytes.
const MaxObserved = 1024

// HealthCheckResult is what a check last saw.
type HealthCheckResult struct {
	Name       string            `json:"name"`
	Kind       HealthCheckKind   `json:"kind"`
	Status     HealthCheckStatus `json:"status"`
	Required   bool              `json:"required"`
	Observed   string            `json:"observed"`   // for people: "unit app.service is failed (exit-code)"
	At         int64             `json:"at"`         // Unix milliseconds of the probe
	DurationMs int64             `json:"durationMs"` // of the probe
	Failures   int               `json:"failures"`   // in a row
	Passes     int               `json:"passes"`     // in a row
}

// CleanResults cuts results to their limits: of too many, those that keep the machine
// from being healthy stay. A kind or status that this version does not know stays, and
// never counts as good.
func CleanResults(results []HealthCheckResult) []HealthCheckResult {
	results = slices.Clone(results) // others may read what was given
	if len(results) > MaxChecks {
		slices.SortStableFunc(results, func(a, b HealthCheckResult) int { return a.rank() - b.rank() })
		results = results[:MaxChecks]
	}
	for i := range results {
		r := &results[i]
		if r.Name = CleanLine(r.Name, 63); r.Name == "" {
			r.Name = unreadable
		}
		r.Kind, r.Status = CleanWord(r.Kind), CleanWord(r.Status)
		r.Observed = CleanText(r.Observed, MaxObserved)
	}
	return results
}

// rank orders results by how much they say of a machine's health.
func (r HealthCheckResult) rank() int {
	switch {
	case r.Required && r.Status == HealthCheckFailing:
		return 0
	case r.Required && r.Status != HealthCheckPassing:
		return 1
	case r.Required:
		return 2
	}
	return 3
}

// Health says whether a machine is healthy. A health check passes or fails; a
// machine is healthy or not.
type Health string

// The values of a machine's health.
const (
	HealthPending Health = "pending"   // a required check has not passed yet, or there is none
	Healthy       Health = "healthy"   // every required check passes
	Unhealthy     Health = "unhealthy" // a required check fails
)

// Valid reports whether h is one of the three.
func (h Health) Valid() bool {
	switch h {
	case HealthPending, Healthy, Unhealthy:
		return true
	}
	return false
}

// HealthOf sums up check results: unhealthy if a required one fails, pending if
// one has not passed yet, has a status that is not known, or there are none (no
// data is not healthy, H05), else healthy.
func HealthOf(results []HealthCheckResult) Health {
	health := Healthy
	required := 0
	for _, r := range results {
		if !r.Required {
			continue
		}
		required++
		switch r.Status {
		case HealthCheckFailing:
			return Unhealthy
		case HealthCheckPassing:
		default:
			health = HealthPending
		}
	}
	if required == 0 {
		return HealthPending
	}
	return health
}
