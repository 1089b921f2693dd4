// SPDX-License-Identifier: MIT

package fleet

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// CheckKind says how a check looks at a machine.
type CheckKind string

// The kinds of check.
const (
	CheckUnit    CheckKind = "unit"    // a systemd unit is active, and stays so
	CheckLaunchd CheckKind = "launchd" // a launchd service has a process
	CheckHTTP    CheckKind = "http"    // a URL answers with the expected status
	CheckTCP     CheckKind = "tcp"     // a port accepts a connection
	CheckCommand CheckKind = "command" // a program exits 0
)

// Valid reports whether k is one of the kinds.
func (k CheckKind) Valid() bool {
	switch k {
	case CheckUnit, CheckLaunchd, CheckHTTP, CheckTCP, CheckCommand:
		return true
	}
	return false
}

// Check is a health check as the machine's own system declares it. It comes
// with the closure, so only a release signer can change it. Durations are in
// seconds.
type Check struct {
	Name         string    `json:"name"`
	Kind         CheckKind `json:"kind"`
	Unit         string    `json:"unit,omitempty"`    // unit
	Label        string    `json:"label,omitempty"`   // launchd
	URL          string    `json:"url,omitempty"`     // http
	Address      string    `json:"address,omitempty"` // tcp: host:port
	Command      []string  `json:"command,omitempty"` // command: program and arguments, no shell
	ExpectStatus int       `json:"expectStatus,omitempty"`

	IntervalSeconds    float64 `json:"intervalSeconds"`    // between two probes
	TimeoutSeconds     float64 `json:"timeoutSeconds"`     // of one probe; then it is killed
	Retries            int     `json:"retries"`            // failures in a row, after the first, that are forgiven
	StartPeriodSeconds float64 `json:"startPeriodSeconds"` // after the switch, in which failures do not count
	Successes          int     `json:"successes"`          // in a row, until the check passes
	Required           bool    `json:"required"`           // its failure takes the machine back
}

// Validate reports the first thing wrong with c; the code is Invalid.
func (c Check) Validate() error {
	bad := func(format string, args ...any) error {
		return Errorf(Invalid, "check "+clip(c.Name, 63)+": "+format, args...)
	}
	if !Tag(c.Name).Valid() {
		return Errorf(Invalid, "check name %q must be letters, digits and -_.:/", clip(c.Name, 80))
	}
	switch c.Kind {
	case CheckUnit:
		if !strings.Contains(c.Unit, ".") || strings.ContainsAny(c.Unit, " /\x00") {
			return bad("unit %q must be a unit with its suffix, such as nginx.service", clip(c.Unit, 80))
		}
	case CheckLaunchd:
		if c.Label == "" || strings.ContainsAny(c.Label, " /\x00") {
			return bad("label %q must be a launchd label", clip(c.Label, 80))
		}
	case CheckHTTP:
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
			return bad("url %q must be an http or https URL", clip(c.URL, 120))
		}
		if c.ExpectStatus != 0 && (c.ExpectStatus < 100 || c.ExpectStatus > 599) {
			return bad("expectStatus %d is not an HTTP status", c.ExpectStatus)
		}
	case CheckTCP:
		if _, port, err := net.SplitHostPort(c.Address); err != nil || port == "" {
			return bad("address %q must be host:port", clip(c.Address, 120))
		}
	case CheckCommand:
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

// CheckStatus is what a check says now. Pending is not passing.
type CheckStatus string

// The statuses of a check.
const (
	CheckPending CheckStatus = "pending" // has not passed yet; failures within the start period or retries
	CheckPassing CheckStatus = "passing" // passed as often in a row as it must
	CheckFailing CheckStatus = "failing" // failed more often in a row than its retries forgive
)

// Valid reports whether s is one of the statuses.
func (s CheckStatus) Valid() bool {
	switch s {
	case CheckPending, CheckPassing, CheckFailing:
		return true
	}
	return false
}

// MaxObserved bounds CheckResult.Observed, in bytes.
const MaxObserved = 1024

// CheckResult is what a check last saw.
type CheckResult struct {
	Name       string      `json:"name"`
	Kind       CheckKind   `json:"kind"`
	Status     CheckStatus `json:"status"`
	Required   bool        `json:"required"`
	Observed   string      `json:"observed"`   // for people: "unit app.service is failed (exit-code)"
	At         int64       `json:"at"`         // Unix milliseconds of the probe
	DurationMs int64       `json:"durationMs"` // of the probe
	Failures   int         `json:"failures"`   // in a row
	Passes     int         `json:"passes"`     // in a row
}

// Health sums up check results: failing if a required one fails, pending if
// one has not passed yet or there are none (no data is not healthy, H05), else
// passing.
func Health(results []CheckResult) CheckStatus {
	status := CheckPassing
	required := 0
	for _, r := range results {
		if !r.Required {
			continue
		}
		required++
		switch r.Status {
		case CheckFailing:
			return CheckFailing
		case CheckPending:
			status = CheckPending
		case CheckPassing:
		}
	}
	if required == 0 {
		return CheckPending
	}
	return status
}
