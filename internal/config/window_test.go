// SPDX-License-Identifier: MIT

package config_test

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

func TestReboot_WindowOpen(t *testing.T) {
	for _, tc := range []struct {
		window, at string
		want       bool
	}{
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T02:00:00Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T03:59:59Z", true},
		{"0 3 * * * 2h Europe/Paris", "2026-11-24T04:00:01Z", false},
		{"0 3 * * * 2h Europe/Paris", "2026-07-24T01:30:00Z", true}, // summer time
		{"0 3 * * * 2h", "2026-11-24T02:30:00Z", false},
		{"0 23 * * 6 4h", "2026-11-29T02:00:00Z", true}, // Saturday's goes on into Sunday
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (config.Reboot{Policy: fleet.RebootWindow, Window: tc.window}).WindowOpen(at); err != nil || got != tc.want {
			t.Errorf("%s at %s: %t, %v; want %t", tc.window, tc.at, got, err, tc.want)
		}
	}
	for _, bad := range []string{"", "0 3 * * *", "0 3 * * * soon", "0 3 * * * 2h Mars/Olympus", "x 3 * * * 2h"} {
		if _, err := (config.Reboot{Policy: fleet.RebootWindow, Window: bad}).WindowOpen(time.Now()); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
	if open, err := (config.Reboot{Policy: fleet.RebootIfNeeded}).WindowOpen(time.Now()); !open || err != nil {
		t.Errorf("no window: %t, %v; want open", open, err)
	}
}

// An invalid window is an error when the configuration is read, which is at the
// build and in `release create`, not when a machine has staged a system and waits.
func TestParseAgent_RefusesAnInvalidWindow(t *testing.T) {
	for window, good := range map[string]bool{
		"0 3 * * * 2h Europe/Paris": true, "soon": false, "0 3 * * * 2h Europe/Pariss": false, "0 25 * * * 2h": false, "0 3 * * * 2": false, "0 3 30 2 * 2h UTC": false,
	} {
		_, err := config.ParseAgent("agent.toml", "machineId = \"web-01\"\n[controlPlane]\nurl = \"https://fleet.example.org:8444\"\n"+
			"[trust]\nrootFile = \"/etc/nixfleet/root.json\"\n[reboot]\npolicy = \"window\"\nwindow = \""+window+"\"\n")
		if (err == nil) != good || !good && fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v", window, err)
		}
	}
}
