// SPDX-License-Identifier: MIT

// Package disk keeps an agent's files: the journal, the queue of reports, the
// history of outcomes, the watchdog's orders, and what other programs on the
// machine read or leave for the agent. What a function has written when it
// returns is durable.
//
// It never decides what to write.
package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Journal is the file that holds the journal.
type Journal struct{ File string }

// Load reads the journal. If there is none, or none that can be read, lost is
// true: the agent does not know its floor then (A17). A journal that cannot be
// read is renamed and kept.
func (s Journal) Load() (j states.Journal, lost bool, err error) {
	b, err := os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return states.New(), true, nil
	}
	if err != nil {
		return states.Journal{}, false, fmt.Errorf("read journal: %w", err)
	}
	if err := json.Unmarshal(b, &j); err != nil || j.Format < 1 || j.Format > states.Format || j.Step == "" {
		if j.Format > states.Format {
			return states.Journal{}, false, fleet.Errorf(fleet.Conflict, "the journal %s was written by a newer agent (format %d)", s.File, j.Format)
		}
		if err := os.Rename(s.File, s.File+".damaged"); err != nil {
			return states.Journal{}, false, fmt.Errorf("rename damaged journal: %w", err)
		}
		return states.New(), true, nil
	}
	return j.Upgrade(), false, nil
}

// Save writes the journal.
func (s Journal) Save(j states.Journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	return atomicfile.Write(s.File, b, 0o600)
}

// History is the file that lists the outcomes on this machine, oldest first.
type History struct{ File string }

const maxHistory = 100

// Add appends an outcome, unless it is in the list already.
func (h History) Add(r fleet.Report) error {
	all, err := h.List()
	if err != nil {
		all = nil // a damaged history must not stop the machine
	}
	for _, o := range all {
		if o.ID == r.ID {
			return nil
		}
	}
	all = append(all, r)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, o := range all[max(0, len(all)-maxHistory):] {
		if err := enc.Encode(o); err != nil {
			return fmt.Errorf("encode history: %w", err)
		}
	}
	return atomicfile.Write(h.File, b.Bytes(), 0o600)
}

// List returns the outcomes, oldest first.
func (h History) List() ([]fleet.Report, error) {
	b, err := os.ReadFile(h.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	var out []fleet.Report
	for line := range bytes.Lines(b) {
		var r fleet.Report
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read history %s: %w", h.File, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Watch is what the watchdog does unless it is disarmed in time.
type Watch struct {
	Previous  fleet.StorePath `json:"previous"`            // the system to roll back to; a GC root keeps it
	Unit      string          `json:"unit"`                // name of the unit that rolls back
	BootID    string          `json:"bootId"`              // the boot in which it was armed
	Deadline  float64         `json:"deadline,omitempty"`  // seconds since that boot; 0: none
	AfterBoot float64         `json:"afterBoot,omitempty"` // seconds since a later boot
	Tries     int             `json:"tries,omitempty"`
	Fired     bool            `json:"fired,omitempty"` // it has begun to roll back
	Done      bool            `json:"done,omitempty"`  // it has ended
	Message   string          `json:"message,omitempty"`
}

// Due reports whether the watchdog must act, at boot seconds since the boot with
// this id. A rollback that has begun is continued at once, also after a boot.
func (w Watch) Due(bootID string, boot float64) bool {
	if w.Done || w.Fired {
		return !w.Done
	}
	if w.BootID == bootID {
		return w.Deadline > 0 && boot >= w.Deadline
	}
	return w.AfterBoot > 0 && boot >= w.AfterBoot
}

// WatchFile holds the watchdog's orders.
type WatchFile struct{ File string }

// Read returns the orders; false if the watchdog is not armed.
func (f WatchFile) Read() (Watch, bool, error) {
	b, err := os.ReadFile(f.File)
	if errors.Is(err, fs.ErrNotExist) {
		return Watch{}, false, nil
	}
	if err != nil {
		return Watch{}, false, fmt.Errorf("read watchdog's orders: %w", err)
	}
	var w Watch
	if err := json.Unmarshal(b, &w); err != nil {
		return Watch{}, false, fmt.Errorf("read watchdog's orders %s: %w", f.File, err)
	}
	return w, true, nil
}

// Write arms the watchdog.
func (f WatchFile) Write(w Watch) error {
	b, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode watchdog's orders: %w", err)
	}
	return atomicfile.Write(f.File, b, 0o600)
}

// Remove disarms the watchdog.
func (f WatchFile) Remove() error { return atomicfile.Remove(f.File) }
