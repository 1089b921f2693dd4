// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// keptCopies is how many copies of the file from before its migrations stay.
const keptCopies = 2

// spare is how much room a copy must leave, for the migrations and what follows.
const spare = 16 << 20

// keepCopy copies the file, which no other process writes to, before it is
// migrated, and removes old copies. One of an upgrade that was interrupted is made
// again: the older program may have run meanwhile. begin is called before it takes
// its time.
func keepCopy(ctx context.Context, db *sql.DB, path string, version int64, begin func()) (kept string, err error) {
	size, err := fileSize(ctx, db)
	if err != nil {
		return "", err
	}
	kept = dbfiles.CopyPath(path, version)
	partial := kept + ".partial"
	if err = errors.Join(atomicfile.Remove(partial), atomicfile.Remove(kept), dbfiles.Prune(path, keptCopies-1)); err != nil {
		return "", fmt.Errorf("remove old copies of the database: %w", err)
	}
	space, err := diskspace.Of(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	if need := size + spare; space.Free < need {
		return "", fleet.Errorf(fleet.StorageFull, "the database is copied before it is migrated, which takes %s", diskspace.Text(need)).
			WithHint("make room, or run the control plane of the version before: nothing was changed")
	}
	begin()
	if err = atomicfile.Create(partial, nil, 0o600); err != nil {
		return "", fmt.Errorf("copy the database: %w", err)
	}
	if _, err = db.ExecContext(ctx, `VACUUM INTO $1`, partial); err != nil {
		return "", fmt.Errorf("copy the database to %s: %w", kept, errors.Join(err, atomicfile.Remove(partial)))
	}
	return kept, atomicfile.Publish(partial, kept)
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
