// SPDX-License-Identifier: MIT

package rules

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (h Host) freezeCmd() *cobra.Command {
	var req api.FreezeRequest
	var until string
	c := &cobra.Command{
		Use: "freeze", Short: "Order no machine of the fleet anything new",
		Long: `Order no machine of the fleet anything new.

Rollouts stay as they are and offer their release to no machine. Machines that have begun to switch finish.
Machines still roll back by themselves, and can still be reverted. nixfleet unfreeze ends it, or the time that
--until gives: a moment such as 2026-12-01T06:00:00Z, or how long from now, 2h.`,
		Example: "  nixfleet freeze --reason 'incident 4711' --until 2h", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Reason == "" {
				return command.Usagef("give --reason, which others read when they ask why their rollout waits")
			}
			var err error
			if req.Until, err = moment(until, time.Now()); err != nil {
				return err
			}
			c, err := h.Client()
			if err != nil {
				return err
			}
			f, err := c.SetFreeze(cmd.Context(), req)
			if err != nil {
				return err
			}
			return h.Print(f, func(w io.Writer) { fmt.Fprintln(w, freezeText(f)) })
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why")
	c.Flags().StringVar(&until, "until", "", "when it ends by itself (default: when nixfleet unfreeze ends it)")
	return c
}

func freezeText(f fleet.Freeze) string {
	s := fmt.Sprintf("the fleet is frozen by %s since %s: %s", f.By, view.Date(f.At), f.Reason)
	if f.Until != 0 {
		s += "; until " + view.Date(f.Until)
	}
	return s
}

// moment reads a moment, or how long from now; 0 for "".
func moment(text string, now time.Time) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d).UnixMilli(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, command.Usagef("%q is neither a moment such as 2026-12-01T06:00:00Z nor a time from now such as 2h", text)
	}
	return at.UnixMilli(), nil
}

func (h Host) unfreezeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "unfreeze", Short: "End a freeze: rollouts go on", Example: "  nixfleet unfreeze", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			f, err := c.EndFreeze(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(f, func(w io.Writer) { fmt.Fprintf(w, "the fleet is no longer frozen; it was by %s: %s\n", f.By, f.Reason) })
		},
	}
}
