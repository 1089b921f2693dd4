// SPDX-License-Identifier: AGPL-3.0-only

// Package program is nixfleet-control-plane as a program: its commands, what
// happens at its start and end, and what it says when it cannot start.
//
// It holds no logic of the fleet: it puts pki, plane and server together.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/config"
)

// DefaultConfig is where the configuration lies.
const DefaultConfig = "/etc/nixfleet/control-plane.toml"

// Main runs the program and returns its exit code.
func Main(ctx context.Context, v command.Invocation) int {
	p := &program{Line: command.New(v)}
	return p.End(p.Execute(ctx, p.root()))
}

// program is what the commands share.
type program struct {
	*command.Line
	file string // the configuration
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nixfleet-control-plane",
		Short: "Control plane of a NixFleet fleet",
		Example: `  nixfleet-control-plane run --config /etc/nixfleet/control-plane.toml
  nixfleet-control-plane doctor --json`,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&p.file, "config", DefaultConfig, "configuration `file`")
	version := p.VersionCommand("nixfleet-control-plane")
	p.JSONFlag(version.Flags())
	root.AddCommand(p.runCommand(), p.configCommand(), p.backupCommand(), p.restoreCommand(), p.doctorCommand(), version)
	return root
}

func (p *program) runCommand() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the control plane until SIGTERM",
		Example: `  nixfleet-control-plane run
  nixfleet-control-plane run --config ./control-plane.toml --verbose`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.ReadControlPlane(p.file)
			if err != nil {
				return err
			}
			return Run(c.Context(), conf, p.Version, logger(p.Stderr, verbose))
		},
	}
	c.Flags().BoolVar(&verbose, "verbose", false, "log every request")
	return c
}

func logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	c.AddCommand(&cobra.Command{
		Use:     "check FILE",
		Short:   "Check a configuration file",
		Example: "  nixfleet-control-plane config check /etc/nixfleet/control-plane.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := config.ReadControlPlane(args[0])
			if err != nil {
				return err
			}
			return p.Print(conf, func(w io.Writer) { fmt.Fprintf(w, "%s is valid\n", args[0]) })
		},
	})
	return c
}
