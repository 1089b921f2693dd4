// SPDX-License-Identifier: MIT

package cli

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// O06: with --json, stdout has exactly one JSON document, whatever happens and
// wherever the flag is.
func TestJSON_IsOneDocumentAlsoOnErrors(t *testing.T) {
	p := newPlane(t)
	p.machines = []fleet.Machine{machine("web-01"), machine("web-02"), machine("web-03")}
	p.rollouts = []fleet.Rollout{{ID: "01a", State: fleet.RolloutFailed}}
	u := newUser(t).of(p)
	for _, tc := range []struct {
		words string
		code  int
	}{
		{"--json machine list", command.ExitDone},
		{"machine list --json", command.ExitDone},
		{"machine show web-01 --json", command.ExitDone},
		{"rollout show --json", command.ExitDone},
		{"rollout explain --json", command.ExitDone},
		{"rollout events --json", command.ExitDone},
		{"rollout watch --json", command.ExitFailed}, // the rollout, without an error after it
		{"release list --json", command.ExitDone},
		{"release show nope --json", command.ExitError},
		{"machine show Web_01 --json", command.ExitUsage},
		{"machine show --json", command.ExitUsage},
		{"machine list --nonsense --json", command.ExitUsage},
		{"machine list --json=maybe --json", command.ExitUsage},
		{"machine frobnicate --json", command.ExitUsage},
		{"frobnicate --json", command.ExitUsage},
		{"machine --json", command.ExitUsage},
		{"--json", command.ExitUsage},
		{"audit export --json", command.ExitUsage},
		{"key create --role king --json", command.ExitUsage},
		{"--json --server https://127.0.0.1:1 machine set-lifecycle web-01 asleep", command.ExitUsage},
	} {
		r := u.mustRun(tc.code, strings.Fields(tc.words)...)
		v := oneJSON(t, r.out)
		e, _ := v.(map[string]any)
		if _, isError := e["error"]; isError != (tc.code == command.ExitError || tc.code == command.ExitUsage) {
			t.Errorf("%s: exit code %d with %s", tc.words, tc.code, r.out)
		}
	}
	if r := u.mustRun(command.ExitDone, "machine", "list", "--help", "--json"); r.out != "" || !strings.Contains(r.stderr, "Usage:") {
		t.Errorf("help with --json: stdout %q", r.out)
	}
}

// Wire rule: a list of a control plane of another version is shown without what cannot
// be read of it, which stderr tells once.
func TestLists_GoOnWithoutWhatCannotBeRead(t *testing.T) {
	p := newPlane(t)
	p.machines = []fleet.Machine{machine("web-01"), machine("web-02"), machine("web-03")} // on two pages
	p.retyped = "health"
	u := newUser(t).of(p)
	r := u.mustRun(command.ExitDone, "machine", "list", "--json")
	if list, ok := oneJSON(t, r.out).([]any); !ok || len(list) != 3 || strings.Count(r.stderr, "health in a reply") != 1 {
		t.Errorf("stdout %s\nstderr %s", r.out, r.stderr)
	}
}

// An error of the control plane arrives with its code and hint.
func TestJSON_ErrorCarriesCodeAndHint(t *testing.T) {
	p := newPlane(t)
	p.fail = fleet.Errorf(fleet.Conflict, "rollout r1 holds web-01").WithHint("give --supersede")
	r := newUser(t).of(p).mustRun(command.ExitError, "machine", "list", "--json")
	if want := `{"error":{"code":"conflict","message":"rollout r1 holds web-01","hint":"give --supersede"}}`; strings.TrimSpace(r.out) != want {
		t.Errorf("stdout %s, want %s", r.out, want)
	}
	if !strings.Contains(r.stderr, "nixfleet: rollout r1") || !strings.Contains(r.stderr, "hint: give --supersede") {
		t.Errorf("stderr %q", r.stderr)
	}
}

func TestUnknownCommand_IsAUsageErrorWithTheNearest(t *testing.T) {
	u := newUser(t)
	for words, near := range map[string]string{"relase list": "did you mean release?", "machine lst": "did you mean list?", "rollout zzzzzz": "--help lists them"} {
		if r := u.mustRun(command.ExitUsage, strings.Fields(words)...); !strings.Contains(r.stderr, near) || r.out != "" {
			t.Errorf("%s: stderr %q, want %q in it", words, r.stderr, near)
		}
	}
}

// O10: text from machines and the control plane cannot control the terminal, on
// either stream, and cannot break a table's columns.
func TestText_HasNoControlCharacters(t *testing.T) {
	const evil = "bad\x1b]0;owned\x07\x1b[31m\u009b2J\r\x00\x7fend"
	p := newPlane(t)
	m := machine("web-01")
	m.Checks = []fleet.HealthCheckResult{{Name: "app", Status: fleet.HealthCheckFailing, Observed: evil}}
	m.Waiting, m.Behind = evil, &fleet.Behind{Rollout: "01a", Line: "main", Since: 1, Why: evil}
	p.machines = []fleet.Machine{m}
	p.rollouts = []fleet.Rollout{{ID: "01a", State: fleet.RolloutPaused, Why: evil, CreatedBy: evil}}
	p.assignments = []fleet.Assignment{{Machine: "web-01", State: fleet.AssignFailed, Message: evil + "\tx\ny"}}
	p.events = func(yield func(api.Event) bool) {
		_ = yield(api.Event{Assignment: &p.assignments[0]}) && yield(api.Event{Rollout: &p.rollouts[0]})
	}
	u := newUser(t).of(p)
	check := func(words string, r result) {
		t.Helper()
		for name, text := range map[string]string{"stdout": r.out, "stderr": r.stderr} {
			if i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); i >= 0 {
				t.Errorf("%s: %s has a control character at %q", words, name, text[max(0, i-20):min(len(text), i+10)])
			}
		}
	}
	for _, words := range []string{"machine show web-01", "machine list", "machine list --behind", "rollout list", "rollout show", "rollout explain", "rollout watch", "rollout events"} {
		r := u.run(strings.Fields(words)...)
		check(words, r)
		if !strings.Contains(r.out, "web-01") && !strings.Contains(r.out, "01a") {
			t.Errorf("%s says %q", words, r.out)
		}
	}
	if r := u.run("rollout", "show"); len(strings.Split(strings.TrimSpace(r.out), "\n")) != 4 {
		t.Errorf("a message with line ends breaks the table:\n%s", r.out)
	}
	if r := u.run("rollout", "events"); strings.Count(r.out, "\n") != 4 || strings.Count(r.out, " web-01 ") != 2 {
		t.Errorf("four events are not four lines:\n%s", r.out)
	}
	p.fail = fleet.Errorf(fleet.Conflict, "%s", evil)
	check("error", u.run("machine", "list"))
}

// O07: the order of a table does not depend on the order of maps or lists.
func TestTables_HaveAStableOrder(t *testing.T) {
	detail := map[string]string{}
	for _, k := range strings.Fields("zeta alpha kilo mike bravo") {
		detail[k] = "1"
	}
	d := fleet.ReleaseDiff{Added: []fleet.MachineID{"m-3", "m-1"}, Removed: []fleet.MachineID{"m-2"}, Changed: []fleet.EntryChange{{ID: "m-4"}, {ID: "m-0"}}}
	for range 20 {
		if got := details(maps.Clone(detail)); got != "alpha=1 bravo=1 kilo=1 mike=1 zeta=1" {
			t.Fatalf("details %q", got)
		}
		var b strings.Builder
		diffText(&b, d)
		var order []string
		for _, l := range strings.Split(b.String(), "\n") {
			if f := strings.Fields(l); len(f) > 1 && strings.HasPrefix(f[1], "m-") {
				order = append(order, f[1])
			}
		}
		if !slices.Equal(order, []string{"m-0", "m-1", "m-2", "m-3", "m-4"}) {
			t.Fatalf("machines in the order %q", order)
		}
	}
}

func TestEveryCommand_HasAShortTextAndAnExample(t *testing.T) {
	root, line := Commands(command.Invocation{Env: func(string) string { return "" }})
	line.Prepare(root)
	for _, c := range flatten(root) {
		if c.Short == "" || !strings.Contains(c.Example, "nixfleet") {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		if c.RunE == nil || c.ValidArgsFunction == nil {
			t.Errorf("%s has no RunE or completes nothing", c.CommandPath())
		}
	}
}
