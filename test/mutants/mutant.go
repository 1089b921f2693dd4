// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// mutant is one refusal weakened.
type mutant struct {
	Name string // file:function#place:kind
	Dir  string // of the package
	Line int    // of its file
	id   string // what turns it on
}

// edit inserts text into a file.
type edit struct {
	file string // relative to the module
	at   int    // offset
	text string
	last bool // after other edits at this place
}

// finder makes the mutants of the audited packages.
type finder struct {
	*rule
	audits  func(file string) bool
	mutants []mutant
	edits   []edit
	seen    map[ast.Node]bool // guards that have their mutants
	places  map[string]int    // by file and function
}

// find returns the mutants of the files that audits names, in the order of the
// source, and the edits that compile them all.
func find(r *rule, audits func(file string) bool) ([]mutant, []edit) {
	f := &finder{rule: r, audits: audits, seen: map[ast.Node]bool{}, places: map[string]int{}}
	f.findDeciding()
	for _, fn := range f.functions {
		if !audits(f.file(fn.decl)) {
			continue
		}
		for _, s := range fn.returns {
			switch {
			case f.refusing(fn, s):
				f.mutateReturn(fn, s)
			case f.deciding(fn):
				f.mutateDecision(fn, s)
			}
		}
	}
	return f.mutants, f.edits
}

// deciding reports whether a function, or the one around a literal, decides about
// refusals.
func (f *finder) deciding(fn *function) bool {
	obj, _ := fn.unit.info.Defs[fn.decl.Name].(*types.Func)
	return f.decides[obj] && lastIsBool(fn.sig)
}

func lastIsBool(sig *types.Signature) bool {
	n := sig.Results().Len()
	return n > 0 && types.Identical(sig.Results().At(n-1).Type(), types.Typ[types.Bool])
}

// findDeciding follows the calls in guards.
func (f *finder) findDeciding() {
	for more := true; more; {
		more = false
		for _, fn := range f.functions {
			if !f.audits(f.file(fn.decl)) {
				continue
			}
			for _, s := range fn.returns {
				if !f.refusing(fn, s) && !f.deciding(fn) {
					continue
				}
				conditions, _ := f.guard(s)
				if !f.refusing(fn, s) {
					conditions = append(conditions, s.Results...)
				}
				for _, c := range conditions {
					more = f.follow(fn, c) || more
				}
			}
		}
	}
}

// follow notes the functions that a condition calls, or whose results it has.
func (f *finder) follow(fn *function, condition ast.Expr) (found bool) {
	visit := func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		callee := calleeOf(fn.unit.info, call)
		if callee == nil || f.decides[callee] || callee.Pkg() == nil || !lastIsBool(callee.Signature()) {
			return true
		}
		if f.m.packages[callee.Pkg().Path()] != nil && f.audits(f.m.fset.Position(callee.Pos()).Filename) {
			f.decides[callee], found = true, true
		}
		return true
	}
	ast.Inspect(condition, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			if v, ok := fn.unit.info.Uses[id].(*types.Var); ok && types.Identical(v.Type(), types.Typ[types.Bool]) {
				if from, _ := f.assigned(fn, v, id.Pos()); from != nil {
					ast.Inspect(from, visit)
				}
			}
		}
		return visit(n)
	})
	return found
}

// guard is the conditions of which one leads to a return, and whether it does so
// by being false.
func (f *finder) guard(s ast.Node) (conditions []ast.Expr, negative bool) {
	for child, n := s, f.parents[s]; n != nil; child, n = n, f.parents[n] {
		switch n := n.(type) {
		case *ast.IfStmt:
			return []ast.Expr{n.Cond}, child == ast.Node(n.Else)
		case *ast.CaseClause:
			sw, ok := f.parents[f.parents[n]].(*ast.SwitchStmt)
			if ok && sw.Tag == nil {
				return n.List, false
			}
			return nil, false
		case *ast.CommClause, *ast.FuncLit, *ast.FuncDecl:
			return nil, false
		}
	}
	return nil, false
}

func (f *finder) mutateReturn(fn *function, s *ast.ReturnStmt) {
	conditions, negative := f.guard(s)
	if len(conditions) > 0 {
		f.mutateGuard(fn, conditions, negative)
		return
	}
	place := f.place(fn, s)
	if len(s.Results) == 0 {
		return // a bare return that nothing guards only ends a handler
	}
	id := f.add(fn, s, place+":accepted")
	last := s.Results[len(s.Results)-1]
	if f.sigLen(fn) == len(s.Results) {
		types := resultTypes(fn)
		f.wrap(last, "nixfleetAccept["+f.source(fn, types[len(types)-1])+"]("+id+", ", ")")
		return
	}
	names := make([]string, f.sigLen(fn))
	for i := range names {
		names[i] = fmt.Sprintf("r%d", i)
	}
	kept := names[:len(names)-1]
	f.insert(s.Pos(), fmt.Sprintf("if nixfleetOn(%s) { %s, _ := %s; return %s, nil }; ", id, strings.Join(kept, ", "), f.source(fn, last), strings.Join(kept, ", ")), false)
}

func (f *finder) sigLen(fn *function) int { return fn.sig.Results().Len() }

// resultTypes has the type of each result as it is written.
func resultTypes(fn *function) []ast.Expr {
	var out []ast.Expr
	for _, field := range fn.results.List {
		for range max(1, len(field.Names)) {
			out = append(out, field.Type)
		}
	}
	return out
}

// mutateDecision is for a return of a function that decides.
func (f *finder) mutateDecision(fn *function, s *ast.ReturnStmt) {
	if len(s.Results) != f.sigLen(fn) {
		return // by another function, which has its own
	}
	last := s.Results[len(s.Results)-1]
	if tv := fn.unit.info.Types[last]; tv.Value == nil { // not a constant
		place := f.place(fn, s)
		yes, no := f.add(fn, s, place+":true"), f.add(fn, s, place+":false")
		f.wrap(last, "nixfleetDecide("+yes+", "+no+", ", ")")
		return
	}
	if conditions, negative := f.guard(s); len(conditions) > 0 {
		f.mutateGuard(fn, conditions, negative)
		return
	}
	id := f.add(fn, s, f.place(fn, s)+":opposite")
	f.wrap(last, "nixfleetGuard(-1, "+id+", false, ", ")")
}

// mutateGuard makes the mutants of a guard once.
func (f *finder) mutateGuard(fn *function, conditions []ast.Expr, negative bool) {
	for _, c := range conditions {
		if f.seen[c] {
			continue
		}
		f.seen[c] = true
		place := f.place(fn, c)
		never, inverted := f.add(fn, c, place+":never"), f.add(fn, c, place+":inverted")
		f.wrap(c, fmt.Sprintf("nixfleetGuard(%s, %s, %t, ", never, inverted, negative), ")")
		if alternatives := split(c); len(alternatives) > 1 && !negative {
			for i, a := range alternatives {
				f.wrap(a, "nixfleetGuard("+f.add(fn, a, fmt.Sprintf("%s:never-%d", place, i+1))+", -1, false, ", ")")
			}
		}
	}
}

// split cuts a condition at its ||.
func split(c ast.Expr) []ast.Expr {
	if b, ok := ast.Unparen(c).(*ast.BinaryExpr); ok && b.Op == token.LOR {
		return append(split(b.X), split(b.Y)...)
	}
	return []ast.Expr{c}
}

// file is where a node stands, relative to the module.
func (f *finder) file(n ast.Node) string { return f.m.fset.Position(n.Pos()).Filename }

func (f *finder) place(fn *function, n ast.Node) string {
	key := f.file(n) + ":" + fn.name
	f.places[key]++
	return fmt.Sprintf("%s#%d", key, f.places[key])
}

// add names a mutant and returns its number.
func (f *finder) add(fn *function, at ast.Node, name string) string {
	id := fmt.Sprint(len(f.mutants))
	f.mutants = append(f.mutants, mutant{Name: name, Dir: fn.unit.dir, Line: f.m.fset.Position(at.Pos()).Line, id: id})
	return id
}

func (f *finder) wrap(x ast.Expr, before, after string) {
	f.insert(x.Pos(), before, false)
	f.insert(x.End(), after, true)
}

func (f *finder) insert(pos token.Pos, text string, last bool) {
	p := f.m.fset.Position(pos)
	f.edits = append(f.edits, edit{p.Filename, p.Offset, text, last})
}

func (f *finder) source(fn *function, n ast.Node) string {
	p := f.m.fset.Position(n.Pos())
	return string(fn.unit.text[p.Filename][p.Offset : p.Offset+int(n.End()-n.Pos())])
}

// apply returns the text with the edits of its file. Of edits at one place, those
// that end a wrap stand before those that begin one, the inner ones first and
// last.
func apply(text []byte, edits []edit) []byte {
	var out []byte
	done := 0
	at := slices.Compact(slices.Sorted(slices.Values(offsets(edits))))
	for _, o := range at {
		out = append(out, text[done:o]...)
		done = o
		var ends, begins string
		for _, e := range edits { // outer wraps come first
			switch {
			case e.at != o:
			case e.last:
				ends = e.text + ends
			default:
				begins += e.text
			}
		}
		out = append(append(out, ends...), begins...)
	}
	return append(out, text[done:]...)
}

func offsets(edits []edit) []int {
	out := make([]int, len(edits))
	for i, e := range edits {
		out[i] = e.at
	}
	return out
}
