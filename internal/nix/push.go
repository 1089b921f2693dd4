// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"net/url"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Push puts closures into a binary cache and signs them.
type Push struct {
	To string // as nix copy takes it: file:///srv/cache, s3://bucket, ssh://cache
	// SecretKeyFile, in Nix's format, signs the paths. Empty: the cache signs what
	// it serves, as harmonia does.
	SecretKeyFile string
	Flags         []string
}

// Run pushes the closures of paths, without what the cache has already. line is
// called for each line that Nix prints.
func (p Push) Run(ctx context.Context, paths []fleet.StorePath, line func(string)) error {
	to := p.To
	switch {
	case p.SecretKeyFile == "":
	case strings.HasPrefix(to, "file://") || strings.HasPrefix(to, "s3://") || strings.HasPrefix(to, "http"):
		// Nix signs while it writes to these stores, so that no right to change the
		// local store is needed.
		to = withQuery(to, "secret-key", p.SecretKeyFile)
	default:
		args := []string{"--extra-experimental-features", "nix-command", "store", "sign", "--recursive", "--key-file", p.SecretKeyFile}
		if res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: appendPaths(args, paths)}); err != nil {
			return fleet.Errorf(fleet.Invalid, "sign %d closures: %s", len(paths), lastLines(res, err)).
				WithHint("only the owner of the local store or a trusted user can sign in it")
		}
	}
	if strings.HasPrefix(to, "file://") && !strings.Contains(to, "compression=") {
		to = withQuery(to, "compression", "zstd")
	}
	args := append([]string{"--extra-experimental-features", "nix-command", "copy", "--verbose", "--to", to}, p.Flags...)
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: appendPaths(args, paths), OnLine: func(_ proc.Stream, l string) { line(l) }})
	if err != nil {
		return fleet.Errorf(fleet.Unavailable, "push %d closures to %s: %s", len(paths), p.To, lastLines(res, err)).
			WithHint("what was pushed stays there; run the same command again to continue")
	}
	return nil
}

// withQuery adds a setting to a store's URL. Nix reads %20 there, not +.
func withQuery(store, name, value string) string {
	value = strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
	if strings.Contains(store, "?") {
		return store + "&" + name + "=" + value
	}
	return store + "?" + name + "=" + value
}

func appendPaths(args []string, paths []fleet.StorePath) []string {
	for _, p := range paths {
		args = append(args, string(p))
	}
	return args
}
