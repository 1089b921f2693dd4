// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
)

// keepCopy copies the file, which no other process writes to, before it is
// migrated. begin is called before it takes its time.
func keepCopy(ctx context.Context, db *sql.DB, path string, version int64, begin func()) (kept string, err error) {
	size, err := fileSize(ctx, db)
	if err != nil {
		return "", err
	}
	return dbfiles.Keep(path, version, size, func(file string) error {
		begin()
		_, err := db.ExecContext(ctx, `VACUUM INTO $1`, file)
		return err
	})
}

// fileSize is how many bytes the file has, with what its log has.
func fileSize(ctx context.Context, q querier) (int64, error) {
	pages, _, err := first(ctx, q, column[int64], `PRAGMA page_count`)
	if err != nil {
		return 0, fmt.Errorf("measure the database: %w", err)
	}
	each, _, err := first(ctx, q, column[int64], `PRAGMA page_size`)
	if err != nil {
		return 0, fmt.Errorf("measure the database: %w", err)
	}
	return pages * each, nil
}
