// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The scope's alert rules, and its dashboard, ask for metrics and label values that
// a running control plane shows, or the backup scope's script. An alert on a name
// that nobody writes never fires.
func TestMetrics_AreThoseOfTheRulesAndTheDashboard(t *testing.T) {
	s := newScene(t)
	_, shown := s.get("/metrics")
	script := string(must[[]byte](t)(os.ReadFile("../../nix/scopes/backup/report.sh")))
	results := string(must[[]byte](t)(os.ReadFile("../../nix/scopes/backup/results.nix")))
	shown += strings.ReplaceAll(script, `\"`, `"`)
	files := must[[]string](t)(filepath.Glob("../../nix/scopes/monitoring-server/*.nix"))
	used := regexp.MustCompile(`\b(nixfleet_[a-z_]+)(?:\{([a-z]+)=~?"([^"]*)")?`)
	events := regexp.MustCompile(`lastBackup "([a-z-]+)"`)
	names := 0
	for _, file := range files {
		text := string(must[[]byte](t)(os.ReadFile(file)))
		for _, m := range used.FindAllStringSubmatch(strings.ReplaceAll(text, `\"`, `"`), -1) {
			names++
			if !strings.Contains(shown, "\n"+m[1]) && !strings.Contains(shown, `"`+m[1]) {
				t.Errorf("%s asks for %s, which nobody shows", file, m[1])
			}
			if m[1] == "nixfleet_backup_last_event_timestamp_seconds" {
				continue // its events are below
			}
			for value := range strings.SplitSeq(m[3], "|") {
				if m[2] != "" && m[2] != "status" && !regexp.MustCompile(`(?m)^`+m[1]+`\{[^}]*`+m[2]+`="`+value+`"`).MatchString(shown) {
					t.Errorf("%s asks for %s of %s %q, which nobody shows", file, m[1], m[2], value)
				}
			}
		}
		for _, m := range events.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(results, `"`+m[1]+`"`) {
				t.Errorf("%s asks for the event %q, which no backup reports", file, m[1])
			}
		}
	}
	if names < 10 {
		t.Errorf("found %d names of metrics in %v", names, files)
	}
}
