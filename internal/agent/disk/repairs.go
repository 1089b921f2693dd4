// SPDX-License-Identifier: MIT

package disk

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Repairs is a folder with a file for each path in use that a person allows the
// agent to replace by what was signed.
type Repairs struct{ Folder string }

func (r Repairs) file(p fleet.StorePath) string { return filepath.Join(r.Folder, p.Base()) }

// Allow allows a path to be replaced once.
func (r Repairs) Allow(p fleet.StorePath) error {
	if !p.Valid() {
		return fleet.Errorf(fleet.Invalid, "%q is not a store path", p)
	}
	if err := os.MkdirAll(r.Folder, 0o700); err != nil {
		return fmt.Errorf("allow repair: %w", err)
	}
	return atomicfile.Write(r.file(p), nil, 0o600)
}

// Allowed reports whether the path may be replaced.
func (r Repairs) Allowed(p fleet.StorePath) bool {
	_, err := os.Stat(r.file(p))
	return err == nil
}

// Repaired ends what was allowed.
func (r Repairs) Repaired(p fleet.StorePath) error { return atomicfile.Remove(r.file(p)) }
