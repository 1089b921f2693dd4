// SPDX-License-Identifier: MIT

package archtest

import (
	"fmt"
	"go/ast"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// retired are phrases that docs/glossary.md has other words for, and riddles.
// Line breaks of comments and prose count as blanks.
var retired = []struct{ phrase, instead string }{
	{`(go|goes|going|went|gone) back\b`, "roll back, or revert if it was ordered"},
	{`(come|comes|coming|came) back\b`, "rolled back; of a connection: reconnects; of a machine: is online again"},
	{`(take|takes|taking|took|taken|bring|brings|brought) (it|them|machines?|the machines?|[a-z]+ machines?|that|this|him)? ?back\b`, "roll back, revert; of an offer: withdraw"},
	{`(ordered|order|orders) (it|them|[a-z]+)? ?back\b`, "revert"},
	{`\bway back\b`, "rolling back"},
	{`\bcomebacks?\b`, "reconnected"},
	{`\b(makes?|made|making) no sense\b`, "say what is invalid"},
	{`\bsince ever\b`, "never seen"},
	{`\bbuys? (a|the|its) .{0,20}certificate`, "exchange a token for"},
	{`\bliving (name|machine)`, "in use, enrolled"},
	{`\bbelongs? into\b`, "belong in"},
	{`\b(is|are) no right\b|\bgives? (a|no|anyone a) right\b`, "grants no authority"},
	{`\bback-switch\b|\bgoBack\b|\bbackAgain\b`, "rollback"},
	{`\b(blame|nudge|glance|patience)\b`, "cause, wake, interval, deadline"},
	{`\bpostings?\b`, "assignment, outbox item"},
	{`\bthe bell\b|\brings? the\b`, "notify"},
}

// retiredNames are identifiers that meant two things, or that only their author
// understood.
var retiredNames = strings.Fields(`board posting postings bell blame culprit nudge aside glance bring conclude those patience
	turn comeback comebacks comeBack welcome nap latePlane`)

// predeclared are names of the language that a reader takes for what they are.
var predeclared = strings.Fields(`any bool byte comparable complex64 complex128 error float32 float64 int int8 int16 int32 int64
	rune string uint uint8 uint16 uint32 uint64 uintptr true false iota nil append cap clear close complex copy delete imag
	len make max min new panic print println real recover`)

// holdsRetiredWords are the files that name the words, to tell of them.
var holdsRetiredWords = []string{"internal/archtest/words_test.go", "docs/glossary.md"}

// prose joins what a reader reads as one sentence: line breaks with the
// comment marks behind them become blanks. Lines counts where each byte lies.
var lineBreaks = regexp.MustCompile(`[ \t]*\n[ \t]*(//|#|--|\*)?[ \t]*`)

// findRetired returns the places of retired phrases in a text, as line:phrase.
func findRetired(text string) []string {
	var found []string
	flat := lineBreaks.ReplaceAllString(text, "\x00 ")
	for _, r := range retired {
		// A break may stand where the phrase has a blank.
		re := regexp.MustCompile(`(?i)` + strings.ReplaceAll(r.phrase, " ", "\x00? "))
		for _, at := range re.FindAllStringIndex(flat, -1) {
			line := 1 + strings.Count(flat[:at[0]], "\x00")
			found = append(found, fmt.Sprintf("%d: %q: %s", line, strings.ReplaceAll(flat[at[0]:at[1]], "\x00", ""), r.instead))
		}
	}
	return found
}

func wordsOfRepository(t *testing.T) (found []string) {
	t.Helper()
	walk(t, func(p, text string) {
		kinds := []string{".go", ".md", ".nix", ".sh", ".txt", ".txtar", ".toml", ".json", ""}
		if strings.HasPrefix(p, "LICENSE") || slices.Contains(holdsRetiredWords, p) || !slices.Contains(kinds, filepath.Ext(p)) {
			return
		}
		for _, f := range findRetired(text) {
			found = append(found, p+":"+f)
		}
	})
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, id := range declared(n) {
				switch {
				case slices.Contains(retiredNames, id.Name):
					found = append(found, fmt.Sprintf("%s: the name %s is retired", s.position(id), id.Name))
				case slices.Contains(predeclared, id.Name):
					found = append(found, fmt.Sprintf("%s: %s is a name of the language", s.position(id), id.Name))
				}
			}
			return true
		})
	}
	return found
}

func (s source) position(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// declared are the names that a node declares. Methods and fields are not
// mistaken for names of the language, and a name of theirs is still a word.
func declared(n ast.Node) []*ast.Ident {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Recv == nil {
			return []*ast.Ident{n.Name}
		}
		if slices.Contains(retiredNames, n.Name.Name) {
			return []*ast.Ident{n.Name}
		}
	case *ast.FuncType:
		var out []*ast.Ident
		for _, list := range []*ast.FieldList{n.Params, n.Results, n.TypeParams} {
			if list == nil {
				continue
			}
			for _, f := range list.List {
				out = append(out, f.Names...)
			}
		}
		return out
	case *ast.TypeSpec:
		return []*ast.Ident{n.Name}
	case *ast.ValueSpec:
		return n.Names
	case *ast.StructType:
		var out []*ast.Ident
		for _, f := range n.Fields.List {
			for _, id := range f.Names {
				if slices.Contains(retiredNames, id.Name) {
					out = append(out, id)
				}
			}
		}
		return out
	case *ast.AssignStmt:
		if n.Tok.String() == ":=" {
			return idents(n.Lhs)
		}
	case *ast.RangeStmt:
		if n.Tok.String() == ":=" {
			return idents([]ast.Expr{n.Key, n.Value})
		}
	}
	return nil
}

func idents(list []ast.Expr) (out []*ast.Ident) {
	for _, e := range list {
		if id, ok := e.(*ast.Ident); ok {
			out = append(out, id)
		}
	}
	return out
}

func TestWords_RetiredOnesStayOut(t *testing.T) {
	found := wordsOfRepository(t)
	writeFigures(t, "words.json", found)
	for _, f := range found {
		t.Error(f)
	}
}

// The test above would find each of them.
func TestWords_AreFoundAlsoOverALineBreak(t *testing.T) {
	for text, want := range map[string]int{
		"it goes\n// back":                            1,
		"x\n\t# the machine was taken\n\t# back":      1,
		"the agent takes machines back":               1,
		"takes it back by itself":                     1,
		"the value is returned":                       0,
		"comes\nback":                                 1,
		"that makes\n// no sense":                     1,
		"roll back, rolled back, rolling back":        0,
		"offline since ever":                          1,
		"feedback; go backwards; backup":              0,
		"the keyboard and the dashboard":              0,
		"a failing machine is reverted by order, too": 0,
	} {
		if got := findRetired(text); len(got) != want {
			t.Errorf("%q: found %v, want %d", text, got, want)
		}
	}
}
