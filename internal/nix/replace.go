// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// errForged says that caches deliver an archive with another hash than the signed
// one.
var errForged = errors.New("no cache has the archive with the signed hash")

// replace gives the deviating paths the signed archives, and fetches the system
// again. It reports false, and changes nothing, if a path is in use that may not be
// repaired. Deviating paths are deleted first, so that none outlives an error.
func (f Fetch) replace(ctx context.Context, e fleet.Entry, d difference) (bool, error) {
	roots, err := f.dropRoots()
	if err != nil {
		return false, err
	}
	dead, err := deadPaths(ctx)
	if err != nil {
		return false, err
	}
	var loose []fleet.StorePath
	var held []Deviation
	for _, p := range d.deviating {
		switch {
		case dead[p.Path]:
			loose = append(loose, p.Path)
		case f.Repairs != nil && f.Repairs.Allowed(p.Path):
			held = append(held, p)
		default:
			return false, nil
		}
	}
	if _, err = discard(ctx, loose); err != nil {
		return false, err
	}
	s, err := f.newScratch()
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(string(s)) // it is emptied before its next use as well
	for _, p := range d.deviating {
		if err := f.archive(ctx, s, p, e.ClosureSize); err != nil {
			return false, err
		}
	}
	for _, p := range held {
		if err := f.repair(ctx, s, p.Path); err != nil {
			return false, err
		}
	}
	for _, name := range roots {
		if err := SetRoot(RootsDir, name, f.Path); err != nil {
			return false, err
		}
	}
	again := f
	again.Caches = append([]fleet.Cache{s.cache()}, f.Caches...)
	return true, again.Run(ctx)
}

// scratch is a folder that is a binary cache of archives with signed hashes.
type scratch string

func (f Fetch) newScratch() (scratch, error) {
	dir := f.Scratch
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "nixfleet-scratch-"); err != nil {
			return "", fmt.Errorf("make scratch folder: %w", err)
		}
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "nar"), 0o700)); err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	return scratch(dir), nil
}

// cache is the scratch folder for Nix, which asks it first. It needs no signature:
// the release's signer has signed the hash.
func (s scratch) cache() fleet.Cache {
	return fleet.Cache{URL: "file://" + string(s) + "?trusted=1&priority=0"}
}

// archive fetches a path's archive into the scratch folder, and offers it to Nix
// only if its hash is the signed one.
func (f Fetch) archive(ctx context.Context, s scratch, p Deviation, limit int64) error {
	nar := filepath.Join("nar", p.Path.Base()[:32]+".nar")
	file := filepath.Join(string(s), nar)
	var errs []error
	for _, c := range f.Caches {
		err := f.dump(ctx, c, p.Path, file, limit)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hash, err := hashOf(ctx, "file", file)
		if err != nil {
			return err
		}
		if hash != p.Signed {
			errs = append(errs, fmt.Errorf("%w: %s has %s with the hash %s, signed is %s", errForged, c.URL, p.Path, hash, p.Signed))
			continue
		}
		references, err := f.at(c.URL).query(ctx, "--references", string(p.Path))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		for i, r := range references {
			references[i] = fleet.StorePath(r).Base()
		}
		text := fmt.Sprintf("StorePath: %s\nURL: %s\nCompression: none\nNarHash: %s\nNarSize: %d\nReferences: %s\n",
			p.Path, nar, p.Signed, info.Size(), strings.Join(references, " "))
		if err := os.WriteFile(filepath.Join(string(s), p.Path.Base()[:32]+".narinfo"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write narinfo: %w", err)
		}
		return nil
	}
	return fmt.Errorf("fetch archive of %s: %w", p.Path, errors.Join(errs...))
}

// dump writes a path's archive, as Nix reads it from a cache, to a file. limit is
// the size of the whole closure; 0 if it is not known.
func (f Fetch) dump(ctx context.Context, c fleet.Cache, p fleet.StorePath, file string, limit int64) (err error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	args := slices.Concat([]string{"--extra-experimental-features", "nix-command", "store", "dump-path", string(p)}, f.at(c.URL))
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args, Stdout: &bounded{out, limit, 0, stop}})
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("read %s from %s: %w", p, c.URL, cause)
	}
	if err != nil {
		return fmt.Errorf("read %s from %s: %s", p, c.URL, lastLines(res, err))
	}
	return nil
}

// bounded stops what writes more than was signed.
type bounded struct {
	*os.File
	limit, written int64
	stop           context.CancelCauseFunc
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.written += int64(len(p)); b.limit > 0 && b.written > b.limit {
		b.stop(fmt.Errorf("%w: it is larger than the signed closure", errForged))
		return 0, errForged
	}
	return b.File.Write(p)
}

// hashOf is the SHA-256 of a "path" as an archive, or of a "file", as Nix takes and
// prints it.
func hashOf(ctx context.Context, what, file string) (fleet.NarHash, error) {
	args := []string{"--extra-experimental-features", "nix-command", "hash", what, "--base32", file}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args})
	if err != nil {
		return "", fmt.Errorf("hash %s: %s", file, lastLines(res, err))
	}
	return fleet.NarHash("sha256:" + strings.TrimSpace(string(res.Stdout))), nil
}

// repair replaces a path that is in use by the archive in the scratch folder. The
// daemon does not know --repair-path.
func (f Fetch) repair(ctx context.Context, s scratch, p fleet.StorePath) error {
	args := append([]string{"--realise", "--repair", string(p)}, Fetch{Caches: []fleet.Cache{s.cache()}}.options(time.Minute)...)
	if res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: args}); err != nil {
		return fmt.Errorf("repair %s: %s", p, lastLines(res, err))
	}
	return f.Repairs.Repaired(p)
}
