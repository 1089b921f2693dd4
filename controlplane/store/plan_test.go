// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// reads are statements that read a whole table or index, by how they begin, and
// why they may.
var reads = map[string]string{
	"SELECT name FROM sqlite_master": "a row a table",
	"SELECT count(*) FROM machine":   "a row a machine, for a backup",
	"SELECT m.id, m.lifecycle,":      "a row a machine, at the start",
	"SELECT id, owner, role,":        "operators' keys are few",
	"SELECT machine_id, rollout_id, line, at, tries, silent, wait_until FROM catch_up": "a row a machine that has to catch up, at the start",
	"SELECT machine_id, rollout_id FROM claim":                                         "a row a claimed machine, when a rollout begins",
	"SELECT id, spec, state, why, batch, machines, created_at, created_by, started_at, ended_at, progress_at, acknowledged, wake_at, version, progress_run, approved, approved_by " +
		"FROM rollout WHERE state IN ('scheduled', 'running', 'paused', 'reverting') OR id IN": "a row a claimed machine, at the start",
	"SELECT name, spec, created_at, created_by FROM rollout_policy ORDER BY":                                             "policies are few",
	"SELECT name, cron, policy, line, tolerance_ms,":                                                                     "schedules are few",
	"SELECT name, selector, max, created_at,":                                                                            "budgets are few",
	"SELECT state, COUNT(*) FROM rollout":                                                                                "a row of an index for each rollout that is kept",
	"SELECT machine_id, MAX(not_after) FROM certificate":                                                                 "a few rows a machine",
	"SELECT 'rollout ' || id":                                                                                            "a row a claimed machine, when a release is deleted",
	"SELECT digest, header, registered_at, registered_by FROM release WHERE EXISTS":                                      "releases are few, and have an index of their machines",
	"SELECT digest, header, registered_at, registered_by FROM release WHERE digest IN (SELECT digest FROM release_line)": "a row a line",
	"SELECT seq, body, hash FROM audit WHERE seq > $1 AND at + 0 >":                                                      "from the time that is asked for on",
	"SELECT seq, body, hash FROM audit WHERE seq > $1 AND seq < $2 AND at + 0":                                           "between the times that are asked for",
	"SELECT seq, body FROM machine_report WHERE applied = 0":                                                             "the index has only those that wait",
	"UPDATE assignment SET healthy_run":                                                                                  "the index has only what it changes",
	"DELETE FROM event WHERE id IN":                                                                                      "what it deletes",
	"DELETE FROM machine_report WHERE seq IN":                                                                            "what it deletes, and reports that wait",
	"SELECT digest FROM release WHERE registered_at":                                                                     "releases are few, and this is looked for every hour",
	"DELETE FROM certificate WHERE not_after <":                                                                          "what it deletes, and a row a machine",
	"UPDATE certificate SET answer = '' WHERE":                                                                           "what it changes",
}

// recorder notes the statements that reach the store.
type recorder struct {
	querier
	seen map[string][]any
}

func (r recorder) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	r.seen[query] = args
	return r.querier.ExecContext(ctx, query, args...)
}

func (r recorder) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	r.seen[query] = args
	return r.querier.QueryContext(ctx, query, args...)
}

// Each statement that the store can make finds its rows by an index: what it
// costs does not grow with what is kept. The statements are those that the
// methods of Tx make, called with each set of filters and with and without a
// cursor; the source is searched for any that this misses.
func TestStatements_FindRowsByAnIndex(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	write(t, s, func(tx *Tx) error {
		return errors.Join(seed(t.Context(), tx, "r1"), tx.AddAudit(t.Context(), fleet.AuditEvent{At: 1000})) // the clock steps back then
	})
	rec := recorder{seen: map[string][]any{}}
	undo := errors.New("undo")
	kind := reflect.TypeFor[*Tx]()
	for i := range kind.NumMethod() {
		for _, args := range arguments(kind.Method(i).Type) {
			err := s.Write(t.Context(), func(tx *Tx) error {
				rec.querier = tx.q
				tx.q = rec
				call := kind.Method(i).Func.Call
				if kind.Method(i).Type.IsVariadic() {
					call = kind.Method(i).Func.CallSlice
				}
				call(append([]reflect.Value{reflect.ValueOf(tx), reflect.ValueOf(t.Context())}, args...)) // an error has made its statement too
				return undo
			})
			if !errors.Is(err, undo) {
				t.Fatalf("%s: %v", kind.Method(i).Name, err)
			}
		}
	}
	if err := s.Write(t.Context(), func(tx *Tx) error { // its own statement, at the start
		rec.querier, tx.q = tx.q, rec
		second := tx.AddAudit(t.Context(), fleet.AuditEvent{At: 1000})
		_, failed := tx.CutAudit(t.Context(), math.MaxInt64, 10) // of an entry that is old
		return errors.Join(tx.measureHealthy(t.Context()), second, failed, undo)
	}); !errors.Is(err, undo) {
		t.Fatal(err)
	}
	rec.querier = s.reads
	if _, err := readSchema(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := (Reader{q: rec}).lookAtAudit(t.Context(), fleet.AuditHead{}); err != nil {
		t.Fatal(err)
	}
	checkPlans(t, s, rec.seen, "*.go", reads)
}

// CheckPlans has do make each statement of the files that match a pattern: they find
// their rows by an index, but for those that begin as one of allowed.
func CheckPlans(t *testing.T, s *Store, pattern string, allowed map[string]string, do func(tx *Tx)) {
	t.Helper()
	rec, undo := recorder{seen: map[string][]any{}}, errors.New("undo")
	if err := s.Write(t.Context(), func(tx *Tx) error {
		rec.querier = tx.q
		tx.q = rec
		do(tx)
		return undo
	}); !errors.Is(err, undo) {
		t.Fatal(err)
	}
	checkPlans(t, s, rec.seen, pattern, allowed)
}

func checkPlans(t *testing.T, s *Store, seen map[string][]any, pattern string, allowed map[string]string) {
	t.Helper()
	unused := maps.Clone(allowed)
	for query, args := range seen {
		if strings.HasPrefix(query, "PRAGMA") {
			continue
		}
		text := strings.Join(strings.Fields(query), " ")
		plan, err := list(t.Context(), s.writer, func(r row) (line string, err error) {
			var a, b, c int
			return line, r.Scan(&a, &b, &c, &line)
		}, "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		line := scanIn(text, plan)
		if line == "" {
			continue
		}
		if i := slices.IndexFunc(slices.Collect(maps.Keys(allowed)), func(begin string) bool { return strings.HasPrefix(text, begin) }); i < 0 {
			t.Errorf("%s\n\treads what it does not select: %s\n\tin %q", text, line, plan)
		}
		maps.DeleteFunc(unused, func(begin, _ string) bool { return strings.HasPrefix(text, begin) })
	}
	for begin := range unused {
		t.Errorf("no statement begins so and scans: %s", begin)
	}
	for _, missed := range literals(t, seen, pattern) {
		t.Errorf("no call makes the statement %s", missed)
	}
}

var (
	rangeOnly = regexp.MustCompile(`^SEARCH [^=]* \([^=]*\)$`)
	calls     = regexp.MustCompile(` (ORDER|LIMIT|GROUP|RETURNING) `)
)

// scanIn returns a line of a plan by which more is read than selected, or "".
func scanIn(text string, plan []string) string {
	_, where, _ := strings.Cut(text, " WHERE ")
	where = calls.Split(where, 2)[0]
	sorted := slices.ContainsFunc(plan, func(l string) bool { return strings.HasPrefix(l, "USE TEMP B-TREE FOR ORDER BY") })
	for _, line := range plan {
		switch {
		case line == "SCAN CONSTANT ROW", strings.HasSuffix(line, "VALUES CLAUSE"):
		case slices.Contains(plan, "CO-ROUTINE "+strings.TrimPrefix(line, "SCAN ")): // its own lines say what it reads
		case strings.HasPrefix(line, "SCAN"):
			// In the order of an index until the limit is reached, it selects all.
			if where != "" || sorted || !strings.Contains(text, " LIMIT ") {
				return line
			}
		case rangeOnly.MatchString(line) && strings.Contains(where, " AND "):
			return line // the range is that of the page; the rest selects by looking
		}
	}
	return ""
}

// cursors are the keys of all kinds of pages.
var cursors = []string{"", `7`, `"x"`, `{"at":7,"id":"x"}`}

// arguments are sets of arguments for a method, after its receiver and context,
// whose fields are all set. Of a filter each set of fields comes, of a page each
// cursor.
func arguments(method reflect.Type) [][]reflect.Value {
	sets := [][]reflect.Value{nil}
	for i := 2; i < method.NumIn(); i++ {
		var next [][]reflect.Value
		for _, v := range values(method.In(i)) {
			for _, set := range sets {
				next = append(next, append(slices.Clone(set), v))
			}
		}
		sets = next
	}
	return sets
}

func values(kind reflect.Type) []reflect.Value {
	full := reflect.New(kind).Elem()
	fill(full, 0)
	switch {
	case kind == reflect.TypeFor[fleet.PageRequest]():
		var pages []reflect.Value
		for _, c := range cursors {
			p := fleet.PageRequest{Limit: 7}
			if c != "" {
				p.Cursor = base64.RawURLEncoding.EncodeToString([]byte(c))
			}
			pages = append(pages, reflect.ValueOf(p))
		}
		return pages
	case strings.HasSuffix(kind.Name(), "Filter"):
		var filters []reflect.Value
		for set := range 1 << kind.NumField() {
			v := reflect.New(kind).Elem()
			v.Set(full)
			for i := range kind.NumField() {
				if set&(1<<i) == 0 {
					v.Field(i).SetZero()
				}
			}
			filters = append(filters, v)
		}
		return filters
	}
	return []reflect.Value{full}
}

func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("web-01")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() && depth < 6 {
				fill(v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(elem, depth+1)
		v.SetMapIndex(key, elem)
	default:
	}
}

var verb = regexp.MustCompile(`^\s*(SELECT|INSERT INTO|UPDATE|DELETE|WITH) `)

// literals returns the statements, or their beginnings, in the source that matches a
// pattern, that were not seen.
func literals(t *testing.T, seen map[string][]any, pattern string) []string {
	t.Helper()
	var all strings.Builder
	for query := range seen {
		fmt.Fprintln(&all, strings.Join(strings.Fields(query), " "))
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var missed []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if verb.MatchString(text) && !strings.Contains(all.String(), strings.Join(strings.Fields(text), " ")) {
				missed = append(missed, name+": "+text)
			}
			return true
		})
	}
	return missed
}
