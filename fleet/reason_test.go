// SPDX-License-Identifier: MIT

package fleet_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// The list is closed: a constant that Valid does not know could not be stored
// or read back.
func TestReason_EveryConstantIsValidAndUnique(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, v := range spec.Values {
			s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if seen[s] || !kebab.MatchString(s) || !fleet.Reason(s).Valid() {
				t.Errorf("%s = %q: twice, not in kebab case, or not in Valid", spec.Names[0], s)
			}
			seen[s] = true
		}
		return true
	})
	if len(seen) < 30 {
		t.Errorf("found %d reasons", len(seen))
	}
	if fleet.Reason("").Valid() || fleet.Reason("other").Valid() {
		t.Error("an unknown reason is valid")
	}
}
