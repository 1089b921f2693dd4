// SPDX-License-Identifier: MIT

package documents

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// shown is the result of `trust show`.
type shown struct {
	fleet.Root
	Documents []life `json:"documents"`
}

// life is how long a document is valid, and how much of that is over.
type life struct {
	What     string `json:"what"` // root, timestamp, release of line main
	Version  uint64 `json:"version"`
	SignedAt int64  `json:"signedAt,omitempty"` // Unix milliseconds
	Expires  int64  `json:"expires"`            // Unix milliseconds
	Used     int    `json:"used"`               // percent
}

func lifeOf(what string, version uint64, signedAt, expires int64, now time.Time) life {
	return life{what, version, signedAt, expires, trust.LifeUsed(signedAt, expires, now.UnixMilli())}
}

func (h Host) showCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show who may sign what, and how long it is valid",
		Long: `Show who may sign what, by the root document in FILE or by the control plane's, and how long it is valid.

Without FILE, the control plane's timestamp and the newest release of the project's line are shown too. A document is
warned of when half, and when three quarters, of its life are over.`,
		Example: "  nixfleet trust show trust/root.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			out, err := h.show(cmd.Context(), argv, time.Now())
			if err != nil {
				return err
			}
			for _, l := range out.Documents {
				if trust.LifeStep(l.Used) > 0 {
					h.Say("warning: %d %% of the life of the %s is over; it ends on %s", l.Used, l.What, view.Date(l.Expires))
				}
			}
			return h.Print(out, func(w io.Writer) { out.text(w) })
		},
	}
}

func (h Host) show(ctx context.Context, argv []string, now time.Time) (shown, error) {
	var out shown
	if len(argv) == 1 {
		b, err := h.Read(argv[0], 1<<20)
		if err != nil {
			return out, err
		}
		if out.Root, err = trust.PinRoot(b); err != nil {
			return out, err
		}
		out.Documents = []life{lifeOf("root document", out.Version, out.SignedAt, out.Expires, now)}
		return out, nil
	}
	var err error
	if out.Root, err = h.pinned(ctx); err != nil {
		return out, err
	}
	out.Documents = []life{lifeOf("root document", out.Version, out.SignedAt, out.Expires, now)}
	c, err := h.Client()
	if err != nil {
		return out, err
	}
	t, _, err := h.timestamp(ctx, c, out.Root)
	switch {
	case err == nil && t != nil:
		out.Documents = append(out.Documents, lifeOf("timestamp", t.Version, t.SignedAt, t.Expires, now))
	case err != nil:
		return out, err
	}
	p, err := h.Project()
	if err != nil {
		return out, err
	}
	page, err := c.Releases(ctx, fleet.ReleaseFilter{Line: p.Line}, fleet.PageRequest{Limit: 1})
	if err != nil {
		return out, err
	}
	for _, r := range page.Items {
		out.Documents = append(out.Documents, lifeOf("newest release of line "+string(p.Line), r.Header.Sequence, r.Header.CreatedAt, r.Header.Expires, now))
	}
	return out, nil
}

func (s shown) text(w io.Writer) {
	fmt.Fprintf(w, "fleet %s, root version %d, until %s\n", s.FleetID, s.Version, view.Date(s.Expires))
	rows := [][]string{}
	for _, role := range roles {
		q, ok := s.Roles[role]
		for _, id := range q.Keys {
			rows = append(rows, []string{string(role), fmt.Sprintf("%d of %d", q.Threshold, len(q.Keys)), id, s.Keys[id].Name})
		}
		if !ok {
			rows = append(rows, []string{string(role), "-", "-", "not in use"})
		}
	}
	view.Table(w, "ROLE NEEDS KEY NAME", rows)
	rows = rows[:0]
	for _, l := range s.Documents {
		rows = append(rows, []string{l.What, fmt.Sprint(l.Version), view.Date(l.SignedAt), view.Date(l.Expires), fmt.Sprintf("%d %%", l.Used)})
	}
	view.Table(w, "DOCUMENT VERSION SIGNED EXPIRES OVER", rows)
}

func (h Host) pinCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "pin FILE",
		Short:   "Give the control plane the fleet's root document, or the next version of it",
		Example: "  nixfleet trust pin trust/root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			b, err := h.Read(argv[0], 1<<20)
			if err != nil {
				return err
			}
			root, err := trust.PinRoot(b)
			if err != nil {
				return err
			}
			c, err := h.Client()
			if err != nil {
				return err
			}
			if _, err := c.PutRoot(cmd.Context(), b); err != nil {
				return err
			}
			h.saw(root, fleet.TrustRoleRoot, root.Version)
			return h.Print(root, func(w io.Writer) {
				fmt.Fprintf(w, "the control plane checks releases with root version %d of fleet %s\n", root.Version, root.FleetID)
			})
		},
	}
}

func (h Host) submitCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "submit FILE",
		Short: "Give the control plane a signed document: revocations, a timestamp, a grant or a root document",
		Long: `Give the control plane a signed document: revocations, a timestamp, a grant or a root document.

The document says itself which of these it is. The control plane checks it with the pinned root document, takes it if it
is newer than the one it has, and passes it on to the machines, which check it again.`,
		Example: "  nixfleet trust submit timestamp.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			b, err := h.Read(argv[0], int64(trust.EnvelopeLimit(fleet.TypeRevocations)))
			if err != nil {
				return err
			}
			d, err := trust.ParseDraft(b)
			if err != nil {
				return fleet.Errorf(fleet.Invalid, "%s: %w", argv[0], err).WithHint("revocations, a timestamp, a grant or a root document can be submitted; nixfleet release register takes a release")
			}
			c, err := h.Client()
			if err != nil {
				return err
			}
			if err := submit(cmd.Context(), c, d, b); err != nil {
				return err
			}
			if d.Root != nil {
				h.saw(*d.Root, fleet.TrustRoleRoot, d.Root.Version)
			}
			return h.Print(map[string]string{"submitted": d.Envelope.PayloadType}, func(w io.Writer) {
				fmt.Fprintf(w, "the control plane took %s\n", argv[0])
			})
		},
	}
}

// submit gives a document to the operation that takes its kind: the bytes as they
// are, since the very same ones again change nothing.
func submit(ctx context.Context, c *api.Client, d trust.Draft, envelope []byte) error {
	put, ok := map[string]func(context.Context, []byte) (api.Document, error){
		fleet.TypeRoot: c.PutRoot, fleet.TypeRevocations: c.PutRevocations, fleet.TypeTimestamp: c.PutTimestamp, fleet.TypeGrant: c.PutGrant,
	}[d.Envelope.PayloadType]
	if !ok {
		return fleet.Errorf(fleet.Invalid, "a release is not submitted").WithHint("nixfleet release register takes it, with its entries")
	}
	_, err := put(ctx, envelope)
	return err
}

// saw keeps a version that was handed in. That it cannot be kept does not undo
// that.
func (h Host) saw(root fleet.Root, role fleet.TrustRole, version uint64) {
	at, err := h.Seen()
	if err == nil {
		err = at.Saw(root, role, version)
	}
	if err != nil {
		h.Say("warning: %v", err)
	}
}
