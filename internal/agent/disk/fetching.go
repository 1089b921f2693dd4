// SPDX-License-Identifier: MIT

package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Fetching is a fetch that was begun and whose system was not accepted yet. What it
// has made valid is not trusted.
type Fetching struct {
	Release fleet.Digest  `json:"release"`
	Entry   fleet.Entry   `json:"entry"`
	Caches  []fleet.Cache `json:"caches"`
	Began   states.Moment `json:"began"` // of the first try
	// Deviated are the paths that were not as signed, with their hashes.
	Deviated []string `json:"deviated,omitempty"`
}

// FetchingFile holds the fetch under way.
type FetchingFile struct{ File string }

// Read returns the fetch; false if there is none.
func (f FetchingFile) Read() (Fetching, bool, error) {
	b, err := os.ReadFile(f.File)
	if errors.Is(err, fs.ErrNotExist) {
		return Fetching{}, false, nil
	}
	if err != nil {
		return Fetching{}, false, fmt.Errorf("read the fetch under way: %w", err)
	}
	var w Fetching
	if err := json.Unmarshal(b, &w); err != nil {
		return Fetching{}, false, fmt.Errorf("read the fetch under way %s: %w", f.File, err)
	}
	return w, true, nil
}

// Write records the fetch.
func (f FetchingFile) Write(w Fetching) error {
	b, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode the fetch under way: %w", err)
	}
	return atomicfile.Write(f.File, b, 0o600)
}

// Remove says that the fetch has ended and that nothing of it is left to judge.
func (f FetchingFile) Remove() error { return atomicfile.Remove(f.File) }
