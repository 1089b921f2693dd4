// SPDX-License-Identifier: MIT

package config

import (
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// ControlPlane is /etc/nixfleet/control-plane.toml.
type ControlPlane struct {
	StateDir string       `toml:"stateDir"` // database, certificate authorities, secrets
	Listen   Listen       `toml:"listen"`
	TLS      TLS          `toml:"tls"`
	Database Database     `toml:"database"`
	Metrics  MetricsGuard `toml:"metrics"`
	// The root document is pinned at the start, or replaces the pinned one if it is the next version; nixfleet trust pin does the same.
	Trust     Trust     `toml:"trust"`
	Bootstrap Bootstrap `toml:"bootstrap"`
	Retention Retention `toml:"retention"`
	// Gates are what rollouts can name, by name.
	Gates map[string]Gate `toml:"gates"`
}

// Listen holds the three listeners' addresses, host:port. Metrics serves
// /healthz, /readyz and /metrics, without TLS unless [metrics] says so.
type Listen struct {
	Operators string `toml:"operators"` // the API, for operators
	Agents    string `toml:"agents"`    // for machines, with client certificates
	Metrics   string `toml:"metrics"`   // for Prometheus and probes; keep it on a network you trust
}

// TLS is the server's certificate. Without certFile the control plane makes a CA
// in its state directory and issues a certificate for names. It shows agents a
// certificate of that CA too if certFile does not end with a root and caFile does
// not name one. The files are read again when they change.
type TLS struct {
	CertFile     string   `toml:"certFile"`     // PEM file with the server's certificate
	KeyFile      string   `toml:"keyFile"`      // PEM file with its key
	CAFile       string   `toml:"caFile"`       // PEM file with the root of certFile's CA, which agents keep; not an intermediate
	Names        []string `toml:"names"`        // host names and addresses of the control plane
	ClientCAFile string   `toml:"clientCaFile"` // PEM: accept agents' certificates of this CA instead of issuing them
	// RenewLateDays is how long after its end an agent's certificate can still be
	// renewed, and nothing else; 0: not at all, at most 365.
	RenewLateDays *int `toml:"renewLateDays"`
}

// defaultRenewLateDays is RenewLateDays where that is nil.
const defaultRenewLateDays = 90

// RenewLate is RenewLateDays as a duration.
func (t TLS) RenewLate() time.Duration {
	days := defaultRenewLateDays
	if t.RenewLateDays != nil {
		days = *t.RenewLateDays
	}
	return time.Duration(days) * 24 * time.Hour
}

// MetricsGuard protects /metrics. Without it whoever reaches listen.metrics sees the counts
// of the fleet, and with ?series=machine the names of its machines.
type MetricsGuard struct {
	TLS          bool   `toml:"tls"`          // serve listen.metrics with the server's certificate
	ClientCAFile string `toml:"clientCaFile"` // PEM: /metrics is only for client certificates of this CA; TLS then
	TokenFile    string `toml:"tokenFile"`    // /metrics is only for requests with this file's bearer token
}

// Database is where the store is: sqlite:///path.
type Database struct {
	URL string `toml:"url"` // sqlite:///path; empty: nixfleet.db in the state directory
}

// Bootstrap is the file that holds the one-time secret for the first admin
// key. It is written at the first start if it does not exist.
type Bootstrap struct {
	SecretFile string `toml:"secretFile"` // empty: bootstrap-secret in the state directory
}

// Retention is for how many days history is kept; 0 is for ever. The newest of each
// kind always stays.
type Retention struct {
	EventDays  int `toml:"eventDays" json:"eventDays"`   // events; 7 if it is left out. A stream can be resumed after those that are kept
	ReportDays int `toml:"reportDays" json:"reportDays"` // machines' reports that were applied; 90 if it is left out
	// AuditDays is for entries of the audit trail. An entry of the trail says where it
	// begins after a cut, so that nixfleet audit verify verifies the rest.
	AuditDays   int `toml:"auditDays" json:"auditDays"`
	ReleaseDays int `toml:"releaseDays" json:"releaseDays"` // releases that no rollout, machine or line needs
}

// maxRetentionDays is a hundred years: more is a mistake.
const maxRetentionDays = 36500

// Days is a number of days as a duration.
func Days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// ReadControlPlane reads and checks a control plane's configuration. The
// error's code is NotFound, Invalid or TooLarge.
func ReadControlPlane(file string) (ControlPlane, error) {
	late := defaultRenewLateDays
	c := ControlPlane{
		StateDir: "/var/lib/nixfleet/control-plane",
		Listen:   Listen{Operators: ":8443", Agents: ":8444", Metrics: "127.0.0.1:9443"},
		TLS:      TLS{Names: []string{"localhost"}, RenewLateDays: &late},
		// A fleet's events and reports would fill a disk in some years.
		Retention: Retention{EventDays: 7, ReportDays: 90},
	}
	text, err := read(file)
	if err != nil {
		return ControlPlane{}, err
	}
	if err := decode(file, text, &c); err != nil {
		return ControlPlane{}, err
	}
	return c, c.validate(file)
}

// DatabasePath is the SQLite file.
func (c *ControlPlane) DatabasePath() string {
	return strings.TrimPrefix(c.Database.URL, "sqlite://")
}

func (c *ControlPlane) validate(file string) error {
	if !filepath.IsAbs(c.StateDir) {
		return invalid(file, "stateDir must be absolute")
	}
	if c.Database.URL == "" {
		c.Database.URL = "sqlite://" + filepath.Join(c.StateDir, "nixfleet.db")
	}
	if c.Bootstrap.SecretFile == "" {
		c.Bootstrap.SecretFile = filepath.Join(c.StateDir, "bootstrap-secret")
	}
	u, err := url.Parse(c.Database.URL)
	switch {
	case err != nil || u.Scheme != "sqlite" || u.Host != "" || !filepath.IsAbs(u.Path):
		return invalid(file, "database.url %q must be sqlite:///absolute/path", c.Database.URL)
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return invalid(file, "tls.certFile and tls.keyFile must be set together")
	case c.TLS.CAFile != "" && c.TLS.CertFile == "":
		return invalid(file, "tls.caFile goes with tls.certFile")
	case c.TLS.CertFile == "" && len(c.TLS.Names) == 0:
		return invalid(file, "tls.names must list the host names and addresses of the control plane")
	case c.TLS.RenewLate() < 0 || c.TLS.RenewLate() > 365*24*time.Hour:
		return invalid(file, "tls.renewLateDays must be from 0 to 365")
	case c.Metrics.ClientCAFile != "" && !filepath.IsAbs(c.Metrics.ClientCAFile) || c.Metrics.TokenFile != "" && !filepath.IsAbs(c.Metrics.TokenFile):
		return invalid(file, "metrics.clientCaFile and metrics.tokenFile must be absolute")
	case c.Trust.Unsigned:
		return invalid(file, "trust.unsigned is a setting of the agent, not of the control plane")
	}
	if err := validateGates(file, c.Gates); err != nil {
		return err
	}
	for name, days := range map[string]int{
		"eventDays": c.Retention.EventDays, "reportDays": c.Retention.ReportDays, "auditDays": c.Retention.AuditDays, "releaseDays": c.Retention.ReleaseDays,
	} {
		if days < 0 || days > maxRetentionDays {
			return invalid(file, "retention.%s must be from 0, which is for ever, to %d", name, maxRetentionDays)
		}
	}
	for _, l := range []struct{ name, addr string }{
		{"operators", c.Listen.Operators}, {"agents", c.Listen.Agents}, {"metrics", c.Listen.Metrics},
	} {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			return invalid(file, "listen.%s %q must be host:port", l.name, l.addr)
		}
	}
	return nil
}
