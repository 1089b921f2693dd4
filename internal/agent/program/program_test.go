// SPDX-License-Identifier: MIT

package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent"
	"github.com/arcanesys/nixfleet/internal/command"
)

// run calls the program and returns its standard output.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	p := newProgram(command.Invocation{Version: "test", Args: args, Stdout: &out, Stderr: &out})
	err := p.Execute(t.Context(), p.root())
	return out.String(), err
}

func configFile(t *testing.T, extra string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.toml")
	text := fmt.Sprintf("machineId = \"web-01\"\nstateDir = %q\nrunDir = %q\n%s[controlPlane]\nurl = \"https://127.0.0.1:1\"\n[trust]\nrootFile = \"/none\"\n", dir, dir, extra)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestStatusAndHistory_OfAMachineThatHasDoneNothing(t *testing.T) {
	file := configFile(t, "")
	text, err := run(t, "status", "--config", file)
	if err != nil || !strings.Contains(text, "state      idle") {
		t.Errorf("status = %q, %v", text, err)
	}
	text, err = run(t, "status", "--json", "--config", file)
	var s agent.Status
	if err != nil || json.Unmarshal([]byte(text), &s) != nil || s.Machine != "web-01" || s.State != fleet.AgentIdle {
		t.Errorf("status --json = %q, %v", text, err)
	}
	if text, err = run(t, "history", "--json", "--config", file); err != nil || strings.TrimSpace(text) != "[]" {
		t.Errorf("history --json = %q, %v", text, err)
	}
}

// O08: a broken configuration is an error that names what is wrong.
func TestConfigCheck_NamesTheMistake(t *testing.T) {
	if text, err := run(t, "config", "check", configFile(t, "")); err != nil || !strings.Contains(text, "web-01") {
		t.Errorf("good: %q, %v", text, err)
	}
	if _, err := run(t, "config", "check", configFile(t, "tag = []\n")); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), "unknown setting tag") {
		t.Errorf("bad: %v", err)
	}
}

func TestAdoptFloorAndWatchdog_NeedNoAgent(t *testing.T) {
	file := configFile(t, "")
	if _, err := run(t, "adopt-floor", "--sequence", "7", "--config", file); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(file), "adopt-floor.json")); err != nil || !strings.Contains(string(b), "7") {
		t.Errorf("floor = %s, %v", b, err)
	}
	if _, err := run(t, "watchdog", "--config", file); err != nil {
		t.Errorf("a watchdog that is not armed: %v", err)
	}
}

func TestRepair_LeavesThePathToTheAgent(t *testing.T) {
	file := configFile(t, "")
	const path = "/nix/store/00000000000000000000000000000000-openssl"
	if _, err := run(t, "repair", path, "--config", file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "repair", filepath.Base(path))); err != nil {
		t.Error(err)
	}
	if _, err := run(t, "repair", "/etc/passwd", "--config", file); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(fleet.ErrorHint(err), "nixfleet-agent history") {
		t.Errorf("error = %v, hint %q", err, fleet.ErrorHint(err))
	}
}

func TestEnroll_SaysWhatIsMissing(t *testing.T) {
	if _, err := run(t, "enroll", "--config", configFile(t, "")); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(fleet.ErrorHint(err), "nixfleet machine token web-01") {
		t.Errorf("error = %v, hint %q", err, fleet.ErrorHint(err))
	}
	if _, err := run(t, "enroll", "--token-file", "/none", "--config", configFile(t, "")); fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("error = %v", err)
	}
}
