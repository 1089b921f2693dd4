// SPDX-License-Identifier: MIT

package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/demo"
)

func (a *app) demoCmd() *cobra.Command {
	var keep bool
	var report string
	c := &cobra.Command{
		Use: "demo", Short: "Run a whole fleet on this machine for a minute, and see how it is managed",
		Long: `Run a whole fleet on this machine for a minute, and see how it is managed.

It needs root on Linux, and Nix. Machines are namespaces with a real systemd, on a network that is
cut off from all others. This machine is not changed, and nothing is left on it, also after Ctrl-C.`,
		Example: "  sudo nixfleet demo\n  sudo nixfleet demo --keep",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own program: %w", err)
			}
			if self, err = filepath.EvalSymlinks(self); err != nil {
				return fmt.Errorf("find own program: %w", err)
			}
			story := a.Stdout
			if a.JSON {
				story = a.Stderr
			}
			res, err := demo.Run(cmd.Context(), demo.Config{Out: story, Bin: filepath.Dir(self), Keep: keep, Report: report})
			if perr := a.demoResult(res); perr != nil {
				return perr
			}
			if err == nil {
				return nil
			}
			if cmd.Context().Err() != nil {
				return command.Exit(command.ExitCancelled, fleet.Errorf(fleet.Unavailable, "the demo was stopped; nothing is left on this machine"))
			}
			return command.Exit(command.ExitError, err)
		},
	}
	c.Flags().StringVar(&report, "report", "", "write a report of the run to this file, as HTML")
	c.Flags().BoolVar(&keep, "keep", false, "keep everything running until Ctrl-C, and print how to look around")
	return c
}

// demoResult prints the result as the last line of stdout: all of it with --json,
// else whether it succeeded.
func (a *app) demoResult(res demo.Result) error {
	if a.JSON {
		return a.Encode(res)
	}
	return a.Encode(struct {
		OK         bool  `json:"ok"`
		DurationMs int64 `json:"durationMs"`
	}{res.OK, res.DurationMs})
}
