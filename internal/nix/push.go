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
	// SecretKeyFile, in Nix's format, signs the paths. Empty: the cache signs
	// what it serves by itself, as harmonia does.
	SecretKeyFile string
	Flags         []string
}

// Run pushes the closures of paths; what the cache has already is not sent
// again. line is called for what Nix says it does.
func (p Push) Run(ctx context.Context, paths []fleet.StorePath, line func(string)) error {
	to := p.To
	switch {
	case p.SecretKeyFile == "":
	case strings.HasPrefix(to, "file://") || strings.HasPrefix(to, "s3://") || strings.HasPrefix(to, "http"):
		// The store behind these URLs signs while it writes, so that the local
		// store need not be ours to change.
		to = withQuery(to, "secret-key", p.SecretKeyFile)
	default:
		args := []string{"--extra-experimental-features", "nix-command", "store", "sign", "--recursive", "--key-file", p.SecretKeyFile}
		if res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: appendPaths(args, paths)}); err != nil {
			return fleet.Errorf(fleet.Invalid, "sign %d closures: %s", len(paths), lastLines(res, err)).
				WithHint("signing in the local store needs its owner or a trusted user")
		}
	}
	if strings.HasPrefix(to, "file://") && !strings.Contains(to, "compression=") {
		to = withQuery(to, "compression", "zstd")
	}
	args := append([]string{"--extra-experimental-features", "nix-command", "copy", "--verbose", "--to", to}, p.Flags...)
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: appendPaths(args, paths), OnLine: func(_ proc.Stream, l string) { line(l) }})
	if err != nil {
		return fleet.Errorf(fleet.Unavailable, "push %d closures to %s: %s", len(paths), p.To, lastLines(res, err)).
			WithHint("what was pushed stays there; the same command goes on where it stopped")
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
