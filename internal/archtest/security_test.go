// SPDX-License-Identifier: MIT

package archtest

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)`")

// What SECURITY.md claims, a test that exists holds. Each holder has its four lines,
// and each line names a test, or says that there is none; what to do names a command
// or a test.
func TestSecurity_NamesTestsThatExist(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root(t), "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	exists := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				exists[f.Name.Name] = true
			}
		}
	}
	named := testName.FindAllStringSubmatch(text, -1)
	if len(named) < 50 {
		t.Errorf("found %d tests in SECURITY.md: the search is broken, or the claims have none", len(named))
	}
	for _, m := range named {
		if !exists[m[1]] {
			t.Errorf("SECURITY.md names %s, which no file has", m[1])
		}
	}
	_, matrix, ok := strings.Cut(text, "## Who holds what")
	if !ok {
		t.Fatal("SECURITY.md does not say who holds what")
	}
	matrix, _, _ = strings.Cut(matrix, "\n## ")
	for _, part := range strings.Split(matrix, "\n### ")[1:] {
		holder, lines, _ := strings.Cut(part, "\n")
		var kinds []string
		for line := range strings.Lines(lines) {
			item, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
			if !ok {
				continue
			}
			kind, claim, _ := strings.Cut(item, ":")
			kind, _, _ = strings.Cut(kind, ",")
			kinds = append(kinds, kind)
			command := kind == "do" && (strings.Contains(claim, "`nixfleet") || strings.Contains(claim, "see there") || strings.Contains(claim, "set the clock"))
			if !testName.MatchString(claim) && !strings.Contains(claim, "not tested") && !command {
				t.Errorf("SECURITY.md, %s: %q names no test", holder, item)
			}
		}
		if !slices.Equal(kinds, []string{"can", "cannot", "noticed by", "do"}) {
			t.Errorf("SECURITY.md, %s: has %v", holder, kinds)
		}
	}
}
