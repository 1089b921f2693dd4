// SPDX-License-Identifier: MIT

package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// FloorFile is where a person on the machine leaves a floor for the agent to
// adopt.
type FloorFile struct{ File string }

// Write leaves the floor.
func (f FloorFile) Write(floor trust.Floor) error {
	b, err := json.Marshal(floor)
	if err != nil {
		return fmt.Errorf("encode floor: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.File), 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return atomicfile.Write(f.File, b, 0o600)
}

// Left reports whether there is a floor that the agent has not adopted yet.
func (f FloorFile) Left() bool {
	_, err := os.Lstat(f.File)
	return err == nil
}

// Take returns the floor and removes the file; false if there is none. A file
// that cannot be decoded is removed as well.
func (f FloorFile) Take() (floor trust.Floor, ok bool, err error) {
	b, err := os.ReadFile(f.File)
	if errors.Is(err, fs.ErrNotExist) {
		return floor, false, nil
	}
	if err != nil {
		return floor, false, fmt.Errorf("read floor: %w", err)
	}
	err = json.Unmarshal(b, &floor)
	if err = errors.Join(err, atomicfile.Remove(f.File)); err != nil {
		return trust.Floor{}, false, fmt.Errorf("take floor: %w", err)
	}
	return floor, true, nil
}
