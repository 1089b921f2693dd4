// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
)

func (a *app) releaseCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "release",
		Short:   "Immutable, signed sets of systems",
		Example: "  nixfleet release create\n  nixfleet release list",
	}
	c.AddCommand(a.releaseCreateCmd(), a.releaseRegisterCmd(), a.releaseListCmd(), a.releaseShowCmd(), a.releaseDiffCmd(), a.releaseDeleteCmd())
	return c
}

func (a *app) releaseListCmd() *cobra.Command {
	var line string
	c := &cobra.Command{
		Use: "list", Short: "List releases, newest first", Example: "  nixfleet release list --line staging",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := all(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
				return c.Releases(ctx, fleet.ReleaseFilter{Line: fleet.Line(line)}, p)
			})
			if err != nil {
				return err
			}
			return a.Print(list, func(w io.Writer) {
				rows := make([][]string, len(list))
				for i, r := range list {
					rows[i] = []string{
						r.Digest.Short(), string(r.Header.Line), fmt.Sprint(r.Header.Sequence), fmt.Sprint(r.Header.Entries.Count),
						view.Date(r.RegisteredAt), r.RegisteredBy, view.Revision(r.Header.Source), view.Dash(r.Header.Name),
					}
				}
				view.Table(w, "DIGEST LINE SEQ MACHINES REGISTERED BY REVISION NAME", rows)
			})
		},
	}
	c.Flags().StringVar(&line, "line", "", "only releases of this line")
	return c
}

func (a *app) releaseShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show RELEASE", Short: "Show a release: who made it, from what, for which machines",
		Long:    "Show a release. RELEASE is a digest, the first digits of one, a name, or `latest`.",
		Example: "  nixfleet release show latest",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			r, err := a.findRelease(cmd.Context(), c, argv[0])
			if err != nil {
				return err
			}
			entries, err := releaseEntries(cmd.Context(), c, r.Digest)
			if err != nil {
				return err
			}
			out := struct {
				fleet.Release
				Entries []fleet.Entry `json:"entries"`
			}{r, entries}
			return a.Print(out, func(w io.Writer) {
				h := r.Header
				fmt.Fprintf(w, "%s  %s\n", r.Digest, h.Name)
				fmt.Fprintf(w, "line %s, sequence %d, made %s, registered %s by %s, until %s\n", h.Line, h.Sequence, view.Date(h.CreatedAt), view.Date(r.RegisteredAt), r.RegisteredBy, view.Date(h.Expires))
				fmt.Fprintf(w, "from %s %s\n", h.Source.Flake, view.Revision(h.Source))
				for _, cache := range h.Caches {
					fmt.Fprintf(w, "cache %s\n", cache.URL)
				}
				rows := make([][]string, len(entries))
				for i, e := range entries {
					rows[i] = []string{string(e.ID), string(e.System), size(e.ClosureSize), tagList(e.Tags), string(e.StorePath)}
				}
				view.Table(w, "MACHINE SYSTEM SIZE TAGS PATH", rows)
			})
		},
	}
}

func (a *app) releaseDiffCmd() *cobra.Command {
	return &cobra.Command{
		Use: "diff FROM TO", Short: "Show what changes from one release to another", Example: "  nixfleet release diff 4f2a latest",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			from, err := a.findRelease(cmd.Context(), c, argv[0])
			if err != nil {
				return err
			}
			to, err := a.findRelease(cmd.Context(), c, argv[1])
			if err != nil {
				return err
			}
			d, err := c.DiffReleases(cmd.Context(), from.Digest, to.Digest)
			if err != nil {
				return err
			}
			return a.Print(d, func(w io.Writer) { diffText(w, d) })
		},
	}
}

func (a *app) releaseDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete RELEASE", Short: "Delete a release that nothing uses", Example: "  nixfleet release delete 4f2a",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			r, err := a.findRelease(cmd.Context(), c, argv[0])
			if err != nil {
				return err
			}
			if err := c.DeleteRelease(cmd.Context(), r.Digest); err != nil {
				return err
			}
			return a.Print(map[string]any{"deleted": r.Digest}, func(w io.Writer) { fmt.Fprintf(w, "deleted release %s\n", r.Digest.Short()) })
		},
	}
}

// findRelease finds a release by a digest, the first digits of one, a name, or
// latest, which is the newest of the project's line. A word that fits several
// releases is refused; a name is tried before the digits of a digest.
func (a *app) findRelease(ctx context.Context, c *api.Client, word string) (fleet.Release, error) {
	if d, err := fleet.ParseDigest(word); err == nil {
		r, err := c.Release(ctx, d)
		return r.Release, err
	}
	if word == "latest" {
		return a.latestOfLine(ctx, c)
	}
	var named, found []fleet.Release
	short := strings.TrimPrefix(word, "sha256:")
	for r, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
		return c.Releases(ctx, fleet.ReleaseFilter{}, p)
	}) {
		if err != nil {
			return fleet.Release{}, err
		}
		if r.Header.Name == word {
			named = append(named, r)
		}
		if len(short) >= 4 && strings.HasPrefix(string(r.Digest), "sha256:"+short) {
			found = append(found, r)
		}
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case len(named) > 1:
		return fleet.Release{}, fleet.Errorf(fleet.Invalid, "%d releases are called %q", len(named), word).
			WithHint("give the digest; the newest of them is %s", named[0].Digest.Short())
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return fleet.Release{}, fleet.Errorf(fleet.Invalid, "%d releases begin with %q", len(found), word).WithHint("give more digits")
	}
	return fleet.Release{}, fleet.Errorf(fleet.NotFound, "no release is called %q", word).WithHint("nixfleet release list shows them")
}

// latestOfLine is the newest release of the project's line.
func (a *app) latestOfLine(ctx context.Context, c *api.Client) (fleet.Release, error) {
	p, err := a.readProject()
	if err != nil {
		return fleet.Release{}, err
	}
	r, err := latest(ctx, c, fleet.Line(p.Line))
	if err != nil {
		return fleet.Release{}, err
	}
	if r == nil {
		return fleet.Release{}, fleet.Errorf(fleet.NotFound, "line %s has no release yet", p.Line).WithHint("nixfleet release create makes one")
	}
	return *r, nil
}

func (c created) text(w io.Writer, before bool) {
	if c.Digest == "" {
		fmt.Fprintf(w, "would be release %d of line %s, with %d machines\n", c.Sequence, c.Line, len(c.Machines))
	} else {
		fmt.Fprintf(w, "%s\n", c.Digest)
		fmt.Fprintf(w, "release %d of line %s, with %d machines\n", c.Sequence, c.Line, len(c.Machines))
	}
	if c.File != "" {
		fmt.Fprintf(w, "written to %s and not registered: nixfleet trust sign %s, then nixfleet release register %s\n", c.File, c.File, c.File)
	}
	if before && c.Diff != nil {
		diffText(w, *c.Diff)
	}
}

func diffText(w io.Writer, d fleet.ReleaseDiff) {
	rows := [][]string{}
	for _, m := range d.Added {
		rows = append(rows, []string{"added", string(m), "", ""})
	}
	for _, m := range d.Removed {
		rows = append(rows, []string{"removed", string(m), "", ""})
	}
	for _, ch := range d.Changed {
		note := ""
		if ch.Reboot {
			note = "needs a reboot"
		}
		sign := "+"
		if ch.SizeDelta < 0 {
			sign = "-"
		}
		rows = append(rows, []string{"changed", string(ch.ID), sign + size(max(ch.SizeDelta, -ch.SizeDelta)), note})
	}
	slices.SortStableFunc(rows, func(x, y []string) int { return strings.Compare(x[1], y[1]) })
	if len(rows) > 0 {
		view.Table(w, "CHANGE MACHINE SIZE NOTE", rows)
	}
	fmt.Fprintf(w, "%d added, %d removed, %d changed, %d unchanged\n", len(d.Added), len(d.Removed), len(d.Changed), len(d.Unchanged))
}

func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1fGiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1fMiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%dKiB", (bytes+1023)/1024)
}

func tagList(tags []fleet.Tag) string {
	words := make([]string, len(tags))
	for i, t := range tags {
		words[i] = string(t)
	}
	return view.Dash(strings.Join(words, ","))
}
