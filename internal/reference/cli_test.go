// SPDX-License-Identifier: MIT

package reference

import (
	"go/ast"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/internal/cli"
	"github.com/arcanesys/nixfleet/internal/command"
)

func TestCLI_IsDescribed(t *testing.T) {
	root, line := cli.Commands(command.Invocation{Env: func(string) string { return "" }})
	line.Prepare(root)
	var b strings.Builder
	b.WriteString("# nixfleet\n\n" + root.Short + ". Results go to standard output, all else to standard error; with `--json`, standard output has\nexactly one JSON document, also on errors.\n")
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n")
	b.WriteString(exitCodes(t))
	b.WriteString("\n## Flags of every command\n\n" + flags(root.PersistentFlags()))
	b.WriteString("\n`nixfleet completion bash|zsh|fish|powershell` writes a script for the shell; it completes machines, releases and rollouts by\nasking the control plane, for two seconds at most.\n")
	b.WriteString("\n## Commands\n\n| command | |\n| --- | --- |\n")
	all := leaves(root)
	for _, c := range all {
		b.WriteString(row("["+c.CommandPath()+"](#"+strings.ReplaceAll(c.CommandPath(), " ", "-")+")", c.Short))
	}
	for _, c := range all {
		describe(&b, c)
	}
	golden(t, "cli.md", b.String())
}

// leaves are the commands that do something, by name.
func leaves(c *cobra.Command) []*cobra.Command {
	if !c.HasSubCommands() {
		return []*cobra.Command{c}
	}
	var out []*cobra.Command
	for _, sub := range c.Commands() { // sorted
		if sub.IsAvailableCommand() && sub.Name() != "completion" && sub.Name() != "help" {
			out = append(out, leaves(sub)...)
		}
	}
	return out
}

func describe(b *strings.Builder, c *cobra.Command) {
	b.WriteString("\n### " + c.CommandPath() + "\n\n" + c.Short + ".\n")
	if rest := strings.TrimSpace(strings.TrimPrefix(c.Long, c.Short+".")); rest != "" {
		b.WriteString("\n" + rest + "\n")
	}
	b.WriteString("\n```\n" + c.UseLine() + "\n```\n")
	if c.HasLocalFlags() {
		b.WriteString("\n" + flags(c.LocalFlags()))
	}
	b.WriteString("\nExample:\n```\n")
	for _, l := range strings.Split(c.Example, "\n") {
		b.WriteString(strings.TrimPrefix(l, "  ") + "\n")
	}
	b.WriteString("```\n")
}

func flags(set *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n| --- | --- | --- |\n")
	set.VisitAll(func(f *pflag.Flag) {
		kind, usage := pflag.UnquoteUsage(f)
		name := "`--" + f.Name
		if kind != "" {
			name += " " + strings.ToUpper(kind)
		}
		def := f.DefValue
		if def == "[]" || def == "false" || f.Value.Type() == "duration" && def == "0s" || f.Value.Type() == "int" && def == "0" {
			def = ""
		}
		if def != "" {
			def = "`" + def + "`"
		}
		b.WriteString(row(name+"`", def, usage))
	})
	return b.String()
}

// exitCodes reads the codes and their comments from the source.
func exitCodes(t *testing.T) string {
	t.Helper()
	words := regexp.MustCompile(`^Exit[A-Z]`)
	var b strings.Builder
	for _, f := range source(t, "internal/command") {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				v, ok := s.(*ast.ValueSpec)
				if !ok || !words.MatchString(v.Names[0].Name) {
					continue
				}
				if v.Comment == nil {
					t.Errorf("%s has no comment", v.Names[0])
				}
				b.WriteString(row(v.Values[0].(*ast.BasicLit).Value, sentence(v.Comment)))
			}
		}
	}
	return b.String()
}
