// SPDX-License-Identifier: MIT

package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

func TestReadControlPlane_ChecksGates(t *testing.T) {
	for text, good := range map[string]bool{
		"[gates.errors]\nkind = \"prometheus\"\nurl = \"http://prom.example.org:9090\"\nquery = \"up\"\nmin = 1": true,
		"[gates.a]\nkind = \"webhook\"\nurl = \"https://example.org/x\"\nsecretFile = \"/run/s\"":                true,
		"[gates.a]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:80/x\"\nsecretFile = \"/run/s\"":                true,
		"[gates.a]\nkind = \"compliance\"":                                                        true,
		"[gates.Errors]\nkind = \"compliance\"":                                                   false,
		"[gates.a]\nkind = \"shell\"":                                                             false,
		"[gates.a]\nkind = \"prometheus\"\nurl = \"http://prom:9090\"\nquery = \"up\"":            false, // no limit
		"[gates.a]\nkind = \"prometheus\"\nurl = \"file:///etc/passwd\"\nquery = \"up\"\nmin = 1": false,
		"[gates.a]\nkind = \"webhook\"\nurl = \"http://example.org/x\"\nsecretFile = \"/run/s\"":  false, // in the clear
		"[gates.a]\nkind = \"webhook\"\nurl = \"https://example.org/x\"":                          false,
		"[gates.a]\nkind = \"compliance\"\ntimeoutSeconds = 600":                                  false,
	} {
		file := filepath.Join(t.TempDir(), "control-plane.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.ReadControlPlane(file); (err == nil) != good || !good && fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s\n%v", text, err)
		}
	}
}
