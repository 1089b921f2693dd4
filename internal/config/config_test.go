// SPDX-License-Identifier: MIT

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

const goodAgent = `
machineId = "web-01"
tags = ["web", "prod"]
[controlPlane]
url = "https://fleet.example.org:8444"
[trust]
rootFile = "/etc/nixfleet/root.json"
[checks.web]
kind = "http"
url = "http://127.0.0.1/health"
retries = 0
`

// readAgent reads text as agent.toml.
func readAgent(t *testing.T, text string) (Agent, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadAgent(file)
}

func TestReadAgent_FillsDefaultsAndSortsTags(t *testing.T) {
	a, err := readAgent(t, goodAgent)
	if err != nil {
		t.Fatal(err)
	}
	c := a.HealthChecks()
	if len(c) != 1 || c[0].Retries != 0 || c[0].Successes != 1 || !c[0].Required || c[0].IntervalSeconds != DefaultIntervalSeconds {
		t.Errorf("check = %+v, want the given retries and the defaults for the rest", c)
	}
	if a.Line != "main" || a.Tags[0] != "prod" || a.Identity.CertFile != "/var/lib/nixfleet/agent/identity/cert.pem" {
		t.Errorf("agent = %+v", a)
	}
}

// O08: an invalid configuration is an error that names file and setting.
func TestReadAgent_RefusesInvalidSettings(t *testing.T) {
	for _, tc := range []struct{ name, from, to, want string }{
		{"unknown key", `[trust]`, "[trust]\nrootDocument = \"x\"", "unknown setting"},
		{"syntax", `machineId = "web-01"`, `machineId = `, "line 2"},
		{"bad id", `"web-01"`, `"Web_01"`, "machineId"},
		{"plain http", `https://fleet`, `http://fleet`, "controlPlane.url"},
		{"no root", `rootFile = "/etc/nixfleet/root.json"`, ``, "trust.rootFile"},
		{"unsigned away from loopback", `rootFile = "/etc/nixfleet/root.json"`, `unsigned = true`, "loopback"},
		{"check without url", `url = "http://127.0.0.1/health"`, ``, "check web"},
		{"check of no kind", `kind = "http"`, `kind = "ping"`, "kind"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(goodAgent, tc.from, tc.to, 1)
			if text == goodAgent {
				t.Fatal("the row changes nothing")
			}
			_, err := readAgent(t, text)
			if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "agent.toml") {
				t.Errorf("error = %v, want one that says %q and the file", err, tc.want)
			}
		})
	}
}

func TestReadControlPlane_PutsEverythingBelowItsStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cp.toml")
	if err := os.WriteFile(file, []byte("stateDir = \"/srv/cp\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadControlPlane(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.DatabasePath() != "/srv/cp/nixfleet.db" || c.Bootstrap.SecretFile != "/srv/cp/bootstrap-secret" {
		t.Errorf("config = %+v", c)
	}
	if _, err := ReadControlPlane(file + ".none"); fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("missing file: %v, want not-found", err)
	}
}
