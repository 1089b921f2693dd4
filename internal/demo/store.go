// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// rootsDir holds GC roots. Those of a scene are in a folder that is named after
// its testbed.
const rootsDir = "/nix/var/nix/gcroots"

func (s *Scene) rootsOf() string {
	return filepath.Join(rootsDir, filepath.Base(s.TB.Dir()))
}

// remember records what was added to the store for some systems, so that Clean
// removes it, and protects it until then. Two scenes may share paths: the roots of
// one protect them while the other is cleaned.
func (s *Scene) remember(ctx context.Context, paths ...fleet.StorePath) error {
	for _, p := range paths {
		if err := s.protect(string(p)); err != nil {
			return err
		}
		drv, err := s.store(ctx, "--query", "--deriver", string(p))
		if err != nil {
			return err
		}
		s.trash = append(s.trash, drv...)
	}
	return s.rememberSources(ctx)
}

// protect makes a GC root of a path.
func (s *Scene) protect(path string) error {
	if err := os.MkdirAll(s.rootsOf(), 0o755); err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	s.roots++
	if err := os.Symlink(path, filepath.Join(s.rootsOf(), strconv.Itoa(s.roots))); err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	return nil
}

// rememberSources records the copies that Nix makes of the flake as it is now, and of
// its inputs.
func (s *Scene) rememberSources(ctx context.Context) error {
	args := []string{"flake", "archive", "--json", "--dry-run", "--no-write-lock-file", "path:" + s.flakeDir()}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args, Env: s.env})
	if err != nil {
		return fmt.Errorf("find flake's sources: %w", err)
	}
	var flake struct {
		Path   string `json:"path"`
		Inputs map[string]struct {
			Path string `json:"path"`
		} `json:"inputs"`
	}
	if err := json.Unmarshal(res.Stdout, &flake); err != nil {
		return fmt.Errorf("find flake's sources: %w", err)
	}
	sources := []string{flake.Path}
	for _, i := range flake.Inputs {
		sources = append(sources, i.Path)
	}
	for _, p := range sources {
		if slices.Contains(s.trash, p) {
			continue
		}
		if err := s.protect(p); err != nil {
			return err
		}
		s.trash = append(s.trash, p)
	}
	return nil
}

// store runs nix-store and returns the words of its output.
func (s *Scene) store(ctx context.Context, args ...string) ([]string, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: args, Env: s.env, MaxOutput: 256 << 20})
	if err != nil {
		return nil, fmt.Errorf("nix-store %s: %w", args[0], err)
	}
	return strings.Fields(string(res.Stdout)), nil
}

// sweepStore removes what the scene's builds have added to the machine's store:
// derivations, their outputs, the flake's sources, and what scenes that were
// killed have left of the same. It keeps what anything else needs.
func (s *Scene) sweepStore(ctx context.Context) error {
	errs := []error{os.RemoveAll(s.rootsOf()), s.sweepRoots()}
	if len(s.trash) == 0 {
		return errors.Join(errs...)
	}
	// Another scene would delete what this one is examining.
	unlock, err := s.lockRoots(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer unlock()
	// It may have deleted what it shared with this one, whose roots are gone.
	gone, err := s.store(ctx, append([]string{"--check-validity", "--print-invalid"}, s.trash...)...)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	trash := slices.DeleteFunc(slices.Clone(s.trash), func(p string) bool { return slices.Contains(gone, p) })
	if len(trash) == 0 {
		return errors.Join(errs...)
	}
	ours, err := s.store(ctx, append([]string{"--query", "--requisites", "--include-outputs"}, trash...)...)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	// A path can be deleted only together with what refers to it.
	ours, err = s.store(ctx, append([]string{"--query", "--referrers-closure"}, ours...)...)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	dead, err := s.store(ctx, "--gc", "--print-dead")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	unused := make(map[string]bool, len(dead))
	for _, p := range dead {
		unused[p] = true
	}
	ours = slices.DeleteFunc(ours, func(p string) bool { return !unused[p] })
	if len(ours) == 0 {
		return errors.Join(errs...)
	}
	sorted, err := s.store(ctx, append([]string{"--query", "--requisites"}, ours...)...)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	mine := make(map[string]bool, len(ours))
	for _, p := range ours {
		mine[p] = true
	}
	sorted = slices.DeleteFunc(sorted, func(p string) bool { return !mine[p] })
	slices.Reverse(sorted) // what refers to others first
	s.forget(ctx, sorted)
	return errors.Join(errs...)
}

// lockRoots keeps other scenes from sweeping at the same time. It locks the folder
// itself and leaves no lock file.
func (s *Scene) lockRoots(ctx context.Context) (unlock func(), err error) {
	dir, err := os.Open(rootsDir)
	if err != nil {
		return nil, fmt.Errorf("lock GC roots: %w", err)
	}
	err = s.Until(ctx, 50*time.Second, "no other scene sweeps the store", func(context.Context) error {
		return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return func() { dir.Close() }, nil
}

// forget deletes paths. It leaves paths that another Nix process holds, and paths
// for which there is no time, to the garbage collector.
func (s *Scene) forget(ctx context.Context, paths []string) {
	if _, err := s.store(ctx, append([]string{"--delete"}, paths...)...); err == nil || len(paths) == 1 || ctx.Err() != nil {
		return
	}
	half := len(paths) / 2
	s.forget(ctx, paths[:half])
	s.forget(ctx, paths[half:])
}

// sweepRoots removes the roots of scenes that were killed, whose testbeds no
// longer exist.
func (s *Scene) sweepRoots() error {
	dirs, err := filepath.Glob(filepath.Join(rootsDir, "nixfleet-testbed-*"))
	if err != nil {
		return fmt.Errorf("list roots: %w", err)
	}
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(filepath.Dir(s.TB.Dir()), filepath.Base(d))); errors.Is(err, os.ErrNotExist) {
			if err := os.RemoveAll(d); err != nil {
				return fmt.Errorf("remove roots: %w", err)
			}
		}
	}
	return nil
}
