// SPDX-License-Identifier: MIT

package rules

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/internal/cli/view"
)

func (h Host) gateCmd() *cobra.Command {
	c := &cobra.Command{Use: "gate", Short: "What must hold before a batch passes", Example: "  nixfleet gate list"}
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "List the gates that rollouts can name",
		Long: `List the gates that rollouts can name.

The control plane's configuration says what each one asks, and where. nixfleet rollout create --gate NAME --dry-run
shows what a gate says now.`,
		Example: "  nixfleet gate list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := h.Client()
			if err != nil {
				return err
			}
			list, err := c.Gates(cmd.Context())
			if err != nil {
				return err
			}
			return h.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, g := range list {
					rows[i] = []string{string(g.Name), g.Kind}
				}
				view.Table(w, "GATE KIND", rows)
			})
		},
	})
	return c
}
