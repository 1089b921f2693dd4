// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// CheckFetched compares a fetched system with what was signed. Only a hash counts
// that Nix took of bytes on this machine: when it unpacked them, or now, if they were
// fetched before the boot. What a cache says never replaces one. If the closure is
// not the signed one, the deviating paths are replaced by archives with the signed
// hashes. If that cannot be, the reason says so, and the deviating paths are deleted
// if nothing but Roots keeps them alive; where no cache tells which paths deviate,
// what has changed since then is deleted.
// The reason is "" or one of the trust rules.
func (f Fetch) CheckFetched(ctx context.Context, e fleet.Entry, since time.Time) (fleet.Reason, error) {
	d, refusal, err := f.judge(ctx, e, since)
	if err != nil || refusal == nil {
		return "", err
	}
	var forged error
	if len(d.deviating) > 0 {
		var replaced bool
		replaced, err = f.replace(ctx, e, d)
		switch {
		case errors.Is(err, errForged):
			forged = err
		case err != nil:
			return "", err
		case replaced:
			if d, refusal, err = f.judge(ctx, e, since); err != nil || refusal == nil {
				return "", err
			}
		}
	}
	reason, err := f.refuse(ctx, d, since, refusal)
	return reason, errors.Join(err, forged)
}

// judge compares the closure as it is now with what was signed.
func (f Fetch) judge(ctx context.Context, e fleet.Entry, since time.Time) (difference, *trust.Refusal, error) {
	have, err := Closure(ctx, e.StorePath)
	if err != nil {
		return difference{}, nil, err
	}
	if err := f.rehash(ctx, have, since); err != nil {
		return difference{}, nil, err
	}
	refusal := trust.CheckClosure(e, have)
	if refusal == nil {
		return difference{}, nil, nil
	}
	d := compare(have, f.signedList(ctx, e, have))
	if ctx.Err() != nil {
		return d, nil, fmt.Errorf("compare %s: %w", e.StorePath, context.Cause(ctx))
	}
	f.tell(d.wrong())
	return d, refusal, nil
}

// rehash replaces the recorded hashes of what was fetched since then in an earlier
// boot. Nix does not wait until the bytes are on the disk before it records a path
// as valid, so that a loss of power may have cost some.
func (f Fetch) rehash(ctx context.Context, have []fleet.ClosurePath, since time.Time) error {
	for i, p := range have {
		at, err := changedAt(string(p.Path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			have[i].NarHash = ""
			continue
		case err != nil:
			return fmt.Errorf("look at %s: %w", p.Path, err)
		case at.Before(since) || !at.Before(f.Booted):
			continue
		}
		hash, err := hashOf(ctx, "path", string(p.Path))
		if err != nil {
			return err
		}
		have[i].NarHash = hash
	}
	return nil
}

// refuse deletes what deviates from what was signed. What is in use stays, and the
// reason is closure-differs.
func (f Fetch) refuse(ctx context.Context, d difference, since time.Time, refusal *trust.Refusal) (fleet.Reason, error) {
	_, err := f.dropRoots()
	if err != nil {
		return refusal.Reason, errors.Join(refusal, err)
	}
	alive, err := discard(ctx, d.suspects(f.Path, since))
	if err != nil {
		return refusal.Reason, errors.Join(refusal, err)
	}
	var held, gone []string
	for _, p := range d.deviating {
		if slices.Contains(alive, p.Path) {
			held = append(held, p.String()+"; to replace it: nixfleet-agent repair "+string(p.Path))
		} else {
			gone = append(gone, p.String())
		}
	}
	switch {
	case len(held) > 0:
		return fleet.ReasonClosureDiffers, fmt.Errorf("in use on this machine, and not as signed: %s", strings.Join(held, "\n"))
	case len(gone) > 0:
		return refusal.Reason, fmt.Errorf("%w; deleted: %s", refusal, strings.Join(gone, "; "))
	}
	return refusal.Reason, refusal
}

// tell tells Deviates what is not as signed.
func (f Fetch) tell(d []Deviation) {
	if f.Deviates != nil && len(d) > 0 {
		f.Deviates(d)
	}
}

// dropRoots removes the roots of fetches and returns those that held the system.
func (f Fetch) dropRoots() (held []string, err error) {
	for _, name := range f.Roots {
		if p, err := os.Readlink(filepath.Join(RootsDir, name)); err == nil && p == string(f.Path) {
			held = append(held, name)
		}
		if err := RemoveRoot(RootsDir, name); err != nil {
			return nil, err
		}
	}
	return held, nil
}

// Deviation is a path that is not as it was signed.
type Deviation struct {
	fleet.ClosurePath               // as it is here
	Signed            fleet.NarHash // as it was signed; "" if the signed closure has no such path
}

// String names the path and both hashes.
func (d Deviation) String() string {
	if d.Signed == "" {
		return fmt.Sprintf("%s has the hash %s, and the signed closure has no such path", d.Path, d.NarHash)
	}
	return fmt.Sprintf("%s has the hash %s, signed is %s", d.Path, d.NarHash, d.Signed)
}

// difference is how a closure on this machine differs from the signed list.
type difference struct {
	have      []fleet.ClosurePath
	deviating []Deviation
	foreign   []Deviation // here, and not in the list
	complete  bool        // the list is known, and names the paths that are here
}

// compare compares a closure with the signed list, which may be unknown.
func compare(have, signed []fleet.ClosurePath) difference {
	d := difference{have: have, complete: len(signed) > 0}
	want := make(map[fleet.StorePath]fleet.NarHash, len(signed))
	for _, p := range signed {
		want[p.Path] = p.NarHash
	}
	for _, p := range have {
		switch h, ok := want[p.Path]; {
		case len(signed) == 0 || h == p.NarHash:
		case ok:
			d.deviating = append(d.deviating, Deviation{p, h})
		default:
			d.foreign = append(d.foreign, Deviation{p, ""})
		}
		delete(want, p.Path)
	}
	d.complete = d.complete && len(want)+len(d.foreign) == 0
	return d
}

// wrong are the paths that are not as signed.
func (d difference) wrong() []Deviation { return slices.Concat(d.deviating, d.foreign) }

// suspects are the paths that must not stay. If the list is unknown or names other
// paths, any reference may be the wrong one: then all are suspects that have changed
// since then.
func (d difference) suspects(system fleet.StorePath, since time.Time) []fleet.StorePath {
	out := append([]fleet.StorePath{system}, pathsOf(d.wrong())...)
	for _, p := range d.have {
		if d.complete {
			break
		}
		if at, err := changedAt(string(p.Path)); err != nil || !at.Before(since) {
			out = append(out, p.Path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SignedList keeps the list of a closure's paths and hashes, once a list with the
// signed digest is known. Its digest proves it, whoever delivered it.
type SignedList struct{ paths []fleet.ClosurePath }

// signedList asks the caches for the list whose digest was signed; nil if none has
// it. Nix asks, so that credentials, settings and formats are Nix's own.
func (f Fetch) signedList(ctx context.Context, e fleet.Entry, have []fleet.ClosurePath) []fleet.ClosurePath {
	keep := f.Signed
	if keep == nil {
		keep = &SignedList{}
	}
	if signed(e, keep.paths) {
		return keep.paths
	}
	for _, c := range f.Caches { // most releases are in one cache as a whole
		if l, err := f.at(c.URL).closure(ctx, e.StorePath); err == nil && signed(e, l) {
			keep.paths = l
			return l
		}
	}
	said := make([]map[fleet.StorePath]fleet.NarHash, len(f.Caches))
	for i, c := range f.Caches {
		said[i] = f.at(c.URL).hashes(ctx, have)
	}
	for first := range said {
		if l := overlay(have, slices.Concat(said[first:], said[:first])); signed(e, l) {
			keep.paths = l
			return l
		}
	}
	return nil
}

func signed(e fleet.Entry, list []fleet.ClosurePath) bool { return trust.CheckClosure(e, list) == nil }

// overlay replaces each hash by that of the first cache that has the path.
func overlay(have []fleet.ClosurePath, said []map[fleet.StorePath]fleet.NarHash) []fleet.ClosurePath {
	out := slices.Clone(have)
	for i, p := range out {
		for _, hashes := range said {
			if h, ok := hashes[p.Path]; ok {
				out[i].NarHash = h
				break
			}
		}
	}
	return out
}

// at selects a cache as the store that is queried.
func (f Fetch) at(url string) store {
	return append(f.options(time.Minute), "--option", "store", url)
}

// hashes are the hashes of those paths that the store has.
func (s store) hashes(ctx context.Context, paths []fleet.ClosurePath) map[fleet.StorePath]fleet.NarHash {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = string(p.Path)
	}
	lacks, err := s.invalid(ctx, names)
	if err != nil {
		return nil
	}
	names = slices.DeleteFunc(names, func(p string) bool { return slices.Contains(lacks, p) })
	hashes, err := s.query(ctx, "--hash", names...)
	if err != nil || len(hashes) != len(names) {
		return nil
	}
	out := make(map[fleet.StorePath]fleet.NarHash, len(names))
	for i, p := range names {
		out[fleet.StorePath(p)] = fleet.NarHash(hashes[i])
	}
	return out
}
