// SPDX-License-Identifier: MIT

package disk

import "path/filepath"

// Dir is an agent's state directory: it names what lies in it.
type Dir string

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// Journal holds the journal.
func (d Dir) Journal() Journal { return Journal{File: d.file("journal.json")} }

// History holds the outcomes on this machine.
func (d Dir) History() History { return History{File: d.file("history.jsonl")} }

// Watch holds the watchdog's orders.
func (d Dir) Watch() WatchFile { return WatchFile{File: d.file("watchdog.json")} }

// Floor holds the floor to adopt.
func (d Dir) Floor() FloorFile { return FloorFile{File: d.file("adopt-floor.json")} }

// Outbox is the folder of the queue of reports.
func (d Dir) Outbox() string { return d.file("outbox") }

// Switches is the folder in which switches leave their marks.
func (d Dir) Switches() string { return d.file("switch") }
