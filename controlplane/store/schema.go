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
	"strconv"
	"strings"
	"sync"

	"github.com/pressly/goose/v3"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// metaReader names the row that says which programs may open the file: those
// that know this migration or a later one. metaProgram names the program that ran
// the newest migration.
const (
	metaReader  = "schema-reader"
	metaProgram = "schema-program"
)

// reader is the newest migration that programs of two minor versions ago know.
// They may open the file as this program writes it, because the migrations since
// only add: a machine that is rolled back may be the control plane's own. It is
// raised when a minor version is released. Until two have been, it is the last
// migration before which others changed and removed.
const reader = 20

// Schema says which migrations a file has had.
type Schema struct {
	Version int64 `json:"version"` // the newest migration
	Reader  int64 `json:"reader"`  // a program reads the file that knows this one; 0: only one that knows Version
	Known   int64 `json:"known"`   // the newest one that this program knows
	// Program is the version of the program that knows the newest migration and opened
	// the file last; "" if that is not known.
	Program string `json:"program,omitempty"`
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
		return s, fleet.Errorf(fleet.StorageFailed, "the file is empty: the database that was there is gone").WithHint("%s", dbfiles.RestoreOne)
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
	oldest, err := (Reader{q: q}).Meta(ctx, metaReader)
	if err != nil {
		return s, err
	}
	if oldest != "" {
		if _, err = fmt.Sscan(oldest, &s.Reader); err != nil {
			return s, fmt.Errorf("read %s: %w", metaReader, err)
		}
	}
	s.Program, err = (Reader{q: q}).Meta(ctx, metaProgram)
	return s, err
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
			WithHint("someone changed it by hand, or it is damaged: %s", dbfiles.RestoreOne)
	}
	return nil
}

// readable returns why this program may not open a file of that schema, or nil. It
// may open a newer one if that says so.
func (s Schema) readable() *fleet.Error {
	if s.Version <= s.Known || s.Reader > 0 && s.Reader <= s.Known {
		return nil
	}
	by := "a newer control plane"
	if s.Program != "" {
		by += ", " + s.Program + ","
	}
	return fleet.Errorf(fleet.Conflict, "%s wrote the file: it has schema %d, for programs that know schema %d, and this one knows %d",
		by, s.Version, cmp.Or(s.Reader, s.Version), s.Known).
		WithHint("run that control plane again, or put a backup in the place of the database")
}

// migrate brings the file's schema up to date.
func (s *Store) migrate(ctx context.Context, o Options) error {
	have, err := readSchema(ctx, s.writes)
	if err != nil {
		return err
	}
	if refused := have.readable(); refused != nil {
		return dbfiles.Refusal(refused, o.Path, have.Known)
	}
	if have.Version < have.Known {
		if have, err = upgrade(ctx, s.writes, o, have); err != nil {
			return err
		}
	}
	s.schema, s.version = have, o.Version
	return have.check(ctx, s.writes)
}

// upgrade makes a copy of the file, and runs the migrations that it lacks.
func upgrade(ctx context.Context, db *sql.DB, o Options, have Schema) (Schema, error) {
	kept, err := keepCopy(ctx, db, o.Path, have.Version, func() {
		if o.Migrating != nil {
			o.Migrating(have)
		}
	})
	if err != nil {
		return have, err
	}
	p, err := provider(db)
	if err != nil {
		return have, err
	}
	if _, err = p.Up(ctx); err != nil {
		return have, fmt.Errorf("migrate, of which %s is a copy from before: %w", kept, err)
	}
	return readSchema(ctx, db)
}

// sign says in the file who may open it, unless a newer program has said so.
func (s Schema) sign(ctx context.Context, tx *Tx, version string) (Schema, error) {
	if s.Version > s.Known {
		return s, nil
	}
	s.Reader, s.Program = reader, version
	if err := tx.SetMeta(ctx, metaReader, strconv.Itoa(reader)); err != nil {
		return s, err
	}
	return s, tx.SetMeta(ctx, metaProgram, version)
}
