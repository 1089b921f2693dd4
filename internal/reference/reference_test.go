// SPDX-License-Identifier: MIT

// Package reference writes docs/reference from the source and from the
// programs themselves: commands, settings, states and reasons. Its tests fail
// when a page is stale, and write it anew with -update.
//
// It has no code of its own, and adds nothing to what the source says.
package reference

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the reference anew")

const (
	top  = "../.."
	head = "<!-- Written by `make generate` from the source: change it there. -->\n"
)

// pages are written by this package; what is their line in the index.
var pages = []struct{ name, title, what string }{
	{"cli.md", "nixfleet", "every command, its flags and examples, exit codes"},
	{"configuration.md", "Configuration", "every setting of agent.toml, control-plane.toml and nixfleet.toml"},
	{"reasons.md", "States, outcomes and reasons", "the words that the API, the CLI and the audit trail use"},
}

// golden compares a page with what it should be.
func golden(t *testing.T, name, want string) {
	t.Helper()
	file := filepath.Join(top, "docs", "reference", name)
	want = head + want
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make generate writes it", err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("docs/reference/%s is stale; make generate writes it anew (-want +got):\n%s", name, d)
	}
}

func TestIndex_ListsThePages(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Reference\n\nComplete but terse; the [guide](../guide) explains. Every page is written from the source, and a test fails when one is stale.\n\n")
	for _, p := range pages {
		b.WriteString("- [" + p.title + "](" + p.name + "): " + p.what + "\n")
	}
	b.WriteString("- [API](openapi.json): the operators' API as OpenAPI 3.1\n- [Access](access.md): who may do what with the API, by role and tags\n- [Options](options): every option of the NixOS and nix-darwin modules\n")
	golden(t, "README.md", b.String())
}

// source parses the Go files of a folder, tests left out.
func source(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(top, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), n, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// sentence is a comment as running text.
func sentence(groups ...*ast.CommentGroup) string {
	var words []string
	for _, g := range groups {
		words = append(words, strings.Fields(g.Text())...)
	}
	return strings.Join(words, " ")
}

// cell is a text in a table of Markdown.
func cell(s string) string {
	if s == "" {
		return " "
	}
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}

func row(cells ...string) string {
	for i, c := range cells {
		cells[i] = cell(c)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}
