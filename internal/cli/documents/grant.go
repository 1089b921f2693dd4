// SPDX-License-Identifier: MIT

package documents

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// grantOptions are the options of `trust grant`.
type grantOptions struct {
	release string
	on      []string
	life    time.Duration
	output
}

func (h Host) grantCmd() *cobra.Command {
	var o grantOptions
	c := &cobra.Command{
		Use:   "grant KIND",
		Short: "Let machines accept one release for at most a day: downgrade or stale",
		Long: `Let machines accept one release for at most a day.

downgrade: although the release is below the machine's floor. stale: although the release, or the fleet's timestamp, has
expired. The machine's floor stays where it is. An older system on purpose needs no grant: release create --from.`,
		Example: "  nixfleet trust grant downgrade --release 4f2a --on web-01 --sign-key release.sec",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return h.grant(cmd.Context(), fleet.GrantKind(argv[0]), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.release, "release", "", "the release: a digest, the first digits of one, a name or latest")
	f.StringSliceVar(&o.on, "on", nil, "the machines, by name")
	f.DurationVar(&o.life, "for", 24*time.Hour, "how long it is valid, at most 24h")
	o.register(f)
	return c
}

func (h Host) grant(ctx context.Context, kind fleet.GrantKind, o grantOptions) error {
	now := time.Now()
	switch {
	case !kind.Valid():
		return command.Usagef("%q is not a kind of grant: downgrade or stale", string(kind))
	case o.release == "" || len(o.on) == 0:
		return command.Usagef("--release and --on are needed")
	case o.life < time.Minute || o.life.Milliseconds() > trust.MaxGrantLifeMs:
		return command.Usagef("--for %s must be between 1m and 24h", o.life)
	}
	g := fleet.Grant{Kind: kind, SignedAt: now.UnixMilli(), Expires: now.Add(o.life).UnixMilli()}
	for _, m := range o.on {
		if !fleet.MachineID(m).Valid() {
			return command.Usagef("--on %q is not a machine's name; a grant names each machine", m)
		}
		g.Machines = append(g.Machines, fleet.MachineID(m))
	}
	root, err := h.Root(ctx, o.root)
	if err != nil {
		return err
	}
	c, err := h.Client()
	if err != nil {
		return err
	}
	release, err := h.Verified(ctx, c, o.release, root)
	if err != nil {
		return err
	}
	g.FleetID, g.Digest = root.FleetID, release.Digest
	payload, err := trust.NewGrant(g)
	if err != nil {
		return err
	}
	return h.finish(ctx, fleet.TypeGrant, payload, root, o.output)
}

// Verified finds a release by a word, and does not believe the control plane which
// one that is: root's keys have signed its header, which has that name, if the word
// is one. Its entries are not checked.
func (h Host) Verified(ctx context.Context, c *api.Client, word string, root fleet.Root) (api.ReleaseDetail, error) {
	r, err := h.Release(ctx, c, word)
	if err != nil {
		return api.ReleaseDetail{}, err
	}
	full, err := c.Release(ctx, r.Digest)
	if err != nil {
		return api.ReleaseDetail{}, err
	}
	head, digest, err := trust.CheckHeader(full.Envelope, &root)
	if err != nil {
		return full, fleet.Errorf(fleet.Refused, "release %s: %w", r.Digest.Short(), err).
			WithHint("if its keys have lost the role, make a release of its source; root version %d is in force", root.Version)
	}
	named := head.Name == word || word == "latest" || strings.HasPrefix(string(digest), "sha256:"+strings.TrimPrefix(word, "sha256:"))
	if digest != r.Digest || !named {
		return full, fleet.Errorf(fleet.Refused, "the control plane shows release %s (sequence %d of line %s, name %q) as %q", digest.Short(), head.Sequence, head.Line, head.Name, word).
			WithHint("give the whole digest of the release that you mean")
	}
	full.Digest, full.Header = digest, head
	h.Say("release %d of line %s, made %s, %q", head.Sequence, head.Line, view.Date(head.CreatedAt), head.Name)
	return full, nil
}
