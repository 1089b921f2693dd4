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
					rows[i] = []string{fmt.Sprint(l.Seq), date(l.At), l.Actor, l.Action, l.Subject, details(l.Detail)}
				}
				table(w, "SEQ AT ACTOR ACTION SUBJECT DETAIL", rows)
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
	return oneLine(strings.Join(words, " "))
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

// verified is the result of `audit verify`.
type verified struct {
	OK       bool             `json:"ok"`
	Size     int64            `json:"size"`
	Head     fleet.Digest     `json:"head"`
	Compared *fleet.AuditHead `json:"compared"` // the earlier checkpoint, which the chain contains; nil: none was known
}

func (a *app) auditVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Check that no entry of the audit trail was altered, removed or moved",
		Long: `Check that no entry of the audit trail was altered, removed or moved.

The whole chain is read and hashed here. Entries that were cut off at the end are noticed only by
comparing with an earlier checkpoint: this command keeps the last one of each control plane.`,
		Example: "  nixfleet audit verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			at, err := a.seen()
			if err != nil {
				return err
			}
			now, before, err := at.VerifyAudit(cmd.Context(), c)
			if err != nil {
				return err
			}
			out := verified{OK: true, Size: now.Size, Head: now.Head, Compared: before}
			return a.Print(out, func(w io.Writer) {
				fmt.Fprintf(w, "%d entries, each follows from the one before; head %s\n", out.Size, out.Head.Short())
				if before == nil {
					fmt.Fprintln(w, "no earlier checkpoint is known here, so entries cut off before now could not be seen; the next run compares with this one")
				} else {
					fmt.Fprintf(w, "contains the checkpoint seen before, at entry %d\n", before.Size)
				}
			})
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
