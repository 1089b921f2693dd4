// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// discard deletes those of the paths that nothing keeps alive, and returns the
// others that are valid. Every path that refers to a dead one is dead as well and is
// deleted with it, in one call: Nix refuses to delete a path while another refers to
// it.
func discard(ctx context.Context, paths []fleet.StorePath) (alive []fleet.StorePath, err error) {
	if len(paths) == 0 {
		return nil, nil
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = string(p)
	}
	gone, err := store(nil).invalid(ctx, names)
	if err != nil {
		return nil, err
	}
	dead, err := deadPaths(ctx)
	if err != nil {
		return nil, err
	}
	var unwanted []string
	for _, name := range names {
		switch p := fleet.StorePath(name); {
		case slices.Contains(gone, name):
		case dead[p]:
			unwanted = append(unwanted, name)
		default:
			alive = append(alive, p)
		}
	}
	if len(unwanted) == 0 {
		return alive, nil
	}
	referrers, err := store(nil).query(ctx, "--referrers-closure", unwanted...)
	if err != nil {
		return nil, err
	}
	slices.Sort(referrers)
	args := append([]string{"--delete"}, slices.Compact(referrers)...)
	if res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: args, Timeout: 15 * time.Minute}); err != nil {
		return nil, fmt.Errorf("delete %s and what refers to it: %s", unwanted[0], lastLines(res, err))
	}
	return alive, nil
}

// deadPaths are the paths that no GC root keeps alive. What nix.conf keeps beyond
// that does not count: Nix deletes it on request.
func deadPaths(ctx context.Context) (map[fleet.StorePath]bool, error) {
	res, err := proc.Run(ctx, proc.Cmd{
		Path: "nix-store", Args: []string{"--gc", "--print-dead", "--option", "keep-outputs", "false", "--option", "keep-derivations", "false"},
		Timeout: 15 * time.Minute, MaxOutput: 256 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("list dead paths: %s", lastLines(res, err))
	}
	dead := map[fleet.StorePath]bool{}
	for _, p := range strings.Fields(string(res.Stdout)) {
		dead[fleet.StorePath(p)] = true
	}
	return dead, nil
}

// invalid are those of the paths that the store lacks.
func (s store) invalid(ctx context.Context, paths []string) ([]string, error) {
	var out []string
	for portion := range slices.Chunk(paths, maxPaths) {
		res, err := proc.Run(ctx, proc.Cmd{
			Path: "nix-store", Args: slices.Concat([]string{"--check-validity", "--print-invalid"}, portion, s),
			Timeout: 5 * time.Minute, MaxOutput: 64 << 20,
		})
		if err != nil {
			return nil, fmt.Errorf("ask store for validity of %s: %w", portion[0], err)
		}
		out = append(out, strings.Fields(string(res.Stdout))...)
	}
	return out, nil
}
