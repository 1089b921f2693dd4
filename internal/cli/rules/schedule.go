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

func (h Host) scheduleCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "schedule", Short: "Rollouts that begin by themselves",
		Example: "  nixfleet schedule create nightly --cron \"30 2 * * 1-5 Europe/Paris\" --policy careful\n  nixfleet schedule list",
	}
	c.AddCommand(h.scheduleCreateCmd(), h.scheduleListCmd(), h.scheduleDeleteCmd())
	return c
}

func (h Host) scheduleCreateCmd() *cobra.Command {
	var req api.ScheduleRequest
	var line string
	var tolerance time.Duration
	c := &cobra.Command{
		Use: "create NAME", Short: "Have rollouts begin by a timetable",
		Long: `Have rollouts begin by a timetable.

At each beginning, the newest release of the line is rolled out by the policy, as both are then. Nothing begins
while all of the machines run that release, while another rollout has one of them, and after a rollout of the
same release by this schedule was cancelled or failed. A beginning for which the control plane was down begins
late, within the tolerance, or not at all; none begins twice.`,
		Example: "  nixfleet schedule create nightly --cron \"30 2 * * 1-5 Europe/Paris\" --policy careful --line main",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			req.Line, req.ToleranceMs = fleet.Line(line), tolerance.Milliseconds()
			now := time.Now().UnixMilli()
			s := fleet.Schedule{Name: argv[0], Cron: req.Cron, Policy: req.Policy, Line: req.Line, ToleranceMs: req.ToleranceMs, CreatedAt: now}
			if err := s.Validate(); err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			client, err := h.Client()
			if err != nil {
				return err
			}
			if s, err = client.PutSchedule(cmd.Context(), s.Name, req); err != nil {
				return err
			}
			return h.Print(s, func(w io.Writer) {
				fmt.Fprintf(w, "schedule %s begins a rollout of line %s by policy %s next on %s\n", s.Name, s.Line, s.Policy, view.Date(s.NextAt))
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Cron, "cron", "", `when: minute, hour, day of the month, month, day of the week, and a time zone (UTC without one)`)
	f.StringVar(&req.Policy, "policy", "", "by this policy; nixfleet policy list shows them")
	f.StringVar(&line, "line", "main", "of this line")
	f.DurationVar(&tolerance, "tolerance", fleet.DefaultTolerance*time.Millisecond, "how late a rollout may begin because the control plane was down")
	f.BoolVar(&req.Replace, "replace", false, "replace a schedule of this name")
	return c
}

func (h Host) scheduleListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List schedules, when each begins next, and what its last beginning led to", Example: "  nixfleet schedule list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			list, err := c.Schedules(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, s := range list {
					rows[i] = []string{s.Name, s.Cron, string(s.Line), s.Policy, view.Date(s.NextAt), lastOf(s)}
				}
				view.Table(w, "SCHEDULE WHEN LINE POLICY NEXT LAST", rows)
			})
		},
	}
}

// lastOf says what a schedule's last beginning led to.
func lastOf(s fleet.Schedule) string {
	switch {
	case s.LastAt == s.CreatedAt:
		return "-"
	case s.LastWhy != "":
		return view.Date(s.LastAt) + " left out: " + s.LastWhy
	}
	return view.Date(s.LastAt) + " rollout " + string(s.LastRollout)
}

func (h Host) scheduleDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a schedule; rollouts that it began go on", Example: "  nixfleet schedule delete nightly", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			s, err := c.DeleteSchedule(cmd.Context(), argv[0])
			if err != nil {
				return err
			}
			return h.Print(s, func(w io.Writer) { fmt.Fprintf(w, "deleted schedule %s\n", s.Name) })
		},
	}
}
