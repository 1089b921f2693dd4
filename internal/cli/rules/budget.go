// SPDX-License-Identifier: MIT

package rules

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (h Host) budgetCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "budget", Short: "How many machines may be disrupted at once, over all rollouts",
		Example: "  nixfleet budget create quorum --on @etcd --max 1\n  nixfleet budget list",
	}
	c.AddCommand(h.budgetCreateCmd(), h.budgetListCmd(), h.budgetDeleteCmd())
	return c
}

func (h Host) budgetCreateCmd() *cobra.Command {
	var req api.BudgetRequest
	var limit string
	c := &cobra.Command{
		Use: "create NAME", Short: "Bound how many machines are disrupted at once",
		Long: `Bound how many machines are disrupted at once.

Disrupted are machines that are at work in any rollout or roll back, are unhealthy or offline, or are in
maintenance. While there are as many as --max allows, no rollout begins on another machine of the budget. It
begins on one that is disrupted already, since the release may mend it. No machine waits for a budget to roll
back, or to be reverted.`,
		Example: "  nixfleet budget create web --on @web --max 20%", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) (err error) {
			if req.Max, err = fleet.ParseAmount(limit); err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			if err = (fleet.Budget{Name: argv[0], Select: req.Select, Max: req.Max}).Validate(); err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			client, err := h.Client()
			if err != nil {
				return err
			}
			b, err := client.PutBudget(cmd.Context(), argv[0], req)
			if err != nil {
				return err
			}
			return h.Print(b, func(w io.Writer) {
				fmt.Fprintf(w, "budget %s: %d of %d machines may be disrupted; %d are\n", b.Name, b.Limit, b.Machines, len(b.Disrupted))
			})
		},
	}
	f := c.Flags()
	f.StringSliceVar(&req.Select, "on", nil, "machines: @tag, web-*, !web-03")
	f.StringVar(&limit, "max", "1", "how many may be disrupted: a count or a percentage, rounded down, of at least one")
	f.BoolVar(&req.Replace, "replace", false, "replace a budget of this name")
	return c
}

func (h Host) budgetListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List budgets, and which machines are disrupted and why", Example: "  nixfleet budget list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			list, err := c.Budgets(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, b := range list {
					rows[i] = []string{b.Name, strings.Join(b.Select, ","), b.Max.String(), fmt.Sprintf("%d of %d", len(b.Disrupted), b.Limit), disrupted(b.Disrupted)}
				}
				view.Table(w, "BUDGET MACHINES MAX USED BY", rows)
			})
		},
	}
}

// disrupted names machines that count, the first three of them.
func disrupted(list []api.Disrupted) string {
	var words []string
	for i, d := range list {
		if i == 3 {
			words = append(words, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		words = append(words, string(d.Machine)+" ("+d.Why+")")
	}
	return strings.Join(words, ", ")
}

func (h Host) budgetDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a budget", Example: "  nixfleet budget delete web", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			b, err := c.DeleteBudget(cmd.Context(), argv[0])
			if err != nil {
				return err
			}
			return h.Print(b, func(w io.Writer) { fmt.Fprintf(w, "deleted budget %s\n", b.Name) })
		},
	}
}
