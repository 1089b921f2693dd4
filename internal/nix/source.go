// SPDX-License-Identifier: MIT

package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// maxSearched bounds the files that are searched outside git, in bytes.
const maxSearched = 1 << 20

// Match is text that was found in a flake's source.
type Match struct {
	File string // relative to the source's folder
	Text string
}

// source is a flake's source on this machine.
type source struct {
	dir string // the whole of it, which may be above the flake
	git bool   // Nix takes the files that git tracks, else all
	rev string // of git; "" for the work tree
}

// SearchSource finds a pattern (POSIX extended) in what Nix copies into the store
// when it evaluates the flake, and returns the folder that it searched. It copies
// nothing, unless the source is not on this machine: Nix must fetch that first.
func (f Flake) SearchSource(ctx context.Context, pattern string) (dir string, found []Match, err error) {
	s, err := f.source()
	if err != nil {
		return "", nil, err
	}
	if s.dir == "" {
		var m metadata
		if m, err = f.metadata(ctx); err != nil {
			return "", nil, err
		}
		s.dir = m.Path
	}
	if s.git {
		found, err = s.searchGit(ctx, pattern)
	} else {
		found, err = s.searchAll(ctx, pattern)
	}
	switch {
	case errors.Is(err, proc.ErrNotFound):
		return s.dir, nil, fleet.Errorf(fleet.Unavailable, "search the source of flake %s: there is no git program", f.Ref).
			WithHint("Nix needs it too, for a flake in a git repository; on Debian: apt-get install git")
	case err != nil:
		return s.dir, nil, fleet.Errorf(fleet.Invalid, "search the source of flake %s: %w", f.Ref, err)
	}
	return s.dir, found, nil
}

// Local reports whether SearchSource needs Nix to fetch nothing. It is true also of
// a reference that is invalid.
func (f Flake) Local() bool {
	s, err := f.source()
	return err != nil || s.dir != ""
}

// source finds the flake's source by the rules of Nix: a path:... is a folder; a
// path without a scheme is the git work tree that it is in, if any.
func (f Flake) source() (source, error) {
	scheme, rest, found := strings.Cut(f.Ref, ":")
	if !found {
		scheme, rest = "", f.Ref
	}
	if scheme != "" && scheme != "path" && scheme != "git+file" {
		return source{}, nil
	}
	rest, _, _ = strings.Cut(rest, "#")
	place, query, _ := strings.Cut(rest, "?")
	place = strings.TrimPrefix(place, "//")
	if scheme != "" {
		if p, err := url.PathUnescape(place); err == nil {
			place = p
		}
	}
	dir, err := filepath.Abs(place)
	if err != nil {
		return source{}, fleet.Errorf(fleet.Invalid, "flake %s: %w", f.Ref, err)
	}
	target, err := filepath.EvalSymlinks(dir)
	if err == nil { // else Nix says what is wrong
		dir = target
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return source{}, fleet.Errorf(fleet.Invalid, "flake %s: %w", f.Ref, err)
	}
	s := source{dir: dir, rev: values.Get("rev")}
	switch scheme {
	case "path":
		return source{dir: dir}, nil
	case "git+file":
		s.git = true
	default:
		if root, git := FlakeSource(dir); root != "" {
			s.dir, s.git = root, git
		}
	}
	if s.rev == "" {
		s.rev = values.Get("ref")
	}
	if _, err := os.Lstat(filepath.Join(s.dir, ".git")); s.git && s.rev == "" && err != nil {
		s.rev = "HEAD" // a bare repository
	}
	if strings.HasPrefix(s.rev, "-") {
		return source{}, fleet.Errorf(fleet.Invalid, "flake %s: %q is not a revision", f.Ref, s.rev)
	}
	return s, nil
}

// FlakeSource returns the source that a folder is in: the git work tree, else the
// nearest folder with a flake.nix, else "".
func FlakeSource(dir string) (root string, git bool) {
	for d := dir; ; d = filepath.Dir(d) {
		if exists(filepath.Join(d, ".git")) {
			return d, true
		}
		if root == "" && exists(filepath.Join(d, "flake.nix")) {
			root = d
		}
		if d == filepath.Dir(d) {
			return root, false
		}
	}
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// searchGit searches the files that git tracks, as they are in the work tree or in
// a revision.
func (s source) searchGit(ctx context.Context, pattern string) ([]Match, error) {
	args := []string{"-C", s.dir, "grep", "--text", "--only-matching", "--null", "--full-name", "--no-color", "--no-line-number", "--recurse-submodules", "-E", "-e", pattern}
	if s.rev != "" {
		args = append(args, s.rev)
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "git", Args: append(args, "--"), Env: append(os.Environ(), "LC_ALL=C"), Timeout: 10 * time.Minute})
	if proc.ExitCode(err) == 1 && len(res.Stderr) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Match
	for line := range bytes.Lines(res.Stdout) {
		file, text, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), "\x00")
		if ok {
			found = append(found, Match{strings.TrimPrefix(file, s.rev+":"), text})
		}
	}
	return found, nil
}

// searchAll searches every file of the folder. It leaves out git's own, which are
// compressed.
func (s source) searchAll(ctx context.Context, pattern string) ([]Match, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	var found []Match
	err = filepath.WalkDir(s.dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is gone by now, or Nix says so better
			return nil
		case err != nil || ctx.Err() != nil:
			return errors.Join(err, context.Cause(ctx))
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() > maxSearched {
			return nil
		}
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(s.dir, file)
		if err != nil {
			return err
		}
		for _, m := range re.FindAll(text, -1) {
			found = append(found, Match{name, string(m)})
		}
		return nil
	})
	return found, err
}
