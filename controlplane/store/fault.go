// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/fleet"
)

// resultCode is SQLite's primary result code of an error; 0 if it is none of its.
func resultCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff // the rest of an extended code says where
}

// storageError is err as callers get it, if it is the disk or the database file
// that fails: its code is StorageFull or StorageFailed then. Another error stays
// as it is.
func storageError(err error) error {
	var known *fleet.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch resultCode(err) {
	case sqlite3.SQLITE_FULL:
		return &fleet.Error{Code: fleet.StorageFull, Message: "the control plane's disk is full: nothing was stored", Hint: whenRoom, Err: err}
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's disk fails: %w", err).
			WithHint("the kernel's log says why; nixfleet-control-plane doctor says which disk")
	case sqlite3.SQLITE_READONLY:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's disk is read-only: %w", err).
			WithHint("the kernel's log says why; nixfleet-control-plane doctor says which disk")
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's database is damaged: %w", err).WithHint("%s", restoreOne)
	case sqlite3.SQLITE_BUSY:
		return fleet.Errorf(fleet.Unavailable, "another program holds the control plane's database: %w", err).
			WithHint("end the program that has opened it")
	}
	return err
}

const (
	whenRoom   = "make room; it goes on by itself then. nixfleet-control-plane doctor says where"
	restoreOne = "nixfleet-control-plane doctor --deep says what is damaged; restore a backup in its place"
)

// located is a storage error with the folder and its room in its text.
func located(err error, folder string) error {
	code := fleet.ErrorCode(err)
	if code != fleet.StorageFull && code != fleet.StorageFailed {
		return err
	}
	space, e := diskspace.Of(folder)
	if e != nil {
		return err
	}
	text := err.Error()
	if space.Full() && (resultCode(err) == sqlite3.SQLITE_IOERR || resultCode(err) == sqlite3.SQLITE_CANTOPEN) {
		code = fleet.StorageFull // a file that could not be made or grow, for example
	}
	return &fleet.Error{Code: code, Message: fmt.Sprintf("%s (%s: %s)", text, folder, space), Hint: fleet.ErrorHint(err), Err: err}
}

// condition is how the store is: what the last commits met, and what looking at
// the file found.
type condition struct {
	trouble atomic.Pointer[error] // of the last commit; nil: none
	damage  atomic.Pointer[error] // found in the file; stays
}

func load(p *atomic.Pointer[error]) error {
	if e := p.Load(); e != nil {
		return *e
	}
	return nil
}

// Trouble returns why the store takes no writes, or should not be relied on: a
// full disk, one that fails, a damaged file. The error's code is StorageFull or
// StorageFailed, and its text names the folder. It is nil again when a write has
// gone well and there is room.
func (s *Store) Trouble() error {
	if err := load(&s.condition.damage); err != nil {
		return &fleet.Error{Code: fleet.StorageFailed, Message: fmt.Sprintf("%s (%s)", err, s.path), Hint: fleet.ErrorHint(err), Err: err}
	}
	if err := load(&s.condition.trouble); err != nil {
		return located(err, filepath.Dir(s.path))
	}
	return nil
}

// note takes in how a transaction ended.
func (s *Store) note(err error) {
	switch code := fleet.ErrorCode(err); {
	case code == fleet.StorageFull || code == fleet.StorageFailed:
		s.condition.trouble.Store(&err)
	case err == nil && s.condition.trouble.Load() != nil:
		if fleet.ErrorCode(load(&s.condition.trouble)) == fleet.StorageFull {
			if space, e := diskspace.Of(filepath.Dir(s.path)); e == nil && space.Full() {
				return
			}
		}
		s.condition.trouble.Store(nil)
	}
}
