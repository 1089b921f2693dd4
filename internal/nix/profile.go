// SPDX-License-Identifier: MIT

package nix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// Places of a NixOS or nix-darwin machine.
const (
	SystemProfile = "/nix/var/nix/profiles/system"
	CurrentSystem = "/run/current-system"
	BootedSystem  = "/run/booted-system"
	RootsDir      = "/nix/var/nix/gcroots/nixfleet"
)

// Generations reads what this machine runs, what it booted and what its profile
// boots next. What cannot be read is empty.
func Generations() fleet.Generations {
	return fleet.Generations{Running: systemAt(CurrentSystem), Booted: systemAt(BootedSystem), BootDefault: systemAt(SystemProfile)}
}

func systemAt(link string) fleet.StorePath {
	p, err := filepath.EvalSymlinks(link)
	if s := fleet.StorePath(p); err == nil && s.Valid() {
		return s
	}
	return ""
}

// Valid reports whether a path is valid in this machine's store, and so its closure
// too.
func Valid(ctx context.Context, path fleet.StorePath) bool {
	_, err := proc.Run(ctx, proc.Cmd{Path: "nix-store", Args: []string{"--check-validity", string(path)}, Timeout: time.Minute})
	return err == nil
}

// SetProfile makes system the newest generation of the system profile.
func SetProfile(ctx context.Context, system fleet.StorePath) error {
	if _, err := os.Stat(string(system)); err != nil {
		return fmt.Errorf("set system profile: %w", err)
	}
	if systemAt(SystemProfile) == system {
		return nil
	}
	_, err := proc.Run(ctx, proc.Cmd{
		Path: "nix-env", Args: []string{"--profile", SystemProfile, "--set", string(system), "--option", "substituters", "", "--option", "max-jobs", "0"},
		Timeout: 5 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("set system profile: %w", err)
	}
	return nil
}

// SetRoot protects path from the garbage collector; path need not exist yet. It
// replaces a root of the same name.
func SetRoot(dir, name string, path fleet.StorePath) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make GC root: %w", err)
	}
	link := filepath.Join(dir, name)
	if old, err := os.Readlink(link); err == nil && old == string(path) {
		return nil
	}
	tmp := link + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make GC root: %w", err)
	}
	if err := os.Symlink(string(path), tmp); err != nil {
		return fmt.Errorf("make GC root: %w", err)
	}
	if err := os.Rename(tmp, link); err != nil {
		return fmt.Errorf("make GC root: %w", err)
	}
	return nil
}

// RemoveRoot removes a root that SetRoot made. That it does not exist is no error.
func RemoveRoot(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove GC root: %w", err)
	}
	return nil
}

// RootedSince returns when the first of the roots with these names that hold path
// was made; now if none holds it.
func RootedSince(path fleet.StorePath, dir string, names ...string) time.Time {
	first := time.Now()
	for _, n := range names {
		link := filepath.Join(dir, n)
		info, err := os.Lstat(link)
		if target, linkErr := os.Readlink(link); err != nil || linkErr != nil || target != string(path) {
			continue
		}
		if at := info.ModTime(); at.Before(first) {
			first = at
		}
	}
	return first
}
