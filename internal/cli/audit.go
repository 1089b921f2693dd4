// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/seen"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (a *app) auditCmd() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The tamper-evident record of what was done", Example: "  nixfleet audit verify"}
	c.AddCommand(a.auditListCmd(), a.auditHeadCmd(), a.auditVerifyCmd(), a.auditExportCmd())
	return c
}

// auditLine is an entry with its event.
type auditLine struct {
	Seq  int64        `json:"seq"`
	Hash fleet.Digest `json:"hash"`
	fleet.AuditEvent
}

func (a *app) auditListCmd() *cobra.Command {
	var f fleet.AuditFilter
	c := &cobra.Command{
		Use: "list", Short: "List what was done, oldest first", Example: "  nixfleet audit list --action rollout.create",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			entries, err := all(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
				return c.Audit(ctx, f, p)
			})
			if err != nil {
				return err
			}
			lines := make([]auditLine, len(entries))
			for i, e := range entries {
				ev, err := e.Event()
				if err != nil {
					return err
				}
				lines[i] = auditLine{e.Seq, e.Hash, ev}
			}
			return a.Print(lines, func(w io.Writer) {
				rows := make([][]string, len(lines))
				for i, l := range lines {
					rows[i] = []string{fmt.Sprint(l.Seq), view.Date(l.At), l.Actor, l.Action, l.Subject, details(l.Detail)}
				}
				view.Table(w, "SEQ AT ACTOR ACTION SUBJECT DETAIL", rows)
			})
		},
	}
	c.Flags().StringVar(&f.Actor, "actor", "", "only what this actor did")
	c.Flags().StringVar(&f.Action, "action", "", "only this action")
	c.Flags().StringVar(&f.Subject, "subject", "", "only what was done to this subject")
	return c
}

func details(d map[string]string) string {
	words := make([]string, 0, len(d))
	for _, k := range slices.Sorted(maps.Keys(d)) {
		words = append(words, k+"="+d[k])
	}
	return view.OneLine(strings.Join(words, " "))
}

func (a *app) auditHeadCmd() *cobra.Command {
	return &cobra.Command{
		Use: "head", Short: "Print size and head of the audit trail: a checkpoint to keep elsewhere",
		Example: "  nixfleet audit head --json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			head, err := c.AuditHead(cmd.Context())
			if err != nil {
				return err
			}
			return a.Print(head, func(w io.Writer) { fmt.Fprintf(w, "%d entries, head %s\n", head.Size, head.Head) })
		},
	}
}

func (a *app) auditExportCmd() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Write the audit trail as CSV, safe to open in a spreadsheet", Example: "  nixfleet audit export > audit.csv",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.JSON {
				return command.Usagef("audit export writes CSV; audit list --json writes JSON")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return c.ExportAudit(cmd.Context(), fleet.AuditFilter{}, a.Stdout)
		},
	}
}

// seen is where this user keeps what was seen at the control plane in use.
func (a *app) seen() (seen.Place, error) {
	s, err := a.findServer()
	if err != nil {
		return seen.Place{}, err
	}
	return seen.At(a.Env, s.URL)
}
