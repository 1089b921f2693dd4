// SPDX-License-Identifier: AGPL-3.0-only

package dbfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/fleet"
)

// ResultCode is SQLite's primary result code of an error; 0 if it is none of its.
func ResultCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff // the rest of an extended code says where
}

// StorageError is err as callers get it, if it is the disk or the database file
// that fails: its code is StorageFull or StorageFailed then. Another error stays
// as it is.
func StorageError(err error) error {
	var known *fleet.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch ResultCode(err) {
	case sqlite3.SQLITE_FULL:
		return &fleet.Error{Code: fleet.StorageFull, Message: "the control plane's disk is full: nothing was stored", Hint: whenRoom, Err: err}
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's disk fails: %w", err).
			WithHint("the kernel's log says why; nixfleet-control-plane doctor says which disk")
	case sqlite3.SQLITE_READONLY:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's disk is read-only: %w", err).
			WithHint("the kernel's log says why; nixfleet-control-plane doctor says which disk")
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fleet.Errorf(fleet.StorageFailed, "the control plane's database is damaged: %w", err).WithHint("%s", RestoreOne)
	case sqlite3.SQLITE_BUSY:
		return fleet.Errorf(fleet.Unavailable, "another program holds the control plane's database: %w", err).
			WithHint("end the program that has opened it")
	}
	return err
}

const (
	whenRoom = "make room; it goes on by itself then. nixfleet-control-plane doctor says where"
	// RestoreOne says what to do with a damaged database.
	RestoreOne = "nixfleet-control-plane doctor --deep says what is damaged; restore a backup in its place"
	giveUser   = "give the folder and the files in it to the user that the control plane runs as, with the right to write"
)

// plainText is what SQLite says of an error, or the error itself.
func plainText(err error) string {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

// Located is an error of a database with where it lies in its text, if its code is
// StorageFull or StorageFailed: what may not be written there, or the folder and its
// room.
func Located(err error, path string) error {
	code, folder := fleet.ErrorCode(err), filepath.Dir(path)
	unmade, denied := false, errors.Is(err, fs.ErrPermission)
	switch ResultCode(err) {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN: // a file could not be made, or grow
		unmade, denied = true, true
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		denied = true
	}
	if why := NotOurs(path); denied && why != "" {
		return &fleet.Error{Code: fleet.StorageFailed, Message: fmt.Sprintf("%s (%s)", why, plainText(err)), Hint: giveUser, Err: err}
	}
	if code != fleet.StorageFull && code != fleet.StorageFailed {
		return err
	}
	space, failed := diskspace.Of(folder)
	if failed != nil {
		return err
	}
	if space.Full() && unmade {
		code = fleet.StorageFull
	}
	return &fleet.Error{Code: code, Message: fmt.Sprintf("%s (%s: %s)", err, folder, space), Hint: fleet.ErrorHint(err), Err: err}
}
