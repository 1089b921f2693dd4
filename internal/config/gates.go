// SPDX-License-Identifier: MIT

package config

import (
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// GateKind says how a gate is asked.
type GateKind string

// The kinds of gates.
const (
	GatePrometheus GateKind = "prometheus"
	GateWebhook    GateKind = "webhook"
	GateCompliance GateKind = "compliance"
)

// Gate is what must hold before a batch of a rollout that names it passes. Only
// this configuration says where it is asked.
type Gate struct {
	Kind           GateKind `toml:"kind"`           // prometheus, webhook or compliance
	URL            string   `toml:"url"`            // prometheus: its address, http://127.0.0.1:9090; webhook: where to POST, https unless on loopback
	CAFile         string   `toml:"caFile"`         // PEM file with the CA of url; empty: the system's
	SecretFile     string   `toml:"secretFile"`     // webhook: file with the secret that signs the questions, 16 bytes or more
	Query          string   `toml:"query"`          // prometheus: PromQL; $machines becomes a pattern of the batch's machines: {instance=~"$machines"}
	Min            *float64 `toml:"min"`            // prometheus: each value of the result must be at least this
	Max            *float64 `toml:"max"`            // prometheus: each value must be at most this
	MachineLabel   string   `toml:"machineLabel"`   // prometheus: the label that names the machine; each machine of the batch must then have a value
	TimeoutSeconds float64  `toml:"timeoutSeconds"` // of one question, above 0 to 60
}

// Timeout is TimeoutSeconds, or its default.
func (g Gate) Timeout() time.Duration {
	if g.TimeoutSeconds == 0 {
		return 10 * time.Second
	}
	return time.Duration(g.TimeoutSeconds * float64(time.Second))
}

func validateGates(file string, gates map[string]Gate) error {
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		if !fleet.GateName(name).Valid() {
			return invalid(file, "gates: %q is not a name: lower case letters, digits, '-', up to 40", name)
		}
		if why := gates[name].wrong(); why != "" {
			return invalid(file, "gates.%s: %s", name, why)
		}
	}
	return nil
}

// wrong says what is wrong with a gate, "" for nothing.
func (g Gate) wrong() string {
	u, err := url.Parse(g.URL)
	web := err == nil && u.Host != "" && u.User == nil && u.Fragment == "" && (u.Scheme == "https" || u.Scheme == "http")
	switch {
	case g.TimeoutSeconds < 0 || g.TimeoutSeconds > 60:
		return "timeoutSeconds must be above 0 and at most 60"
	case g.Kind != GatePrometheus && (g.Query != "" || g.Min != nil || g.Max != nil || g.MachineLabel != ""):
		return "query, min, max and machineLabel go with kind prometheus"
	case g.Kind != GateWebhook && g.SecretFile != "":
		return "secretFile goes with kind webhook"
	}
	switch g.Kind {
	case GatePrometheus:
		switch {
		case !web:
			return "url must be that of a Prometheus, such as http://127.0.0.1:9090"
		case g.Query == "" || g.Min == nil && g.Max == nil:
			return "query, and min or max, must be set"
		}
	case GateWebhook:
		switch {
		case !web || u.Scheme == "http" && !loopback(u.Hostname()):
			return "url must begin with https://, or be on loopback"
		case !filepath.IsAbs(g.SecretFile):
			return "secretFile must be an absolute path"
		}
	case GateCompliance:
		if g.URL != "" {
			return "url does not go with kind compliance"
		}
	default:
		return "kind must be prometheus, webhook or compliance"
	}
	return ""
}
