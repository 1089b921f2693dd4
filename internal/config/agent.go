// SPDX-License-Identifier: MIT

package config

import (
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// AgentFile is the path of the agent's configuration, relative to a system's store
// path and to /.
const AgentFile = "etc/nixfleet/agent.toml"

// Agent is /etc/nixfleet/agent.toml. It is part of the system's closure, so a
// release signer has signed it.
type Agent struct {
	MachineID    fleet.MachineID       `toml:"machineId"` // the machine's name: its host name in the flake
	Line         fleet.Line            `toml:"line"`      // the release train that the machine is on
	StateDir     string                `toml:"stateDir"`  // journal, outbox, identity and trust state; survives reboots
	RunDir       string                `toml:"runDir"`    // release.json, the hold files in inhibit.d; lost at a reboot
	Tags         []fleet.Tag           `toml:"tags"`      // labels by which selectors find the machine, @web
	DryRun       bool                  `toml:"dryRun"`    // verify and report, never activate
	ControlPlane AgentControlPlane     `toml:"controlPlane"`
	Identity     Identity              `toml:"identity"`
	Trust        Trust                 `toml:"trust"`
	Confirm      Confirm               `toml:"confirm"`
	Reboot       Reboot                `toml:"reboot"`
	Metrics      Metrics               `toml:"metrics"`
	Checks       map[string]AgentCheck `toml:"checks"`
}

// AgentControlPlane says where the control plane is.
type AgentControlPlane struct {
	URL             string  `toml:"url"`             // the agents' listener, https://host:8444
	CAFile          string  `toml:"caFile"`          // PEM file with its CA; empty: the CA from the enrolment
	LongPollSeconds float64 `toml:"longPollSeconds"` // how long the control plane may hold a check-in, 0 to 300; 0: no long polls
	PollSeconds     float64 `toml:"pollSeconds"`     // between check-ins without long polls, 0.05 to 86400
}

// Identity is the machine's client certificate. Empty: the files that enrolment
// writes to the state directory.
type Identity struct {
	CertFile  string `toml:"certFile"`  // PEM file with the certificate
	KeyFile   string `toml:"keyFile"`   // PEM file with its key
	TokenFile string `toml:"tokenFile"` // enrolment token, used when there is no certificate yet
}

// Trust is what releases are verified with from the first start.
type Trust struct {
	RootFile string `toml:"rootFile"` // the fleet's root document, a root.v1 envelope as nixfleet trust init writes it
	Unsigned bool   `toml:"unsigned"` // check no signatures: loopback only, refused once a root is known
}

// Confirm says how a switched machine proves that it reaches the network.
type Confirm struct {
	DeadlineSeconds float64  `toml:"deadlineSeconds"` // until the watchdog rolls back, 1 to 86400; a release's confirm window overrides it
	Beacons         []string `toml:"beacons"`         // other addresses that prove it by answering: tcp://host:port or http(s) URLs
}

// Reboot is when the agent may reboot the machine.
type Reboot struct {
	Policy fleet.RebootPolicy `toml:"policy"` // never, if-needed, or window
	Window string             `toml:"window"` // with policy window: cron fields and duration, "0 3 * * * 2h Europe/Paris"
}

// Metrics is where Prometheus finds the agent; empty: nowhere.
type Metrics struct {
	Listen string `toml:"listen"` // host:port of /metrics
}

// AgentCheck is a health check in the configuration; its name is the key of the
// table.
type AgentCheck struct {
	Kind               fleet.HealthCheckKind `toml:"kind"`               // unit, launchd, http, tcp or command
	Unit               string                `toml:"unit"`               // kind unit: the systemd unit that must be active, nginx.service
	Label              string                `toml:"label"`              // kind launchd: the service that must have a process
	URL                string                `toml:"url"`                // kind http: the URL that must answer
	Address            string                `toml:"address"`            // kind tcp: host:port that must accept a connection
	Command            []string              `toml:"command"`            // kind command: absolute path of a program, and arguments, without a shell; it must exit 0
	ExpectStatus       int                   `toml:"expectStatus"`       // kind http: the status that passes; 0: any from 200 to 399
	IntervalSeconds    *float64              `toml:"intervalSeconds"`    // between two probes, above 0 to 3600
	TimeoutSeconds     *float64              `toml:"timeoutSeconds"`     // of one probe, above 0 to 3600
	Retries            *int                  `toml:"retries"`            // failures in a row, after the first, that are tolerated, 0 to 1000
	StartPeriodSeconds float64               `toml:"startPeriodSeconds"` // after the switch, in which failures do not count, 0 to 86400
	Successes          *int                  `toml:"successes"`          // in a row, until the check passes, 1 to 1000
	Required           *bool                 `toml:"required"`           // its failure rolls the machine back
}

// Defaults of a health check.
const (
	DefaultIntervalSeconds = 10.0
	DefaultTimeoutSeconds  = 5.0
	DefaultRetries         = 3
	DefaultSuccesses       = 1
)

func defaultAgent() Agent {
	return Agent{
		Line: "main", StateDir: "/var/lib/nixfleet/agent", RunDir: "/run/nixfleet",
		ControlPlane: AgentControlPlane{LongPollSeconds: 55, PollSeconds: 60},
		Confirm:      Confirm{DeadlineSeconds: 300},
		Reboot:       Reboot{Policy: fleet.RebootNever},
	}
}

// ReadAgent reads and checks an agent's configuration. The error's code is
// NotFound, Invalid or TooLarge.
func ReadAgent(file string) (Agent, error) {
	text, err := read(file)
	if err != nil {
		return Agent{}, err
	}
	return ParseAgent(file, text)
}

// ParseAgent is ReadAgent for the text of a file, whose name errors quote.
func ParseAgent(file, text string) (Agent, error) {
	a := defaultAgent()
	if err := decode(file, text, &a); err != nil {
		return Agent{}, err
	}
	return a, a.validate(file)
}

func (a *Agent) validate(file string) error {
	slices.Sort(a.Tags)
	if a.Identity.CertFile == "" && a.Identity.KeyFile == "" {
		a.Identity.CertFile = filepath.Join(a.StateDir, "identity", "cert.pem")
		a.Identity.KeyFile = filepath.Join(a.StateDir, "identity", "key.pem")
	}
	u, err := url.Parse(a.ControlPlane.URL)
	switch {
	case !a.MachineID.Valid():
		return invalid(file, "machineId %q must be a host name: lower case letters, digits, '-'", a.MachineID)
	case !a.Line.Valid():
		return invalid(file, "line %q must have the syntax of a host name", a.Line)
	case !filepath.IsAbs(a.StateDir) || !filepath.IsAbs(a.RunDir):
		return invalid(file, "stateDir and runDir must be absolute")
	case err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && a.Trust.Unsigned && loopback(u.Hostname())):
		return invalid(file, "controlPlane.url %q must be an https URL such as https://fleet.example.org:8444", a.ControlPlane.URL)
	case a.ControlPlane.LongPollSeconds < 0 || a.ControlPlane.LongPollSeconds > 300:
		return invalid(file, "controlPlane.longPollSeconds must be between 0 and 300")
	case a.ControlPlane.PollSeconds < 0.05 || a.ControlPlane.PollSeconds > 86400:
		return invalid(file, "controlPlane.pollSeconds must be between 0.05 and 86400")
	case (a.Identity.CertFile == "") != (a.Identity.KeyFile == ""):
		return invalid(file, "identity.certFile and identity.keyFile must be set together")
	case a.Trust.RootFile == "" && !a.Trust.Unsigned:
		return invalid(file, "trust.rootFile must name the fleet's root document; nixfleet trust init makes one")
	case a.Trust.Unsigned && !loopback(u.Hostname()):
		return invalid(file, "trust.unsigned works only with a control plane on loopback")
	case a.Confirm.DeadlineSeconds < 1 || a.Confirm.DeadlineSeconds > 86400:
		return invalid(file, "confirm.deadlineSeconds must be between 1 and 86400")
	case !a.Reboot.Policy.Valid():
		return invalid(file, "reboot.policy %q is not never, if-needed or window", a.Reboot.Policy)
	case (a.Reboot.Policy == fleet.RebootWindow) != (a.Reboot.Window != ""):
		return invalid(file, "reboot.window and reboot.policy = \"window\" must be set together")
	}
	if a.Reboot.Policy == fleet.RebootWindow {
		if _, err := fleet.ParseWindow(a.Reboot.Window); err != nil {
			return invalid(file, "reboot.window: %w", err)
		}
	}
	for _, b := range a.Confirm.Beacons {
		if u, err := url.Parse(b); err != nil || u.Host == "" || !slices.Contains([]string{"tcp", "http", "https"}, u.Scheme) {
			return invalid(file, "confirm.beacons: %q must be tcp://host:port or an http(s) URL", b)
		}
	}
	if err := fleet.ValidateTags(a.Tags); err != nil {
		return invalid(file, "%s", err)
	}
	for _, c := range a.HealthChecks() {
		if err := c.Validate(); err != nil {
			return invalid(file, "%s", err)
		}
	}
	return nil
}

// HealthChecks returns the declared checks with their defaults, sorted by name.
func (a *Agent) HealthChecks() []fleet.HealthCheck {
	out := make([]fleet.HealthCheck, 0, len(a.Checks))
	for name, c := range a.Checks {
		out = append(out, fleet.HealthCheck{
			Name: name, Kind: c.Kind, Unit: c.Unit, Label: c.Label, URL: c.URL, Address: c.Address,
			Command: c.Command, ExpectStatus: c.ExpectStatus,
			IntervalSeconds:    or(c.IntervalSeconds, DefaultIntervalSeconds),
			TimeoutSeconds:     or(c.TimeoutSeconds, DefaultTimeoutSeconds),
			Retries:            or(c.Retries, DefaultRetries),
			StartPeriodSeconds: c.StartPeriodSeconds,
			Successes:          or(c.Successes, DefaultSuccesses),
			Required:           or(c.Required, true),
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
