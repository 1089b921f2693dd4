// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Closure lists a valid path and the paths that it refers to, with the hashes and sizes
// that the store has recorded. It uses nix-store's queries, whose output is the
// same in all versions of Nix, where `nix path-info --json` has three shapes.
func Closure(ctx context.Context, path fleet.StorePath) ([]fleet.ClosurePath, error) {
	return store(nil).closure(ctx, path)
}

// store is a store that nix-store queries: the options that select it, none for
// this machine's.
type store []string

func (s store) closure(ctx context.Context, path fleet.StorePath) ([]fleet.ClosurePath, error) {
	paths, err := s.query(ctx, "--requisites", string(path))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fleet.Errorf(fleet.NotFound, "closure of %s: the store has no such path", path)
	}
	hashes, err := s.query(ctx, "--hash", paths...)
	if err != nil {
		return nil, err
	}
	sizes, err := s.query(ctx, "--size", paths...)
	if err != nil {
		return nil, err
	}
	return closureOf(path, paths, hashes, sizes)
}

// closureOf reads what nix-store printed of a closure's paths. Of a cache's
// closure, the cache says all of it.
func closureOf(path fleet.StorePath, paths, hashes, sizes []string) ([]fleet.ClosurePath, error) {
	if len(hashes) != len(paths) || len(sizes) != len(paths) {
		return nil, fmt.Errorf("closure of %s: %d paths, %d hashes and %d sizes", path, len(paths), len(hashes), len(sizes))
	}
	out := make([]fleet.ClosurePath, len(paths))
	for i := range paths {
		size, err := strconv.ParseInt(sizes[i], 10, 64)
		out[i] = fleet.ClosurePath{Path: fleet.StorePath(paths[i]), NarHash: fleet.NarHash(hashes[i]), NarSize: size}
		if err != nil || !out[i].Path.Valid() || !out[i].NarHash.Valid() {
			return nil, fmt.Errorf("closure of %s: nix-store printed %q, %q, %q", path, paths[i], hashes[i], sizes[i])
		}
	}
	return out, nil
}

// maxPaths is how many paths one call names, since a command line with all paths
// of a large closure is too long for some kernels.
const maxPaths = 2000

// query asks nix-store about paths, in portions.
func (s store) query(ctx context.Context, what string, paths ...string) ([]string, error) {
	var out []string
	for portion := range slices.Chunk(paths, maxPaths) {
		res, err := proc.Run(ctx, proc.Cmd{
			Path: "nix-store", Args: slices.Concat([]string{"--query", what}, portion, s),
			Timeout: 5 * time.Minute, MaxOutput: 64 << 20,
		})
		if err != nil {
			return nil, fmt.Errorf("ask store for %s of %s: %w", what, portion[0], err)
		}
		out = append(out, strings.Fields(string(res.Stdout))...)
	}
	return out, nil
}
