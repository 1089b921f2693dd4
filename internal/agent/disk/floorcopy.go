// SPDX-License-Identifier: MIT

package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// FloorCopy is the second copy of what keeps a machine from older releases. It lies
// beside the GC roots, so that it lives as long as the store does, also where the
// state directory does not survive a boot.
type FloorCopy struct {
	File    string
	Machine fleet.MachineID
}

// Kept is what the second copy holds.
type Kept struct {
	Floor    trust.Floor           `json:"floor"`
	Reverted map[fleet.Digest]bool `json:"reverted,omitempty"`
}

// floorFormat is the version of the copy's form.
const floorFormat = 1

// bound is the content of the copy: for which machine and root it counts.
type bound struct {
	Format  int             `json:"format"`
	Machine fleet.MachineID `json:"machine"`
	Fleet   string          `json:"fleet,omitempty"` // "" in unsigned mode
	Version uint64          `json:"rootVersion,omitempty"`
	Root    fleet.Digest    `json:"root,omitempty"` // SHA-256 of the root document in Go's JSON
	Kept
}

// summed is the file: the content, and its digest.
type summed struct {
	Content json.RawMessage `json:"content"`
	Sum     fleet.Digest    `json:"sum"`
}

func (c FloorCopy) bind(k Kept, root *fleet.Root) (bound, error) {
	b := bound{Format: floorFormat, Machine: c.Machine, Kept: k}
	if root == nil {
		return b, nil
	}
	text, err := json.Marshal(root)
	if err != nil {
		return b, fmt.Errorf("encode root document: %w", err)
	}
	b.Fleet, b.Version, b.Root = root.FleetID, root.Version, fleet.SHA256(text)
	return b, nil
}

// Read returns the copy; false if there is none that is of this machine and of the
// fleet of its root document. A copy that cannot be read is an error, never none.
func (c FloorCopy) Read(root *fleet.Root) (Kept, bool, error) {
	text, err := os.ReadFile(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return Kept{}, false, nil
	}
	if err != nil {
		return Kept{}, false, fmt.Errorf("read the second copy of the floor: %w", err)
	}
	var s summed
	var b bound
	if err = json.Unmarshal(text, &s); err != nil {
		return Kept{}, false, fmt.Errorf("the second copy of the floor, %s, is damaged: %w", c.File, err)
	}
	if fleet.SHA256(s.Content) != s.Sum {
		return Kept{}, false, fmt.Errorf("the second copy of the floor, %s, is damaged: its digest is another", c.File)
	}
	if err = json.Unmarshal(s.Content, &b); err != nil || b.Format != floorFormat {
		return Kept{}, false, fmt.Errorf("the second copy of the floor, %s, has the format %d: %w", c.File, b.Format, errors.Join(err, errors.ErrUnsupported))
	}
	mine, err := c.bind(Kept{}, root)
	if err != nil {
		return Kept{}, false, err
	}
	// The root of a lost state may be newer or older than that of the copy.
	other := b.Machine != mine.Machine || b.Fleet != mine.Fleet || b.Version == mine.Version && b.Root != mine.Root
	return b.Kept, !other, nil
}

// Sweep removes what interrupted writes have left.
func (c FloorCopy) Sweep() error {
	dir := filepath.Dir(c.File)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	return sweep(dir, entries)
}

// Write replaces the copy, unless it is the same already.
func (c FloorCopy) Write(k Kept, root *fleet.Root) error {
	b, err := c.bind(k, root)
	if err != nil {
		return err
	}
	content, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the second copy of the floor: %w", err)
	}
	text, err := json.Marshal(summed{content, fleet.SHA256(content)})
	if err != nil {
		return fmt.Errorf("encode the second copy of the floor: %w", err)
	}
	if have, err := os.ReadFile(c.File); err == nil && bytes.Equal(have, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.File), 0o755); err != nil {
		return fmt.Errorf("write the second copy of the floor: %w", err)
	}
	return atomicfile.Write(c.File, text, 0o600)
}
