// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Limits of Settle.
const (
	listLimit = time.Minute // for asking the caches for the signed list
	// clockGrain is how much older a new file may look than the clock says.
	clockGrain = time.Second
	// settleTries is how often Settle looks for what was fetched, if a path that it
	// found is deleted meanwhile: Nix then tells nothing of the others either.
	settleTries = 5
)

// Settle judges what a fetch has made valid since then, if the fetch ended in any
// other way than that CheckFetched accepted the system. Paths that are not as signed
// are told to Deviates, and deleted unless they are in use. final says that the
// fetch is not tried again: its roots are removed, and if no cache gives the signed
// list, all that was fetched is deleted. Settle returns how many paths it could not
// compare.
//
// What was fetched is what changed since then and carries a signature by the name of
// one of the caches' keys. It may be another's, who fetched from the same caches.
func (f Fetch) Settle(ctx context.Context, e fleet.Entry, since time.Time, final bool) (unknown int, err error) {
	if final {
		if _, err = f.dropRoots(); err != nil {
			return 0, err
		}
	}
	since = since.Add(-clockGrain)
	have, err := f.brought(ctx, since)
	if err != nil || len(have) == 0 {
		return 0, err
	}
	if err = f.rehash(ctx, have, since); err != nil {
		return 0, err
	}
	asking, stop := context.WithTimeout(ctx, listLimit)
	defer stop()
	signed := f.signedList(asking, e, have)
	if ctx.Err() != nil {
		return 0, fmt.Errorf("settle the fetch of %s: %w", f.Path, context.Cause(ctx))
	}
	if signed == nil {
		if !final {
			return len(have), nil
		}
		_, err = discard(ctx, paths(have))
		return len(have), err
	}
	bad := compare(have, signed).wrong()
	if len(bad) == 0 {
		return 0, nil
	}
	f.tell(bad)
	_, err = discard(ctx, pathsOf(bad))
	return 0, err
}

// brought are the valid paths that changed since then and came from the caches.
func (f Fetch) brought(ctx context.Context, since time.Time) ([]fleet.ClosurePath, error) {
	for try := 1; ; try++ {
		names, err := changedSince(ctx, since)
		if err != nil {
			return nil, err
		}
		have, err := f.fromCaches(ctx, names)
		if err == nil || try == settleTries {
			return have, err
		}
		gone, other := store(nil).invalid(ctx, names)
		if other != nil || len(gone) == 0 {
			return nil, err
		}
	}
}

// changedSince are the valid paths that changed since then.
func changedSince(ctx context.Context, since time.Time) ([]string, error) {
	entries, err := os.ReadDir(fleet.StoreDir)
	if err != nil {
		return nil, fmt.Errorf("look for what was fetched: %w", err)
	}
	var names []string
	for _, e := range entries {
		p := fleet.StorePath(fleet.StoreDir + "/" + e.Name())
		if !p.Valid() {
			continue
		}
		var at time.Time
		at, err = changedAt(string(p))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for what was fetched: %w", err)
		}
		if err == nil && !at.Before(since) {
			names = append(names, string(p))
		}
	}
	invalid, err := store(nil).invalid(ctx, names)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(invalid, n) }), nil
}

// fromCaches are those of the valid paths that came from the caches.
func (f Fetch) fromCaches(ctx context.Context, names []string) ([]fleet.ClosurePath, error) {
	var from []string
	for _, derivations := range []bool{false, true} {
		of := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasSuffix(n, ".drv") != derivations })
		for portion := range slices.Chunk(of, maxPaths) {
			some, err := f.signedByUs(ctx, portion, derivations)
			if err != nil {
				return nil, err
			}
			from = append(from, some...)
		}
	}
	if len(from) == 0 {
		return nil, nil
	}
	hashes, err := store(nil).query(ctx, "--hash", from...)
	if err != nil || len(hashes) != len(from) {
		return nil, errors.Join(err, fmt.Errorf("%d paths were fetched, %d hashes are known", len(from), len(hashes)))
	}
	out := make([]fleet.ClosurePath, len(from))
	for i := range from {
		out[i] = fleet.ClosurePath{Path: fleet.StorePath(from[i]), NarHash: fleet.NarHash(hashes[i])}
	}
	return out, nil
}

// signedByUs are those of the valid paths that were not made here and carry a
// signature by the name of one of the caches' keys. `nix path-info --sigs` prints a
// line for each: the path, and after a tab "ultimate" for what was built here, "ca:"
// with a hash, and signatures as name:base64.
func (f Fetch) signedByUs(ctx context.Context, names []string, derivations bool) ([]string, error) {
	var keys []string
	unsigned := false
	for _, c := range f.Caches {
		unsigned = unsigned || strings.Contains(c.URL, "trusted=")
		for _, k := range c.PublicKeys {
			name, _, _ := strings.Cut(k, ":")
			keys = append(keys, name+":")
		}
	}
	args := []string{"--extra-experimental-features", "nix-command", "path-info", "--sigs", "--option", "substitute", "false", "--option", "max-jobs", "0"}
	if derivations {
		args = append(args, "--derivation")
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: append(args, names...), Timeout: 5 * time.Minute, MaxOutput: 64 << 20})
	if err != nil {
		return nil, fmt.Errorf("ask store for signatures: %s", lastLines(res, err))
	}
	var out []string
	for line := range strings.Lines(string(res.Stdout)) {
		words := strings.Fields(line)
		if len(words) == 0 || slices.Contains(words[1:], "ultimate") {
			continue
		}
		ours := func(w string) bool {
			return slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(w, k) })
		}
		if slices.ContainsFunc(words[1:], ours) || unsigned && len(words) == 1 {
			out = append(out, words[0])
		}
	}
	return out, nil
}

func paths(of []fleet.ClosurePath) []fleet.StorePath {
	out := make([]fleet.StorePath, len(of))
	for i, p := range of {
		out[i] = p.Path
	}
	return out
}

func pathsOf(of []Deviation) []fleet.StorePath {
	out := make([]fleet.StorePath, len(of))
	for i, p := range of {
		out[i] = p.Path
	}
	return out
}
