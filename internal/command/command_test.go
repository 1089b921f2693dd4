// SPDX-License-Identifier: MIT

package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	controlplane "github.com/arcanesys/nixfleet/controlplane/program"
	"github.com/arcanesys/nixfleet/fleet"
	agent "github.com/arcanesys/nixfleet/internal/agent/program"
	"github.com/arcanesys/nixfleet/internal/cli"
	"github.com/arcanesys/nixfleet/internal/command"
)

// programs are the three, with what a test needs to know of each.
var programs = []struct {
	name, leaf, group, wantsArgument string
	main                             func(context.Context, command.Invocation) int
}{
	{"nixfleet", "machine list", "machine", "machine show", cli.Run},
	{"nixfleet-agent", "run", "config", "config check", agent.Main},
	{"nixfleet-control-plane", "run", "config", "config check", controlplane.Main},
}

func run(t *testing.T, main func(context.Context, command.Invocation) int, words string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = main(t.Context(), command.Invocation{
		Version: "1.2.3", Args: strings.Fields(words), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Env: func(string) string { return "" },
	})
	return code, out.String(), errs.String()
}

func TestPrograms_RefuseAWrongCommandLineWithAHint(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, p := range programs {
		for _, tt := range []struct {
			name, words, want, hint string
		}{
			{"unknown command", "frobnicate", `has no command "frobnicate"`, p.name + " --help"},
			{"unknown command of a group", p.group + " frobnicate", `has no command "frobnicate"`, p.name + " " + p.group + " --help"},
			{"unknown shell", "completion frobnicate", `has no command "frobnicate"`, p.name + " completion --help"},
			{"misspelt command", "versio", `has no command "versio"`, "did you mean version?"},
			{"unknown flag", "--nope", "--nope", p.name + " --help"},
			{"unknown flag of a command", p.leaf + " --nope", "--nope", p.name + " " + p.leaf + " --help"},
			{"flag without its value", p.leaf + " --" + map[bool]string{true: "server", false: "config"}[p.name == "nixfleet"], "needs an argument", "--help"},
			{"one argument too many", p.leaf + " extra", "extra", p.name + " " + p.leaf + " --help"},
			{"no argument", p.wantsArgument, "arg", p.name + " " + p.wantsArgument + " --help"},
		} {
			code, stdout, stderr := run(t, p.main, tt.words)
			message, hint, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
			if code != command.ExitUsage || stdout != "" || !strings.HasPrefix(message, p.name+": ") || !strings.Contains(message, tt.want) ||
				!strings.HasPrefix(hint, "hint: ") || !strings.Contains(hint, tt.hint) || strings.Contains(hint, "\n") {
				t.Errorf("%s, %s: exit code %d, stdout %q, stderr:\n%swant code %d, a message with %q and a hint with %q", p.name, tt.name, code, stdout, stderr, command.ExitUsage, tt.want, tt.hint)
			}
			code, stdout, _ = run(t, p.main, tt.words+" --json")
			var v struct {
				Error struct{ Code, Message, Hint string }
			}
			if tt.name == "flag without its value" { // --json would be the value
				continue
			}
			if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != command.ExitUsage || v.Error.Code != "invalid" || v.Error.Hint == "" {
				t.Errorf("%s, %s --json: exit code %d, %v, stdout %q", p.name, tt.name, code, err, stdout)
			}
		}
	}
}

func TestPrograms_PrintHelpAndVersion(t *testing.T) {
	for _, p := range programs {
		for words, want := range map[string]string{
			"": "Usage:", "--help": "Usage:", p.leaf + " --help": p.name + " " + p.leaf, p.group: "Usage:",
			"version": "1.2.3\n", "--version": "1.2.3", "version --json": `{"version":"1.2.3"}`, "completion bash": p.name,
		} {
			if code, stdout, stderr := run(t, p.main, words); code != command.ExitDone || !strings.Contains(stdout, want) || stderr != "" {
				t.Errorf("%s %s: exit code %d, stderr %q, stdout %q; want %q in it", p.name, words, code, stderr, stdout, want)
			}
		}
	}
}

// lineOf is a program with one command, `try`, that ends with err.
func lineOf(v command.Invocation, err func(*command.Line) error) int {
	l := command.New(v)
	try := &cobra.Command{Use: "try", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return err(l) }}
	l.JSONFlag(try.Flags())
	root := &cobra.Command{Use: "program"}
	root.AddCommand(try)
	return l.End(l.Execute(context.Background(), root))
}

func TestEnd_ReportsAnErrorOnceAndReturnsItsCode(t *testing.T) {
	conflict := fleet.Errorf(fleet.Conflict, "there is\x1b[31m another").WithHint("wait")
	for _, tt := range []struct {
		name           string
		err            func(*command.Line) error
		code           int
		stdout, stderr string
	}{
		{"none", func(*command.Line) error { return nil }, 0, "", ""},
		{"plain", func(*command.Line) error { return errors.New("broken") }, 1, "{\"error\":{\"code\":\"internal\",\"message\":\"broken\"}}\n", "program: broken\n"},
		{"with a hint", func(*command.Line) error { return conflict }, 1,
			`{"error":{"code":"conflict","message":"there is\u001b[31m another","hint":"wait"}}` + "\n", "program: there is[31m another\nhint: wait\n"},
		{"with a code", func(*command.Line) error { return fmt.Errorf("try: %w", command.Exit(5, conflict)) }, 5,
			`{"error":{"code":"conflict","message":"try: there is\u001b[31m another","hint":"wait"}}` + "\n", "program: try: there is[31m another\nhint: wait\n"},
		{"code only", func(*command.Line) error { return command.Exit(3, nil) }, 3, "", ""},
		{"after a result", func(l *command.Line) error { return errors.Join(l.Print("done", func(io.Writer) {}), conflict) }, 1,
			"\"done\"\n", "program: there is[31m another\nhint: wait\n"},
	} {
		var out, errs bytes.Buffer
		code := lineOf(command.Invocation{Args: []string{"try", "--json"}, Stdout: &out, Stderr: &errs}, tt.err)
		if code != tt.code || out.String() != tt.stdout || errs.String() != tt.stderr {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q; want %d, %q, %q", tt.name, code, out.String(), errs.String(), tt.code, tt.stdout, tt.stderr)
		}
	}
}

// full is a device with no space left.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestPrint_ThatCannotBeWrittenIsAnError(t *testing.T) {
	for _, words := range []string{"try", "try --json"} {
		var errs bytes.Buffer
		code := lineOf(command.Invocation{Args: strings.Fields(words), Stdout: full{}, Stderr: &errs}, func(l *command.Line) error {
			return l.Print(1, func(w io.Writer) { fmt.Fprintln(w, 1); fmt.Fprintln(w, 2) })
		})
		if code != command.ExitError || errs.String() != "program: print result: no space left on device\n" {
			t.Errorf("%s: exit code %d, stderr %q", words, code, errs.String())
		}
	}
}
