// SPDX-License-Identifier: MIT

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Releases are the files that tell programs on the machine which release runs.
// Programs read the one in the run directory, which is empty after a boot. The
// state directory keeps a copy, and a copy of the one before.
type Releases struct{ run, now, lastGood string }

// Releases keeps the copies in d and shows them in runDir.
func (d Dir) Releases(runDir string) Releases {
	return Releases{run: filepath.Join(runDir, "release.json"), now: d.file("release.json"), lastGood: d.file("release-last-good.json")}
}

// Write replaces the description of the running release and keeps the old one.
func (r Releases) Write(b []byte) error {
	if old, err := os.ReadFile(r.now); err == nil && string(old) != string(b) {
		if err := atomicfile.Write(r.lastGood, old, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(atomicfile.Write(r.now, b, 0o644), atomicfile.Write(r.run, b, 0o644))
}

// Restore shows the description that the last Write replaced.
func (r Releases) Restore() error {
	b, err := os.ReadFile(r.lastGood)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(atomicfile.Remove(r.now), atomicfile.Remove(r.run))
	}
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	return errors.Join(atomicfile.Write(r.now, b, 0o644), atomicfile.Write(r.run, b, 0o644))
}

// Show copies the description to the run directory.
func (r Releases) Show() error {
	b, err := os.ReadFile(r.now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	return atomicfile.Write(r.run, b, 0o644)
}
