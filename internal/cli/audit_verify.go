// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/checkpoint"
	"github.com/arcanesys/nixfleet/internal/command"
)

// verified is the result of `audit verify`.
type verified struct {
	OK       bool             `json:"ok"`
	Size     int64            `json:"size"`
	Head     fleet.Digest     `json:"head"`
	Compared *fleet.AuditHead `json:"compared"` // the earlier checkpoint, which the chain contains; nil: none was known
	// Cut is what the trail was when its oldest entries were removed, as the control
	// plane's retention says, and it begins after it; nil if it has them all.
	Cut *fleet.AuditHead `json:"cut,omitempty"`
	// Gone are the checkpoints that are before the cut, so that they were not compared.
	Gone []int64 `json:"gone,omitempty"`
	// Releases are those whose signed checkpoint the chain contains.
	Releases []fleet.Digest `json:"releases"`
	// Unverified are releases whose signatures could not be verified, so that
	// their checkpoints count for nothing.
	Unverified []fleet.Digest `json:"unverified"`
}

// auditVerification are the options of `audit verify`.
type auditVerification struct {
	root, line string
	releases   int
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var o auditVerification
	c := &cobra.Command{
		Use: "verify", Short: "Check that no entry of the audit trail was altered, removed or moved",
		Long: `Check that no entry of the audit trail was altered, removed or moved.

The whole chain is read and hashed here. Where the control plane's retention removed the oldest entries,
an entry says where the chain begins. Entries that were cut off at the end are noticed only by
comparing with an earlier checkpoint: this command keeps the last one of each control plane, and
each release has one in its signed header. Those of the newest releases of the line are compared.`,
		Example: "  nixfleet audit verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.readProject()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("line") {
				o.line = p.Line
			}
			if o.releases < 0 || !fleet.Line(o.line).Valid() {
				return command.Usagef("--releases must not be negative, and --line must be a line")
			}
			return a.verifyAudit(cmd.Context(), o)
		},
	}
	c.Flags().StringVar(&o.line, "line", "", `release train (nixfleet.toml: line; default "main")`)
	c.Flags().StringVar(&o.root, "root", "", "the fleet's root document, which the releases are verified with (nixfleet.toml: root; else the control plane's)")
	c.Flags().IntVar(&o.releases, "releases", 20, "how many releases to compare with, the newest first; 0 for none")
	return c
}

func (a *app) verifyAudit(ctx context.Context, o auditVerification) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	at, err := a.seen()
	if err != nil {
		return err
	}
	before, err := at.Audit()
	if err != nil {
		return err
	}
	out := verified{OK: true, Compared: before, Releases: []fleet.Digest{}, Unverified: []fleet.Digest{}}
	points, err := a.signedHeads(ctx, c, o, &out)
	if fleet.ErrorCode(err) == fleet.Forbidden { // an auditor's key
		a.Say("warning: this key may not read releases, so their checkpoints are not compared")
		points, err = nil, nil
	}
	if err != nil {
		return err
	}
	if before != nil {
		points = append(points, checkpoint.Checkpoint{AuditHead: *before})
	}
	chain, begin, err := checkpoint.Walk(ctx, c, points)
	if err != nil {
		return err
	}
	if begin.Size > 0 {
		out.Cut = &begin
	}
	for _, p := range points {
		if p.Size < begin.Size && p.Size > 0 {
			out.Gone = append(out.Gone, p.Size)
			if p.Release == "" {
				out.Compared = nil
			}
			continue
		}
		if err := p.Fault(chain, at.AuditFile()); err != nil {
			return err
		}
		if p.Release != "" {
			out.Releases = append(out.Releases, p.Release)
		}
	}
	out.Size, out.Head = chain.Size, chain.Head
	if err := at.SaveAudit(chain.Checkpoint()); err != nil {
		return err
	}
	return a.Print(out, func(w io.Writer) { out.text(w) })
}

func (v verified) text(w io.Writer) {
	fmt.Fprintf(w, "%d entries, each follows from the one before; head %s\n", v.Size, v.Head.Short())
	if v.Cut != nil {
		fmt.Fprintf(w, "it begins after entry %d: the control plane removed those before, as its retention says\n", v.Cut.Size)
	}
	if len(v.Gone) > 0 {
		fmt.Fprintf(w, "%d checkpoints are of entries that were removed, up to entry %d, and could not be compared\n", len(v.Gone), slices.Max(v.Gone))
	}
	if v.Compared == nil {
		fmt.Fprintln(w, "no earlier checkpoint is known here, so entries cut off before now could not be seen; the next run compares with this one")
	} else {
		fmt.Fprintf(w, "contains the checkpoint seen before, at entry %d\n", v.Compared.Size)
	}
	if n := len(v.Releases); n > 0 {
		fmt.Fprintf(w, "contains the checkpoints that %d releases sign\n", n)
	}
	if n := len(v.Unverified); n > 0 {
		fmt.Fprintf(w, "%d releases are not signed as the root document asks now; their checkpoints were not compared\n", n)
	}
}

// signedHeads are the checkpoints in the headers of the newest releases, verified.
func (a *app) signedHeads(ctx context.Context, c *api.Client, o auditVerification, out *verified) ([]checkpoint.Checkpoint, error) {
	if o.releases == 0 {
		return nil, nil
	}
	root, err := a.documents().Root(ctx, o.root)
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil, nil // no root is pinned, so there is no release
	}
	if err != nil {
		return nil, err
	}
	points, unverified, err := checkpoint.Signed(ctx, c, &root, fleet.Line(o.line), o.releases)
	out.Unverified = append(out.Unverified, unverified...)
	return points, err
}

// auditHead is the checkpoint of the audit trail that a release signs: the control
// plane's, which must not be behind the one that was seen before.
func (a *app) auditHead(ctx context.Context, c *api.Client) (*fleet.AuditHead, error) {
	head, err := c.AuditHead(ctx)
	if err != nil {
		return nil, err
	}
	at, err := a.seen()
	if err != nil { // such as without a home, in a container
		a.Say("warning: %v", err)
		return &head, nil
	}
	before, err := at.Audit()
	if err != nil {
		return nil, err
	}
	switch {
	case before == nil:
		return &head, at.SaveAudit(head)
	case head.Size < before.Size || head.Size == before.Size && head.Head != before.Head:
		return nil, fleet.Errorf(fleet.Conflict, "the audit trail ends at entry %d, and entry %d with hash %s was seen before", head.Size, before.Size, before.Head.Short()).
			WithHint("nixfleet audit verify shows more; the checkpoint is in %s", at.AuditFile())
	}
	return &head, nil
}
