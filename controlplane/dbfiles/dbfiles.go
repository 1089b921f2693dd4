// SPDX-License-Identifier: AGPL-3.0-only

// Package dbfiles knows the files of a database: how large they are, the copies from
// before its migrations, and why they cannot be written.
//
// It never opens the database.
package dbfiles

import (
	"cmp"
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

// Copy is a copy of the file that was made before it was migrated.
type Copy struct {
	Path   string `json:"path"`
	Schema int64  `json:"schema"`
	Size   int64  `json:"size"` // bytes
}

const mark = ".schema-"

// copyPath is where the copy of a database with a schema lies.
func copyPath(path string, schema int64) string { return path + mark + strconv.FormatInt(schema, 10) }

// Copies returns those that are kept beside a database, the newest schema first.
func Copies(path string) ([]Copy, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("look for copies of the database: %w", err)
	}
	var out []Copy
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+mark)
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

// keptCopies is how many copies from before migrations stay.
const keptCopies = 2

// spare is how much room a copy must leave, for the migrations and what follows.
const spare = 16 << 20

// Keep makes a copy of a database that is about to be migrated, by write, into a file
// that is empty, and removes old copies. One of an upgrade that was interrupted is made
// again: the older program may have run meanwhile. The error's code is StorageFull if
// there is no room for size bytes and what follows.
func Keep(path string, schema, size int64, write func(file string) error) (kept string, err error) {
	kept = copyPath(path, schema)
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
	if err = atomicfile.Create(partial, nil, 0o600); err != nil {
		return "", fmt.Errorf("copy the database: %w", err)
	}
	if err = write(partial); err != nil {
		return "", fmt.Errorf("copy the database to %s: %w", kept, errors.Join(err, atomicfile.Remove(partial)))
	}
	return kept, atomicfile.Publish(partial, kept)
}

// Refusal is err, for a file that is too new, with the copy that this program could
// open instead.
func Refusal(err *fleet.Error, path string, known int64) error {
	copies, _ := Copies(path) // without one there is less to say
	for _, c := range copies {
		if c.Schema <= known {
			return err.WithHint("%s; %s is a copy from before its migration, without what happened since", err.Hint, c.Path)
		}
	}
	return err
}

// Sizes are how much room a database takes.
type Sizes struct {
	Database int64 `json:"database"` // bytes
	Log      int64 `json:"log"`      // bytes of the write-ahead log
}

// SizesOf looks at the files.
func SizesOf(path string) (Sizes, error) {
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Sizes{}, err
	}
	z := Sizes{Log: LogSize(path)}
	if info != nil {
		z.Database = info.Size()
	}
	return z, nil
}

// LogSize is how many bytes the write-ahead log has on the disk.
func LogSize(path string) int64 {
	info, err := os.Stat(path + "-wal")
	if err != nil {
		return 0
	}
	return info.Size()
}
