// SPDX-License-Identifier: MIT

package hints

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	controlplane "github.com/arcanesys/nixfleet/controlplane/program"
	agent "github.com/arcanesys/nixfleet/internal/agent/program"
	"github.com/arcanesys/nixfleet/internal/cli"
	"github.com/arcanesys/nixfleet/internal/command"
)

const top = "../.."

// node is a program, or a command of one.
type node struct {
	path  string
	subs  map[string]*node
	flags map[string]bool // long ones, without dashes
}

// known is all that a command line may name.
type known struct {
	programs                 map[string]*node
	targets, apps, templates map[string]bool
}

func load(t *testing.T) known {
	t.Helper()
	ask := func(program func(context.Context, command.Invocation) int) func(args ...string) string {
		return func(args ...string) string {
			var out bytes.Buffer
			v := command.Invocation{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard}
			if code := program(t.Context(), v); code != 0 {
				t.Fatalf("%v: exit code %d", args, code)
			}
			return out.String()
		}
	}
	nixfleet, line := cli.Commands(command.Invocation{Env: func(string) string { return "" }})
	line.Prepare(nixfleet)
	nixfleet.InitDefaultHelpCmd()
	nixfleet.InitDefaultCompletionCmd()
	return known{
		programs: map[string]*node{
			"nixfleet":               fromTree(nixfleet),
			"nixfleet-agent":         fromCompletion(ask(agent.Main), "nixfleet-agent"),
			"nixfleet-control-plane": fromCompletion(ask(controlplane.Main), "nixfleet-control-plane"),
		},
		targets:   names(t, "Makefile", `(?m)^([a-z][a-z0-9-]*):`),
		apps:      apps(t),
		templates: names(t, "nix/templates/default.nix", `(?m)^  ([a-z]+) = \{`),
	}
}

// fromTree reads the commands of a program that can be imported.
func fromTree(c *cobra.Command) *node {
	out := &node{path: c.CommandPath(), subs: map[string]*node{}, flags: map[string]bool{"help": true}}
	c.InitDefaultVersionFlag()
	add := func(f *pflag.Flag) { out.flags[f.Name] = true }
	c.Flags().VisitAll(add)
	c.PersistentFlags().VisitAll(add)
	c.InheritedFlags().VisitAll(add)
	for _, sub := range c.Commands() {
		out.subs[sub.Name()] = fromTree(sub)
	}
	return out
}

// fromCompletion asks a program for its commands and flags the way a shell
// does: a line for each, the name first, and in the end `:` with a number.
func fromCompletion(ask func(args ...string) string, path string) *node {
	out := &node{path: path, subs: map[string]*node{}, flags: map[string]bool{}}
	words := append([]string{"__complete"}, strings.Fields(path)[1:]...)
	complete := func(begun string) []string {
		var found []string
		for line := range strings.Lines(ask(append(words, begun)...)) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if name != "" && !strings.HasPrefix(name, ":") {
				found = append(found, name)
			}
		}
		return found
	}
	for _, name := range complete("--") {
		out.flags[strings.TrimPrefix(name, "--")] = true
	}
	for _, name := range complete("") {
		if name != "help" { // it completes to all commands again
			out.subs[name] = fromCompletion(ask, path+" "+name)
		}
	}
	return out
}

// names are what a pattern finds in a file.
func names(t *testing.T, file, pattern string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(top, file))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(b), -1) {
		found[m[1]] = true
	}
	if len(found) < 3 {
		t.Fatalf("%s: found only %v; is it written in another way now?", file, slices.Sorted(maps.Keys(found)))
	}
	return found
}

// apps are those of the flake, and those that mkVmApps makes for a fleet.
func apps(t *testing.T) map[string]bool {
	t.Helper()
	found := names(t, "nix/apps.nix", `(?ms)^  ([a-z]+) =\s+(?:app|script) `)
	for verb := range names(t, "nix/lib/mk-vm-apps.nix", `(?m)^    ([a-z]+) = "`) {
		found[verb+"-vm"] = true
	}
	return found
}
