// SPDX-License-Identifier: AGPL-3.0-only

// Package program is nixfleet-control-plane as a program: its commands, what
// happens at its start and end, and what it says when it cannot start.
//
// It holds no logic of the fleet: it puts pki, plane and server together.
package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// DefaultConfig is where the configuration lies.
const DefaultConfig = "/etc/nixfleet/control-plane.toml"

// usageError is an error in the command line: exit code 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// Invocation is one run of the program.
type Invocation struct {
	Version        string
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
}

// Main runs the program and returns its exit code: 0 done, 1 error, 2 usage.
// An error is one line on stderr, with a hint if there is one.
func Main(ctx context.Context, v Invocation) int {
	root := command(v.Version)
	root.SetArgs(v.Args)
	root.SetOut(v.Stdout)
	root.SetErr(v.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(v.Stderr, "nixfleet-control-plane: %v\n", err)
	if hint := fleet.ErrorHint(err); hint != "" {
		fmt.Fprintf(v.Stderr, "hint: %s\n", hint)
	}
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}

func command(version string) *cobra.Command {
	root := &cobra.Command{
		Use:   "nixfleet-control-plane",
		Short: "Control plane of a NixFleet fleet",
		Example: `  nixfleet-control-plane run --config /etc/nixfleet/control-plane.toml
  nixfleet-control-plane doctor --json`,
		Args: known, RunE: help,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fleet.Errorf(fleet.Invalid, "%w", err).WithHint("%s --help", c.CommandPath())}
	})
	var file string
	root.PersistentFlags().StringVar(&file, "config", DefaultConfig, "configuration `file`")
	root.AddCommand(runCommand(&file, version), configCommand(), backupCommand(&file), doctorCommand(&file), versionCommand(version))
	return root
}

// exactly is cobra.ExactArgs as a usage error.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(c, args); err != nil {
			return usageError{fleet.Errorf(fleet.Invalid, "%w", err).WithHint("%s --help", c.CommandPath())}
		}
		return nil
	}
}

// known refuses an unknown command.
func known(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fleet.Errorf(fleet.Invalid, "unknown command %q", args[0]).WithHint("%s --help", c.CommandPath())}
}

func help(c *cobra.Command, _ []string) error { return c.Help() }

func runCommand(file *string, version string) *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the control plane until SIGTERM",
		Example: `  nixfleet-control-plane run
  nixfleet-control-plane run --config ./control-plane.toml --verbose`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.ReadControlPlane(*file)
			if err != nil {
				return err
			}
			return Run(c.Context(), conf, version, logger(c.ErrOrStderr(), verbose))
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

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at a configuration", Args: known, RunE: help}
	c.AddCommand(&cobra.Command{
		Use:     "check FILE",
		Short:   "Check a configuration",
		Example: "  nixfleet-control-plane config check /etc/nixfleet/control-plane.toml",
		Args:    exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := config.ReadControlPlane(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is good\n", args[0])
			return nil
		},
	})
	return c
}

func versionCommand(version string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  nixfleet-control-plane version --json", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{"version": version})
			}
			fmt.Fprintln(c.OutOrStdout(), version)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
