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
// One lies in the run directory, which is empty after a boot; what it says, and
// what it said before, is kept in the state directory.
type Releases struct{ run, now, lastGood string }

// Releases are kept in d and shown in the run directory.
func (d Dir) Releases(runDir string) Releases {
	return Releases{run: filepath.Join(runDir, "release.json"), now: d.file("release.json"), lastGood: d.file("release-last-good.json")}
}

// Write replaces what is known of the running release, and keeps what was.
func (r Releases) Write(b []byte) error {
	if old, err := os.ReadFile(r.now); err == nil && string(old) != string(b) {
		if err := atomicfile.Write(r.lastGood, old, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(atomicfile.Write(r.now, b, 0o644), atomicfile.Write(r.run, b, 0o644))
}

// Restore says again what was known before the last Write.
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

// Show puts what is kept where programs look for it.
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
