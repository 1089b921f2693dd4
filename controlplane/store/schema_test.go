// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"database/sql"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
)

// changes are migrations that change rows which a program of a version before
// wrote, and why it can go on with them.
var changes = map[int64]string{
	26: "meta, a name that it does not know",
	28: "columns and a table that it does not know",
	41: "a line without a release has no head, as one that has begun",
}

// declared is how each table is declared, and of which table each unique index,
// and each trigger or view, is.
func declared(t *testing.T, db *sql.DB) (tables, unique, triggers map[string]string) {
	t.Helper()
	tables, unique, triggers = map[string]string{}, map[string]string{}, map[string]string{}
	rows, err := db.QueryContext(t.Context(), `SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'goose_db_version'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind, name, table, text string
		if err = rows.Scan(&kind, &name, &table, &text); err != nil {
			t.Fatal(err)
		}
		switch {
		case kind == "table":
			tables[name] = text
		case kind == "index" && strings.HasPrefix(text, "CREATE UNIQUE"):
			unique[name] = table
		case kind == "trigger" || kind == "view":
			triggers[name] = table
		}
	}
	if err = rows.Err(); err != nil {
		t.Fatal(err)
	}
	return tables, unique, triggers
}

// columnsAdded reports whether the text after is the one before, into which SQLite
// has put columns. ALTER TABLE cannot add those that an older program must know.
func columnsAdded(before, after string) bool {
	begin := 0
	for begin < min(len(before), len(after)) && before[begin] == after[begin] {
		begin++
	}
	return len(after) > len(before) && strings.HasSuffix(after, before[begin:])
}

// broken says how what a migration did keeps a program that does not know it from
// working: none of its tables may be other than by columns that have a default,
// and nothing new may refuse what it writes.
func broken(t *testing.T, db *sql.DB, before, after map[string]string, unique, triggers map[string]string) (out []string) {
	t.Helper()
	for name, text := range before {
		now, ok := after[name]
		switch {
		case !ok:
			out = append(out, "table "+name+" is gone")
		case now != text && !columnsAdded(text, now):
			out = append(out, "table "+name+" is other than by new columns")
		}
	}
	for index, table := range unique {
		if _, old := before[table]; old {
			out = append(out, "unique index "+index+" refuses rows")
		}
	}
	for name := range triggers {
		out = append(out, name+" acts on what an older program does")
	}
	for name := range after {
		_, old := before[name]
		rows, err := db.QueryContext(t.Context(), `SELECT f."table", f.on_delete FROM pragma_foreign_key_list($1) AS f`, name)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var parent, action string
			if err = rows.Scan(&parent, &action); err != nil {
				t.Fatal(err)
			}
			if _, oldParent := before[parent]; oldParent && !old && action != "CASCADE" && action != "SET NULL" {
				out = append(out, fmt.Sprintf("table %s keeps rows of %s from being deleted", name, parent))
			}
		}
		if err = rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

// migrateOne runs one migration and says how it breaks older programs.
func migrateOne(t *testing.T, db *sql.DB, files fs.FS, m *goose.Source) []string {
	t.Helper()
	before, unique, triggers := declared(t, db)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.UpTo(t.Context(), m.Version); err != nil {
		t.Fatal(err)
	}
	after, uniqueNow, triggersNow := declared(t, db)
	maps.DeleteFunc(uniqueNow, func(name, _ string) bool { _, old := unique[name]; return old })
	maps.DeleteFunc(triggersNow, func(name, _ string) bool { _, old := triggers[name]; return old })
	text, err := fs.ReadFile(files, m.Path)
	if err != nil {
		t.Fatal(err)
	}
	out := broken(t, db, before, after, uniqueNow, triggersNow)
	for table := range before {
		if regexp.MustCompile(`(?im)^\s*(DELETE FROM|INSERT INTO|REPLACE INTO|UPDATE) `+table+`\b`).Match(text) && changes[m.Version] == "" {
			out = append(out, "rows of "+table+" change")
		}
	}
	return out
}

// O11: a program of two minor versions ago works on the file, since each migration
// that it does not know only adds.
func TestMigrations_OnlyAdd(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range p.ListSources() {
		for _, why := range migrateOne(t, db, files, m) {
			if m.Version > reader {
				t.Errorf("%s: %s. Programs that know schema %d open the file, too: only add", m.Path, why, reader)
			}
		}
	}
}

// Each way to break an older program is found.
func TestMigrations_ThatBreakOlderProgramsAreFound(t *testing.T) {
	for statements, want := range map[string]string{
		"DROP TABLE child;":                                            "table child is gone",
		"ALTER TABLE thing RENAME TO things;":                          "table thing is gone",
		"ALTER TABLE thing RENAME COLUMN value TO text;":               "table thing is other",
		"ALTER TABLE thing DROP COLUMN value;":                         "table thing is other",
		"CREATE UNIQUE INDEX u ON thing (value);":                      "unique index u",
		"CREATE TABLE more (id TEXT REFERENCES thing (id));":           "table more keeps rows of thing",
		"CREATE TRIGGER tr AFTER INSERT ON thing BEGIN SELECT 1; END;": "tr acts on",
		"UPDATE thing SET value = 'x';":                                "rows of thing change",
		"CREATE TABLE n (id TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (value <> '')); INSERT INTO n SELECT id, value FROM thing; DROP TABLE thing; ALTER TABLE n RENAME TO thing;":             "table thing is other",
		"ALTER TABLE thing ADD COLUMN more TEXT NOT NULL DEFAULT '' CHECK (more <> 'x'); CREATE TABLE other (id TEXT REFERENCES thing (id) ON DELETE CASCADE); CREATE INDEX i ON thing (value);": "",
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"0001_a.sql": "-- +goose Up\nCREATE TABLE thing (id TEXT PRIMARY KEY, value TEXT NOT NULL);\nCREATE TABLE child (id TEXT);\n",
			"0002_b.sql": "-- +goose Up\n-- +goose StatementBegin\n" + statements + "\n-- +goose StatementEnd\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db, err := sql.Open("sqlite", ":memory:")
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		files := os.DirFS(dir)
		p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range p.ListSources() {
			out = migrateOne(t, db, files, m)
		}
		if got := strings.Join(out, "; "); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s\nis %q, want %q", statements, got, want)
		}
		db.Close()
	}
}

// A copy is made before the file is migrated, and old ones are removed. Without
// room for it nothing is changed.
func TestMigrate_KeepsACopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	openAt(t, path, 25, `INSERT INTO meta (name, value) VALUES ('x', 'before')`)
	for _, old := range []string{".schema-3", ".schema-24", ".schema-25.partial"} {
		if err := os.WriteFile(path+old, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var from []Schema
	s, err := Open(t.Context(), Options{Path: path, Version: "0.5.0", Migrating: func(s Schema) { from = append(from, s) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(from) != 1 || from[0].Version != 25 {
		t.Errorf("migrating was told %+v", from)
	}
	if got := s.Schema(); got.Version != got.Known || got.Reader != reader {
		t.Errorf("schema %+v", got)
	}
	copies, err := dbfiles.Copies(path)
	if err != nil {
		t.Fatal(err)
	}
	var have []int64
	for _, c := range copies {
		have = append(have, c.Schema)
	}
	if diff := cmp.Diff([]int64{25, 24}, have); diff != "" {
		t.Error(diff)
	}
	db, err := sql.Open("sqlite", dsn(copies[0].Path, "query_only(1)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	old, err := readSchema(t.Context(), db)
	if value, e := (Reader{q: db}).Meta(t.Context(), "x"); err != nil || e != nil || old.Version != 25 || value != "before" {
		t.Errorf("the copy has schema %d and %q: %v %v", old.Version, value, err, e)
	}
	if info, err := os.Stat(copies[0].Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// O11: a file that a newer program has added to is opened, and stays as that left
// it. One that it says is not for this program is refused, with what to do.
func TestOpen_TakesANewerSchemaThatSaysSo(t *testing.T) {
	known, err := ours()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		reader  int64
		refused bool
	}{{reader, false}, {known.version, false}, {known.version + 1, true}, {0, true}} {
		path := filepath.Join(t.TempDir(), "a.db")
		s, err := Open(t.Context(), Options{Path: path, Version: "0.5.0"})
		if err != nil {
			t.Fatal(err)
		}
		if err = s.Close(); err != nil {
			t.Fatal(err)
		}
		if err = os.WriteFile(fmt.Sprintf("%s.schema-%d", path, known.version), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		tamper(t, path, fmt.Sprintf(`CREATE TABLE next (id TEXT); ALTER TABLE machine ADD COLUMN next TEXT NOT NULL DEFAULT '';
			INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, 1);
			UPDATE meta SET value = '%d' WHERE name = '%s'; UPDATE meta SET value = '0.9.0' WHERE name = '%s'`, known.version+7, tc.reader, metaReader, metaProgram))
		for _, readOnly := range []bool{false, true} {
			s, err := Open(t.Context(), Options{Path: path, ReadOnly: readOnly, Version: "0.5.0"})
			if tc.refused {
				wantCode(t, err, fleet.Conflict)
				if !strings.Contains(err.Error(), "0.9.0") || !strings.Contains(fleet.ErrorHint(err), ".schema-") {
					t.Errorf("%v; %s", err, fleet.ErrorHint(err))
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Schema(); got.Version != known.version+7 || got.Reader != tc.reader || got.Program != "0.9.0" {
				t.Errorf("schema %+v", got)
			}
			if !readOnly {
				write(t, s, func(tx *Tx) error { return seed(t.Context(), tx, "r1") })
			}
			if err = s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
