// SPDX-License-Identifier: MIT

// Package timeline tells what happened in a rollout, a line for each event.
//
// It never follows a rollout that goes on.
package timeline

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

// Host is the command line that the command is part of.
type Host struct {
	*command.Line
	// Rollout is the rollout that the arguments name: the newest, if there are none.
	Rollout func(ctx context.Context, argv []string) (*api.Client, fleet.RolloutID, error)
}

// Command is nixfleet rollout events.
func Command(h Host) *cobra.Command {
	return &cobra.Command{
		Use: "events [ROLLOUT]", Short: "List what happened in a rollout, oldest first",
		Long: `List what happened in a rollout, oldest first.

The control plane keeps events for as long as its retention says: of an old rollout there may be the
end only, or none. nixfleet audit list tells what was ordered and how it ended, for longer.`,
		Example: "  nixfleet rollout events\n  nixfleet rollout events web-2026-11 --json", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, id, err := h.Rollout(cmd.Context(), argv)
			if err != nil {
				return err
			}
			all := []api.Event{}
			for e, broken := range api.All(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[api.Event], error) {
				return c.RolloutEvents(ctx, id, p)
			}) {
				if broken != nil {
					return broken
				}
				all = append(all, e)
			}
			return h.Print(all, func(w io.Writer) {
				for _, e := range all {
					if _, line := Line(e); line != "" {
						fmt.Fprintf(w, "%s  %s\n", view.Date(e.At), line)
					}
				}
			})
		},
	}
}

// Line says an event in a line, and what it is about, by which the same line twice
// can be told. Both are "" for an event that is about no rollout.
func Line(e api.Event) (subject, line string) {
	switch {
	case e.Assignment != nil:
		as := e.Assignment
		subject = string(as.Machine)
		line = fmt.Sprintf("batch %d  %-12s %-16s %s %s", as.Batch+1, as.Machine, as.State, as.Reason, view.OneLine(cmp.Or(as.Message, as.Why, " ")))
	case e.Batch != nil:
		b := e.Batch
		subject = fmt.Sprint(b.Index)
		line = fmt.Sprintf("batch %d  %s: %d of %d healthy, %d failed  %s", b.Index+1, b.State, b.Counts.Healthy, b.Size, b.Counts.Failed, b.Why)
	case e.Rollout != nil:
		line = fmt.Sprintf("rollout  %s  %s", e.Rollout.State, e.Rollout.Why)
	case e.Report != nil:
		r := e.Report
		subject = "report of " + string(r.Machine)
		line = fmt.Sprintf("report   %-12s %-16s %s %s", r.Machine, cmp.Or(string(r.Outcome), string(r.Phase)), r.Reason, view.OneLine(cmp.Or(r.Message, " ")))
	}
	return subject, strings.TrimRight(line, " ")
}
