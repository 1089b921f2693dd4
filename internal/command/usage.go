// SPDX-License-Identifier: MIT

package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/fleet"
)

// Prepare makes every command of a tree refuse unknown commands, unknown flags
// and wrong arguments as usage errors with a hint. A second call changes
// nothing.
func (l *Line) Prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = l.Version
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		l.JSON = l.JSON || l.wantsJSON()
		return Exit(ExitUsage, fleet.Errorf(fleet.Invalid, "%w", err).WithHint("%s --help shows how", c.CommandPath()))
	})
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.HasSubCommands() && c.RunE == nil {
			l.refuseUnknown(c)
		}
		if check := c.Args; check != nil {
			c.Args = usageError(check)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// refuseUnknown is for a command that only holds others. Cobra would print the
// help and succeed.
func (l *Line) refuseUnknown(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		path := c.CommandPath()
		switch {
		case len(args) == 0 && l.JSON:
			return Exit(ExitUsage, fleet.Errorf(fleet.Invalid, "%s wants a command", path).WithHint("%s --help lists them", path))
		case len(args) == 0:
			return c.Help()
		}
		err := fleet.Errorf(fleet.Invalid, "%s has no command %q", path, args[0]).WithHint("%s --help lists them", path)
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			err = err.WithHint("did you mean %s? %s --help lists all", strings.Join(near, " or "), path)
		}
		return Exit(ExitUsage, err)
	}
}

// usageError makes a cobra check of arguments end with ExitUsage.
func usageError(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err == nil || HasCode(err) {
			return err
		}
		return Exit(ExitUsage, fleet.Errorf(fleet.Invalid, "%w", err).WithHint("usage: %s; %s --help shows more", c.UseLine(), c.CommandPath()))
	}
}

// JSONFlag adds --json to a set of flags.
func (l *Line) JSONFlag(set *pflag.FlagSet) {
	set.BoolVar(&l.JSON, "json", false, "print JSON on stdout, and nothing else there")
}

// VersionCommand prints the program's version.
func (l *Line) VersionCommand(program string) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  " + program + " version --json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return l.Print(map[string]string{"version": l.Version}, func(w io.Writer) { fmt.Fprintln(w, l.Version) })
		},
	}
}
