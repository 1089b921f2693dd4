// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
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
			s, err := a.findServer()
			if err != nil {
				return err
			}
			seen, file, err := a.checkpoint(s.URL)
			if err != nil {
				return err
			}
			var chain fleet.AuditChain
			matched := seen == nil || seen.Size == 0
			for e, err := range api.All(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
				return c.Audit(ctx, fleet.AuditFilter{}, p)
			}) {
				if err != nil {
					return err
				}
				if err := chain.Add(e); err != nil {
					return err
				}
				matched = matched || chain.Size == seen.Size && chain.Head == seen.Head
			}
			if !matched {
				return fleet.Errorf(fleet.Conflict, "the audit trail does not contain the checkpoint seen before: entry %d with hash %s; entries were cut off or rewritten", seen.Size, seen.Head.Short()).
					WithHint("the checkpoint is in %s; was the control plane restored from a backup?", file)
			}
			out := verified{OK: true, Size: chain.Size, Head: chain.Head, Compared: seen}
			if err := saveCheckpoint(file, chain.Checkpoint()); err != nil {
				return err
			}
			return a.Print(out, func(w io.Writer) {
				fmt.Fprintf(w, "%d entries, each follows from the one before; head %s\n", out.Size, out.Head.Short())
				if seen == nil {
					fmt.Fprintln(w, "no earlier checkpoint is known here, so entries cut off before now could not be seen; the next run compares with this one")
				} else {
					fmt.Fprintf(w, "contains the checkpoint seen before, at entry %d\n", seen.Size)
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

// checkpoint returns the audit head that this user last saw at a control plane,
// or nil, and the file that holds it.
func (a *app) checkpoint(url string) (*fleet.AuditHead, string, error) {
	dir := a.Env("XDG_STATE_HOME")
	if dir == "" {
		home := a.Env("HOME")
		if home == "" {
			return nil, "", fleet.Errorf(fleet.Invalid, "neither HOME nor XDG_STATE_HOME is set, so no checkpoint can be kept").WithHint("set XDG_STATE_HOME to a folder that is kept")
		}
		dir = filepath.Join(home, ".local", "state")
	}
	name := strings.TrimPrefix(string(fleet.SHA256([]byte(url))), "sha256:")[:16]
	file := filepath.Join(dir, "nixfleet", "audit-"+name+".json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, file, nil
	}
	if err != nil {
		return nil, file, fleet.Errorf(fleet.Invalid, "read audit checkpoint: %w", err)
	}
	var h fleet.AuditHead
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, file, fleet.Errorf(fleet.Invalid, "audit checkpoint %s: %w", file, err).WithHint("remove the file to start again without a checkpoint")
	}
	return &h, file, nil
}

func saveCheckpoint(file string, h fleet.AuditHead) error {
	b, err := json.Marshal(h)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "save audit checkpoint: %w", err)
	}
	return nil
}
