// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// Backup writes a copy of the store, as it is at one moment, to a new file.
// Writes go on meanwhile. The error's code is Conflict if the file exists.
func (s *Store) Backup(ctx context.Context, path string) error {
	// A name of its own until it is whole: an interrupted backup is never
	// taken for one.
	partial := path + ".partial"
	if _, err := os.Lstat(path); err == nil {
		return fleet.Errorf(fleet.Conflict, "backup: %s exists", path).WithHint("name a new file")
	}
	if err := os.WriteFile(partial, nil, 0o600); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := s.copyTo(ctx, partial); err != nil {
		return fmt.Errorf("backup to %s: %w", path, errors.Join(err, os.Remove(partial)))
	}
	if err := atomicfile.Publish(partial, path); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// copyTo writes the copy. It needs a connection of its own: those of the pool
// may not write anywhere.
func (s *Store) copyTo(ctx context.Context, file string) error {
	db, err := sql.Open("sqlite", dsn(s.path))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO $1`, file)
	return errors.Join(err, db.Close())
}

// Integrity looks for damage in the file and for rows that refer to nothing.
// It returns what it found, at most a hundred lines.
func (r Reader) Integrity(ctx context.Context) ([]string, error) {
	found, err := list(ctx, r.q, column[string], `PRAGMA integrity_check(100)`)
	if err != nil {
		return nil, fmt.Errorf("check integrity: %w", err)
	}
	if len(found) == 1 && found[0] == "ok" {
		found = nil
	}
	orphans, err := list(ctx, r.q, func(r row) (_ string, err error) {
		var table, parent string
		var id, key any
		err = r.Scan(&table, &id, &parent, &key)
		return fmt.Sprintf("a row of %s refers to a row of %s that is not there", table, parent), err
	}, `PRAGMA foreign_key_check`)
	if err != nil {
		return nil, fmt.Errorf("check references: %w", err)
	}
	return append(found, orphans[:min(len(orphans), 100)]...), nil
}
