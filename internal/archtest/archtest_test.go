// SPDX-License-Identifier: MIT

// Package archtest holds the rules of ARCHITECTURE.md as tests: who may import
// whom, and why; sizes, licences, names. It has no code of its own.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/arcanesys/nixfleet/"

// rule says what packages below a folder must not import.
type rule struct {
	from   string   // folder, or "" for all
	except []string // folders below from that may
	never  func(imported string) bool
	why    string
}

func below(prefixes ...string) func(string) bool {
	return func(imported string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool {
			return imported == module+p || strings.HasPrefix(imported, module+p+"/")
		})
	}
}

// above is every package of the control plane but those named.
func above(allowed ...string) func(string) bool {
	controlPlane := below("controlplane")
	return func(imported string) bool {
		return controlPlane(imported) && !slices.Contains(allowed, strings.TrimPrefix(imported, module+"controlplane/"))
	}
}

func is(paths ...string) func(string) bool {
	return func(imported string) bool { return slices.Contains(paths, imported) }
}

func notStd(allowed ...string) func(string) bool {
	return func(imported string) bool {
		first, _, _ := strings.Cut(imported, "/")
		return strings.Contains(first, ".") && !slices.Contains(allowed, imported)
	}
}

var rules = []rule{
	{"fleet", nil, notStd(), "the nouns are for everybody, so they need nobody"},
	{"api", nil, notStd(module+"fleet", "github.com/cenkalti/backoff/v5"), "the contract must be usable by any client, and cost it nothing; backoff, which the agent has too, needs the standard library only"},
	{"internal/trust", nil, is("os", "net", "net/http", "database/sql", "crypto/rand"), "what decides on trust is pure: no I/O, no clock, no chance"},
	{"internal/trust", nil, notStd(module+"fleet", module+"internal/trust"), "the verifier stands on the nouns only"},
	{"controlplane/rollout", nil, is("os", "net", "net/http", "database/sql", "math/rand", "math/rand/v2", "crypto/rand"), "the engine is pure: time, chance and world are parameters"},
	{"controlplane/rollout", nil, notStd(module+"fleet", module+"api"), "the engine knows nouns and contract, no store and no transport"},
	{"", []string{"controlplane/store"}, is("database/sql"), "all SQL is in one folder, so that it can be read and ported"},
	{"", []string{"internal/proc"}, is("os/exec"), "one place starts programs: with a limit of time and output, and a group to end"},
	{"", []string{"controlplane", "cmd/nixfleet-control-plane", "test"}, below("controlplane"), "agent, CLI and testbed are MIT and speak to the control plane by its API"},
	{"controlplane/store", nil, above("store", "paging", "diskspace", "dbfiles"), "the store keeps; it does not decide"},
	{"controlplane/loop", nil, above("rollout", "store"), "the loop carries the rooms, so it knows none of them"},
	{"controlplane", []string{"controlplane/plane", "controlplane/server", "controlplane/program"}, below("controlplane/plane"), "the use cases stand on the rooms"},
	{"controlplane", []string{"controlplane/server", "controlplane/program"}, below("controlplane/server"), "use cases know no transport"},
	{"controlplane", []string{"controlplane/server", "controlplane/program", "controlplane/wire", "controlplane/gates", "controlplane/guard", "controlplane/webhook", "controlplane/ending"}, is("net/http"), "use cases know no transport; gates, which asks others, has one of its own"},
	{"internal/agent", nil, below("internal/cli", "internal/testbed", "internal/demo"), "the agent runs on machines that have none of this"},
	{"internal/proc", nil, below("internal", "api", "controlplane"), "programs are started the same way for everybody"},
}

// source is a Go file of the repository.
type source struct {
	path string // from the root, with slashes
	file *ast.File
	fset *token.FileSet
	text string
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// walk calls f for every file of the repository that git would keep.
func walk(t *testing.T, f func(path, text string)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, top+string(filepath.Separator)))
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "vendor", "node_modules", "testdata"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasSuffix(rel, ".test") || rel == ".git" {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f(rel, string(b))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	walk(t, func(p, text string) {
		if !strings.HasSuffix(p, ".go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, source{p, f, fset, text})
	})
	if len(out) < 20 {
		t.Fatalf("found %d Go files: the walk is broken", len(out))
	}
	return out
}

func in(path, folder string) bool {
	return folder == "" || path == folder || strings.HasPrefix(path, folder+"/")
}

func TestImports_FollowTheDirectionOfTheArchitecture(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue // tests may look from outside
		}
		for _, i := range s.file.Imports {
			imported := strings.Trim(i.Path.Value, `"`)
			for _, r := range rules {
				if in(s.path, r.from) && r.never(imported) && !slices.ContainsFunc(r.except, func(e string) bool { return in(s.path, e) }) {
					t.Errorf("%s imports %s: %s", s.path, imported, r.why)
				}
			}
		}
	}
}

// pure are the packages that get the time as a parameter.
var pure = []string{"fleet", "internal/trust", "controlplane/rollout", "internal/agent/states"}

func TestPurePackages_ReadNoClock(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
	for _, s := range sources(t) {
		if s.test() || !slices.ContainsFunc(pure, func(p string) bool { return filepath.ToSlash(filepath.Dir(s.path)) == p }) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && fmt.Sprint(sel.X) == "time" && slices.Contains(clock, sel.Sel.Name) {
				t.Errorf("%s uses time.%s: what decides is pure, time is a parameter", s.fset.Position(n.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
}

const (
	maxFileLines    = 500
	maxFuncLines    = 60
	maxPackageLines = 3000
)

func TestSizes_StayReadable(t *testing.T) {
	packages := map[string]int{}
	longestFile, longestFunc := 0, 0
	walk(t, func(p, text string) {
		n := strings.Count(text, "\n")
		kind := filepath.Ext(p)
		if slices.Contains([]string{".go", ".nix", ".sh", ".sql", ".css"}, kind) && n > maxFileLines {
			t.Errorf("%s has %d lines; the limit is %d", p, n, maxFileLines)
		}
		if kind == ".go" && !strings.HasSuffix(p, "_test.go") {
			packages[filepath.ToSlash(filepath.Dir(p))] += codeLines(text)
			longestFile = max(longestFile, n)
		}
	})
	for p, n := range packages {
		if n > maxPackageLines {
			t.Errorf("package %s has %d lines of code; the limit is %d: a noun is missing", p, n, maxPackageLines)
		}
	}
	all := sources(t)
	for _, s := range all {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil || s.test() {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if longestFunc = max(longestFunc, n); n > maxFuncLines {
				t.Errorf("%s: func %s has %d lines; the limit is %d", s.path, f.Name.Name, n, maxFuncLines)
			}
		}
	}
	writeFigures(t, "sizes.json", map[string]any{"maxFileLines": longestFile, "maxFuncLines": longestFunc, "imports": importsOfAgent(all)})
}

// codeLines counts the lines that are neither empty nor a comment.
func codeLines(text string) int {
	n := 0
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "//") {
			n++
		}
	}
	return n
}

// What the store's folder lets its packages do, run a statement, nobody else does.
func TestStatements_AreInTheStoresFolder(t *testing.T) {
	statement := regexp.MustCompile("^[`\"]\\s*(SELECT [a-z0-9_.,*() ]+ FROM|INSERT INTO|UPDATE [a-z_]+ SET|DELETE FROM|WITH [a-z_]+ AS) ")
	found := 0
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING || !statement.MatchString(lit.Value) {
				return true
			}
			if found++; !in(s.path, "controlplane/store") {
				t.Errorf("%s has a statement of its own: all SQL is in one folder, so that it can be read and ported", s.fset.Position(lit.Pos()))
			}
			return true
		})
	}
	if found < 50 {
		t.Errorf("found %d statements: the search is broken", found)
	}
}

func TestLicences_StandInEverySourceFile(t *testing.T) {
	kinds := []string{".go", ".nix", ".sh", ".sql", ".css", ".js"}
	walk(t, func(p, text string) {
		if !slices.Contains(kinds, filepath.Ext(p)) && filepath.Base(p) != "Makefile" && p != ".ci/run" {
			return
		}
		want := "SPDX-License-Identifier: MIT"
		if in(p, "controlplane") || in(p, "cmd/nixfleet-control-plane") {
			want = "SPDX-License-Identifier: AGPL-3.0-only"
		}
		lines := strings.SplitN(text, "\n", 3)
		if !strings.Contains(strings.Join(lines[:min(2, len(lines))], "\n"), want) {
			t.Errorf("%s: its first lines must have %q", p, want)
		}
	})
}

func TestPackages_SayWhatTheyAreFor(t *testing.T) {
	doc := map[string]string{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		name := s.file.Name.Name
		if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "misc", "shared", "base"}, name) {
			t.Errorf("%s: a package named %s has no noun", s.path, name)
		}
		dir := filepath.Dir(s.path)
		if _, ok := doc[dir]; !ok {
			doc[dir] = ""
		}
		if s.file.Doc != nil {
			doc[dir] += s.file.Doc.Text()
		}
	}
	for dir, text := range doc {
		if !strings.HasPrefix(text, "Package ") && !strings.HasPrefix(text, "Program ") {
			t.Errorf("package in %s does not say what it is for", dir)
		}
	}
}

// Words that would tie the repository to one machine or to the way it is made.
// They are put together here, so that this file does not hold them either.
var forbidden = regexp.MustCompile(`(^|[^A-Za-z0-9_.])(` + strings.Join([]string{
	"/wo" + "rk/", "/root/tr" + "ees", `\.\./sha` + "red", "TO" + "DO", "FIX" + "ME", "XX" + "X",
}, "|") + `)`)

func TestText_HoldsNothingOfOneMachine(t *testing.T) {
	walk(t, func(p, text string) {
		if filepath.Base(p) == "go.sum" || strings.HasPrefix(p, "LICENSE") {
			return
		}
		for i, l := range strings.Split(text, "\n") {
			if m := forbidden.FindString(l); m != "" {
				t.Errorf("%s:%d holds %q", p, i+1, strings.TrimSpace(m))
			}
		}
	})
}

// In a package whose tests run in synctest bubbles a sleep is a step of the fake
// clock, and helpers of theirs may take one.
func TestTests_NeverSleepToWait(t *testing.T) {
	all := sources(t)
	bubbles := map[string]bool{}
	for _, s := range all {
		if s.test() && strings.Contains(s.text, `"testing/synctest"`) {
			bubbles[filepath.Dir(s.path)] = true
		}
	}
	for _, s := range all {
		if !s.test() {
			continue
		}
		synctest := bubbles[filepath.Dir(s.path)]
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && fmt.Sprint(sel.X) == "time" && sel.Sel.Name == "Sleep" && !synctest {
				t.Errorf("%s sleeps; wait on a condition, or use testing/synctest", s.fset.Position(call.Pos()))
			}
			return true
		})
	}
}

// covered are the hard cases that the product answers to by now. Each must be
// named by a test.
var covered = strings.Fields("H01 H02 H03 H04 H05 H06 H07 H08 H09 H10 H11 H12 H13 H14 H15 H16 H17 H18 H19 H20 " +
	"A01 A02 A03 A04 A05 A06 A07 A08 A09 A10 A11 A12 A13 A14 A16 A17 A18 E01 E02 E03 E04 E05 E06 E07 E08 E09 E10 E12 O11 O12")

func TestHardCases_HaveTestsThatNameThem(t *testing.T) {
	named := map[string]bool{}
	walk(t, func(p, text string) {
		if strings.HasSuffix(p, "_test.go") && !in(p, "internal/archtest") || in(p, "test") {
			for _, c := range regexp.MustCompile(`\b[HAEO][0-2][0-9]\b`).FindAllString(text, -1) {
				named[c] = true
			}
		}
	})
	for _, c := range covered {
		if !named[c] {
			t.Errorf("no test names the hard case %s", c)
		}
	}
}

func TestArchitecture_NamesEveryFolder(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.ToSlash(filepath.Dir(s.path))
		if seen[dir] || s.test() {
			continue
		}
		seen[dir] = true
		if !strings.Contains(string(b), dir+"`") && !strings.Contains(string(b), dir+"/") {
			t.Errorf("ARCHITECTURE.md does not name %s", dir)
		}
	}
}
