// SPDX-License-Identifier: MIT

package rules

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/options"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (h Host) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Named presets of rollouts",
		Example: "  nixfleet policy create careful --batches 1,25%,100% --soak 30m --gate errors\n  nixfleet rollout create --policy careful",
	}
	c.AddCommand(h.policyCreateCmd(), h.policyListCmd(), h.policyShowCmd(), h.policyDeleteCmd())
	return c
}

func (h Host) policyCreateCmd() *cobra.Command {
	var o options.Rollout
	var replace bool
	c := &cobra.Command{
		Use: "create NAME", Short: "Save a preset of rollouts",
		Long: `Save a preset of rollouts.

The options are those of nixfleet rollout create. They are checked when the policy is saved: a rollout by it is
refused only for what is about its release or its machines. In nixfleet rollout create --policy NAME, an option
that is given beats the policy.`,
		Example: "  nixfleet policy create careful --batches 1,25%,100% --soak 30m", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			spec, err := o.Fill()
			if err != nil {
				return err
			}
			p := fleet.RolloutPolicy{Name: argv[0], Spec: spec.Defaults()}
			if err = p.Validate(); err != nil {
				return command.Exit(command.ExitUsage, err)
			}
			return h.withPolicy(cmd.Context(), func(ctx context.Context, c *api.Client) (fleet.RolloutPolicy, error) {
				return c.PutPolicy(ctx, p.Name, api.PolicyRequest{Spec: p.Spec, Replace: replace})
			}, func(w io.Writer, p fleet.RolloutPolicy) { fmt.Fprintf(w, "saved policy %s\n", p.Name) })
		},
	}
	o.RegisterPolicy(c.Flags())
	c.Flags().BoolVar(&replace, "replace", false, "replace a policy of this name; rollouts that have begun stay as they are")
	return c
}

// withPolicy does something that returns a policy, and prints that.
func (h Host) withPolicy(ctx context.Context, do func(context.Context, *api.Client) (fleet.RolloutPolicy, error), text func(io.Writer, fleet.RolloutPolicy)) error {
	c, err := h.Client()
	if err != nil {
		return err
	}
	p, err := do(ctx, c)
	if err != nil {
		return err
	}
	return h.Print(p, func(w io.Writer) { text(w, p) })
}

func (h Host) policyListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the presets of rollouts", Example: "  nixfleet policy list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			list, err := c.Policies(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, p := range list {
					rows[i] = []string{p.Name, string(p.Spec.Strategy), view.Date(p.CreatedAt), p.CreatedBy}
				}
				view.Table(w, "POLICY STRATEGY CREATED BY", rows)
			})
		},
	}
}

func (h Host) policyShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a preset of rollouts", Example: "  nixfleet policy show careful", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return h.withPolicy(cmd.Context(), func(ctx context.Context, c *api.Client) (fleet.RolloutPolicy, error) {
				return c.Policy(ctx, argv[0])
			}, func(w io.Writer, p fleet.RolloutPolicy) {
				fmt.Fprintf(w, "policy %s, by %s on %s\n", p.Name, p.CreatedBy, view.Date(p.CreatedAt))
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				_ = e.Encode(p.Spec) // a writer that fails is noticed by Print
			})
		},
	}
}

func (h Host) policyDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a preset; rollouts that were made from it stay", Example: "  nixfleet policy delete careful", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return h.withPolicy(cmd.Context(), func(ctx context.Context, c *api.Client) (fleet.RolloutPolicy, error) {
				return c.DeletePolicy(ctx, argv[0])
			}, func(w io.Writer, p fleet.RolloutPolicy) { fmt.Fprintf(w, "deleted policy %s\n", p.Name) })
		},
	}
}
