// SPDX-License-Identifier: MIT

package archtest

import (
	"go/ast"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// One table has each error code: those that the source uses, that fleet declares
// and lists, and whose HTTP status api knows. docs/reference and the OpenAPI
// document are written from it.
func TestErrorCodes_AreThoseOfTheTable(t *testing.T) {
	declared := map[string]bool{}
	all := sources(t)
	for _, s := range all {
		if s.path != "fleet/errors.go" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				if kind, ok := v.Type.(*ast.Ident); ok && kind.Name == "Code" {
					declared[v.Names[0].Name] = true
					word := strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)
					if !slices.Contains(fleet.Codes[:], fleet.Code(word)) {
						t.Errorf("fleet.Codes lacks %s", v.Names[0].Name)
					}
				}
			}
			return true
		})
	}
	if len(declared) != len(fleet.Codes) || len(declared) < 10 {
		t.Errorf("fleet declares %d codes and lists %d", len(declared), len(fleet.Codes))
	}
	for _, c := range fleet.Codes {
		status := api.Status(c)
		if (status == http.StatusInternalServerError) != (c == fleet.Internal) {
			t.Errorf("code %s has status %d", c, status)
		}
		if c.Temporary() != (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
			t.Errorf("code %s with status %d: temporary is %t", c, status, c.Temporary())
		}
	}
	uses := 0
	for _, s := range all {
		if s.test() || filepath.Dir(s.path) == "fleet" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			code := codeIn(n)
			if code == nil {
				return true
			}
			uses++
			if sel, ok := code.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "fleet" && !declared[sel.Sel.Name] {
					t.Errorf("%s: fleet has no code %s", s.fset.Position(code.Pos()), sel.Sel.Name)
				}
			}
			if _, ok := code.(*ast.BasicLit); ok {
				t.Errorf("%s: a code is written out; use that of fleet", s.fset.Position(code.Pos()))
			}
			return true
		})
	}
	if uses < 300 {
		t.Errorf("found %d errors with codes: the search is broken", uses)
	}
}

// codeIn is the code of an error that an expression makes, or nil.
func codeIn(n ast.Node) ast.Expr {
	is := func(e ast.Expr, name string) bool {
		sel, ok := e.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != name {
			return false
		}
		x, ok := sel.X.(*ast.Ident)
		return ok && x.Name == "fleet"
	}
	switch n := n.(type) {
	case *ast.CallExpr:
		if is(n.Fun, "Errorf") || is(n.Fun, "Code") {
			return n.Args[0]
		}
	case *ast.CompositeLit:
		if n.Type == nil || !is(n.Type, "Error") {
			return nil
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Code" {
					return kv.Value
				}
			}
		}
	}
	return nil
}
