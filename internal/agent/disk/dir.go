// SPDX-License-Identifier: MIT

package disk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Dir is an agent's state directory. Its methods name what is in it.
type Dir string

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// Journal holds the journal.
func (d Dir) Journal() Journal { return Journal{File: d.file("journal.json")} }

// History holds the outcomes on this machine.
func (d Dir) History() History { return History{File: d.file("history.jsonl")} }

// Watch holds the watchdog's orders.
func (d Dir) Watch() WatchFile { return WatchFile{File: d.file("watchdog.json")} }

// Floor holds a floor to adopt.
func (d Dir) Floor() FloorFile { return FloorFile{File: d.file("adopt-floor.json")} }

// Fetching holds the fetch under way.
func (d Dir) Fetching() FetchingFile { return FetchingFile{File: d.file("fetching.json")} }

// Repairs holds the paths in use that a person allows the agent to replace.
func (d Dir) Repairs() Repairs { return Repairs{Folder: d.file("repair")} }

// Scratch is the folder for archives that are compared before Nix gets them.
func (d Dir) Scratch() string { return d.file("scratch") }

// Outbox is the folder of the queue of reports.
func (d Dir) Outbox() string { return d.file("outbox") }

// Switches is the folder in which switches leave their marks.
func (d Dir) Switches() string { return d.file("switch") }

// Sweep removes what interrupted writes have left, except of the watchdog's
// orders: the watchdog is another process, which may be writing them now.
func (d Dir) Sweep() error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return fmt.Errorf("sweep %s: %w", d, err)
	}
	watch := "." + filepath.Base(d.Watch().File) + "."
	return sweep(string(d), slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), watch) }))
}

// sweep removes the files in dir that interrupted writes have left.
func sweep(dir string, entries []fs.DirEntry) error {
	for _, e := range entries {
		if !atomicfile.Temporary(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("sweep %s: %w", dir, err)
		}
	}
	return nil
}
