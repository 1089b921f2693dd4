// SPDX-License-Identifier: MIT

// Package cli is the nixfleet command: one file per noun. Text is a view of
// the value that --json prints; results go to stdout, all else to stderr.
//
// It never decides what a rollout does, and never talks to a control plane's
// database.
package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/complete"
	"github.com/arcanesys/nixfleet/internal/cli/documents"
	"github.com/arcanesys/nixfleet/internal/cli/rules"
	"github.com/arcanesys/nixfleet/internal/cli/webhooks"
	"github.com/arcanesys/nixfleet/internal/command"
)

// app is what the commands share: the command line and the global flags.
type app struct {
	*command.Line
	flags flags
}

// Run runs the command line and returns its exit code.
func Run(ctx context.Context, v command.Invocation) int {
	root, line := Commands(v)
	err := line.Execute(ctx, root)
	if err != nil && !command.HasCode(err) && ctx.Err() != nil {
		err = command.Exit(command.ExitCancelled, fleet.Errorf(fleet.Unavailable, "stopped by a signal"))
	}
	return line.End(err)
}

// Commands returns the tree of all commands, and the command line that they
// read.
func Commands(v command.Invocation) (*cobra.Command, *command.Line) {
	a := &app{Line: command.New(v)}
	return a.root(), a.Line
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "nixfleet",
		Short:   "Manage a fleet of NixOS and macOS machines",
		Example: "  nixfleet demo\n  nixfleet release create && nixfleet rollout create --strategy canary --wait",
	}
	a.JSONFlag(root.PersistentFlags())
	a.flags.register(root.PersistentFlags())
	root.AddCommand(documents.Command(a.documents()), a.releaseCmd(), a.rolloutCmd(), a.machineCmd(), a.keyCmd(), a.auditCmd(), a.infoCmd(), a.demoCmd(), a.VersionCommand("nixfleet"))
	root.AddCommand(rules.Commands(rules.Host{Line: a.Line, Client: a.client})...)
	root.AddCommand(webhooks.Command(webhooks.Host{Line: a.Line, Client: a.client, Read: a.readFile}))
	complete.Commands(root, a.shellClient)
	return root
}

// readFile reads a file of at most limit bytes; "-" is standard input.
func (a *app) readFile(name string, limit int64) ([]byte, error) {
	in := a.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "%w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fleet.Errorf(fleet.TooLarge, "%s has more than %d bytes", name, limit)
	}
	return b, nil
}
