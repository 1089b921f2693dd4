// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"fmt"
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
	paths, err := query(ctx, "--requisites", string(path))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fleet.Errorf(fleet.NotFound, "closure of %s: the store has no such path", path)
	}
	hashes, err := query(ctx, "--hash", paths...)
	if err != nil {
		return nil, err
	}
	sizes, err := query(ctx, "--size", paths...)
	if err != nil {
		return nil, err
	}
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

// query asks nix-store about paths, in portions, since a command line with all
// paths of a large closure is too long for some kernels.
func query(ctx context.Context, what string, paths ...string) ([]string, error) {
	const portion = 2000
	var out []string
	for len(paths) > 0 {
		n := min(portion, len(paths))
		res, err := proc.Run(ctx, proc.Cmd{
			Path: "nix-store", Args: append([]string{"--query", what}, paths[:n]...),
			Timeout: 5 * time.Minute, MaxOutput: 64 << 20,
		})
		if err != nil {
			return nil, fmt.Errorf("ask store for %s of %s: %w", what, paths[0], err)
		}
		out = append(out, strings.Fields(string(res.Stdout))...)
		paths = paths[n:]
	}
	return out, nil
}
