// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pressly/goose/v3"

	"github.com/arcanesys/nixfleet/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// metaReader names the row that says which programs may open the file: those
// that know this migration or a later one. Migrations write it.
const metaReader = "schema-reader"

// Schema says which migrations a file has had.
type Schema struct {
	Version int64 `json:"version"` // the newest migration
	Reader  int64 `json:"reader"`  // a program reads the file that knows this one; 0: only one that knows Version
	Known   int64 `json:"known"`   // the newest one that this program knows
}

// provider runs the migrations of this program.
func provider(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// shape is what a database has, as "table", "table.column" and "index" names.
type shape map[string]bool

func shapeOf(ctx context.Context, q querier) (shape, error) {
	names, err := list(ctx, q, column[string], `SELECT name FROM sqlite_master WHERE type IN ('table', 'index') AND name NOT LIKE 'sqlite_%'
		UNION ALL SELECT m.name || '.' || c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`)
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	s := shape{}
	for _, n := range names {
		s[n] = true
	}
	return s, nil
}

// lacks names at most three of what the other has and s has not.
func (s shape) lacks(other shape) []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(other)) {
		if !s[n] && len(out) < 3 {
			out = append(out, n)
		}
	}
	return out
}

// ours is the shape that this program's migrations make, and the newest of them.
var ours = sync.OnceValues(func() (known struct {
	shape   shape
	version int64
}, err error,
) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return known, err
	}
	db.SetMaxOpenConns(1)
	p, err := provider(db)
	if err != nil {
		return known, errors.Join(err, db.Close())
	}
	if _, err = p.Up(context.Background()); err != nil {
		return known, errors.Join(fmt.Errorf("migrate: %w", err), db.Close())
	}
	sources := p.ListSources()
	known.version = sources[len(sources)-1].Version
	known.shape, err = shapeOf(context.Background(), db)
	return known, errors.Join(err, db.Close())
})

// readSchema says what schema a file has. The error's code is Invalid for one that
// is not a control plane's, StorageFailed for one that has nothing in it.
func readSchema(ctx context.Context, q querier) (Schema, error) {
	known, err := ours()
	if err != nil {
		return Schema{}, err
	}
	s := Schema{Known: known.version}
	have, err := shapeOf(ctx, q)
	if err != nil {
		return s, err
	}
	if len(have) == 0 {
		return s, fleet.Errorf(fleet.StorageFailed, "the file is empty: the database that was there is gone").WithHint("%s", restoreOne)
	}
	if !have["goose_db_version.version_id"] {
		return s, foreign("it has tables, and none of them are a control plane's")
	}
	s.Version, _, err = first(ctx, q, column[int64], `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied = 1`)
	if err != nil {
		return s, fmt.Errorf("read schema version: %w", err)
	}
	if s.Version == 0 || !have["meta.name"] || !have["meta.value"] {
		return s, foreign("another program's migrations made it")
	}
	reader, err := (Reader{q: q}).Meta(ctx, metaReader)
	if err != nil {
		return s, err
	}
	if reader != "" {
		if _, err := fmt.Sscan(reader, &s.Reader); err != nil {
			return s, fmt.Errorf("read %s: %w", metaReader, err)
		}
	}
	return s, nil
}

func foreign(why string) error {
	return fleet.Errorf(fleet.Invalid, "the file is not a control plane's database: %s", why).WithHint("database.url, or stateDir, names another program's file")
}

// check compares a file that has all migrations of this program, or more, with what
// they make.
func (s Schema) check(ctx context.Context, q querier) error {
	known, err := ours()
	if err != nil {
		return err
	}
	have, err := shapeOf(ctx, q)
	if err != nil {
		return err
	}
	if lacks := have.lacks(known.shape); len(lacks) > 0 {
		return fleet.Errorf(fleet.StorageFailed, "the file says that it has schema %d, and lacks %s", s.Version, strings.Join(lacks, ", ")).
			WithHint("someone changed it by hand, or it is damaged: %s", restoreOne)
	}
	return nil
}

// readable returns why this program may not open a file of that schema, or nil. It
// may open a newer one if that says so.
func (s Schema) readable() *fleet.Error {
	if s.Version <= s.Known || s.Reader > 0 && s.Reader <= s.Known {
		return nil
	}
	return fleet.Errorf(fleet.Conflict, "the file has schema %d, for programs that know schema %d; this program knows %d", s.Version, cmp.Or(s.Reader, s.Version), s.Known).
		WithHint("a newer control plane wrote it: run that one, or restore a backup")
}

// migrate brings the file's schema up to date.
func migrate(ctx context.Context, db *sql.DB) (Schema, error) {
	s, err := readSchema(ctx, db)
	if err != nil {
		return s, err
	}
	if refused := s.readable(); refused != nil {
		return s, refused
	}
	if s.Version < s.Known {
		if s, err = s.upgrade(ctx, db); err != nil {
			return s, err
		}
	}
	return s, s.check(ctx, db)
}

// upgrade runs the migrations that the file lacks.
func (s Schema) upgrade(ctx context.Context, db *sql.DB) (Schema, error) {
	p, err := provider(db)
	if err != nil {
		return s, err
	}
	if _, err = p.Up(ctx); err != nil {
		return s, fmt.Errorf("migrate: %w", err)
	}
	return readSchema(ctx, db)
}
