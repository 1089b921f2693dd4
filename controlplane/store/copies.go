// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// keptCopies is how many copies of the file from before its migrations stay.
const keptCopies = 2

// spare is how much room a copy must leave, for the migrations and what follows.
const spare = 16 << 20

// Copy is a copy of the file that was made before it was migrated.
type Copy struct {
	Path   string `json:"path"`
	Schema int64  `json:"schema"`
	Size   int64  `json:"size"` // bytes
}

const copyMark = ".schema-"

// Copies returns those that are kept beside a file, the newest schema first.
func Copies(path string) ([]Copy, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("look for copies of the database: %w", err)
	}
	var out []Copy
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+copyMark)
		version, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for copies of the database: %w", err)
		}
		out = append(out, Copy{filepath.Join(filepath.Dir(path), e.Name()), version, info.Size()})
	}
	slices.SortFunc(out, func(a, b Copy) int { return cmp.Compare(b.Schema, a.Schema) })
	return out, nil
}

// keepCopy copies the file, which no other process writes to, before it is
// migrated, and removes old copies. One of an upgrade that was interrupted is made
// again: the older program may have run meanwhile. begin is called before it takes
// its time.
func keepCopy(ctx context.Context, db *sql.DB, path string, version int64, begin func()) (kept string, err error) {
	size, err := fileSize(ctx, db)
	if err != nil {
		return "", err
	}
	kept = path + copyMark + strconv.FormatInt(version, 10)
	partial := kept + ".partial"
	if err = errors.Join(atomicfile.Remove(partial), atomicfile.Remove(kept), prune(path, keptCopies-1)); err != nil {
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

// prune removes all copies but so many of the newest.
func prune(path string, keep int) error {
	copies, err := Copies(path)
	if err != nil {
		return err
	}
	for _, c := range copies[min(keep, len(copies)):] {
		if err = atomicfile.Remove(c.Path); err != nil {
			return err
		}
	}
	return nil
}

// refuse is err, for a file that is too new, with the copy that this program could
// open instead.
func refuse(err *fleet.Error, path string, known int64) error {
	copies, _ := Copies(path) // without one there is less to say
	for _, c := range copies {
		if c.Schema <= known {
			return err.WithHint("%s; %s is a copy from before its migration, without what happened since", err.Hint, c.Path)
		}
	}
	return err
}
