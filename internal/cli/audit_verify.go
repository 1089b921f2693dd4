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
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// verified is the result of `audit verify`.
type verified struct {
	OK       bool             `json:"ok"`
	Size     int64            `json:"size"`
	Head     fleet.Digest     `json:"head"`
	Compared *fleet.AuditHead `json:"compared"` // the earlier checkpoint, which the chain contains; nil: none was known
	// Releases are those whose signed checkpoint the chain contains.
	Releases []fleet.Digest `json:"releases"`
	// Unverified are releases whose signatures could not be verified, so that
	// their checkpoints count for nothing.
	Unverified []fleet.Digest `json:"unverified"`
}

// checkpoint is a size and head of the audit trail that was seen or signed.
type checkpoint struct {
	fleet.AuditHead
	release fleet.Digest // that signed it; empty: seen by this command
	met     bool
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

The whole chain is read and hashed here. Entries that were cut off at the end are noticed only by
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
		points = append(points, checkpoint{AuditHead: *before})
	}
	chain, err := walk(ctx, c, points)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := p.fault(chain, at.AuditFile()); err != nil {
			return err
		}
		if p.release != "" {
			out.Releases = append(out.Releases, p.release)
		}
	}
	out.Size, out.Head = chain.Size, chain.Head
	if err := at.SaveAudit(chain.Checkpoint()); err != nil {
		return err
	}
	return a.Print(out, func(w io.Writer) { out.text(w) })
}

// walk reads the whole chain, and marks the checkpoints that it contains.
func walk(ctx context.Context, c *api.Client, points []checkpoint) (fleet.AuditChain, error) {
	var chain fleet.AuditChain
	mark := func() {
		for i := range points {
			p := &points[i]
			p.met = p.met || p.Size == 0 || p.Size == chain.Size && p.Head == chain.Head
		}
	}
	mark()
	for e, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
		return c.Audit(ctx, fleet.AuditFilter{}, p)
	}) {
		if err == nil {
			err = chain.Add(e)
		}
		if err != nil {
			return chain, err
		}
		mark()
	}
	return chain, nil
}

// fault is why a chain does not contain the checkpoint, or nil.
func (p checkpoint) fault(chain fleet.AuditChain, file string) error {
	switch {
	case p.met:
		return nil
	case p.release == "":
		return fleet.Errorf(fleet.Conflict, "the audit trail does not contain the checkpoint seen before: entry %d with hash %s; entries were cut off or rewritten", p.Size, p.Head.Short()).
			WithHint("the checkpoint is in %s; was the control plane restored from a backup?", file)
	case chain.Size < p.Size:
		return fleet.Errorf(fleet.Conflict, "the audit trail has %d entries, and release %s was signed when it had %d: entries were cut off", chain.Size, p.release.Short(), p.Size).
			WithHint("was the control plane restored from a backup?")
	}
	return fleet.Errorf(fleet.Conflict, "entry %d of the audit trail is not the one that release %s signs, with hash %s: entries were rewritten", p.Size, p.release.Short(), p.Head.Short()).
		WithHint("someone wrote to the control plane's database; compare with other operators' checkpoints")
}

// signedHeads are the checkpoints in the headers of the newest releases, verified.
func (a *app) signedHeads(ctx context.Context, c *api.Client, o auditVerification, out *verified) ([]checkpoint, error) {
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
	var points []checkpoint
	n := 0
	for r, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
		return c.Releases(ctx, fleet.ReleaseFilter{Line: fleet.Line(o.line)}, p)
	}) {
		if err != nil {
			return nil, err
		}
		if n++; n > o.releases {
			break
		}
		full, err := c.Release(ctx, r.Digest)
		if err != nil {
			return nil, err
		}
		h, d, err := trust.CheckHeader(full.Envelope, &root)
		switch {
		case err != nil:
			out.Unverified = append(out.Unverified, r.Digest)
		case h.AuditHead != nil:
			points = append(points, checkpoint{AuditHead: *h.AuditHead, release: d})
		}
	}
	slices.Reverse(points) // a fault names the oldest release that shows it
	return points, nil
}

func (v verified) text(w io.Writer) {
	fmt.Fprintf(w, "%d entries, each follows from the one before; head %s\n", v.Size, v.Head.Short())
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
