// SPDX-License-Identifier: MIT

package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// function is a declared function or a literal in one. What a literal returns is
// not what the function around it returns.
type function struct {
	unit    *unit
	decl    *ast.FuncDecl
	sig     *types.Signature
	results *ast.FieldList
	body    *ast.BlockStmt
	name    string            // of the declared function: F or T.M
	returns []*ast.ReturnStmt // its own
}

// rule knows which functions refuse and which decide.
type rule struct {
	m         *module
	functions []*function
	parents   map[ast.Node]ast.Node
	refuses   map[*types.Func]bool
	decides   map[*types.Func]bool
	own       map[ast.Node]*function // by declaration or literal
}

func newRule(m *module) *rule {
	r := &rule{m: m, parents: map[ast.Node]ast.Node{}, refuses: map[*types.Func]bool{}, decides: map[*types.Func]bool{}, own: map[ast.Node]*function{}}
	for _, u := range m.order {
		for _, file := range u.files {
			r.collect(u, file)
		}
	}
	for more := true; more; {
		more = false
		for _, f := range r.functions {
			if obj := r.object(f); obj != nil && !r.refuses[obj] && slices.ContainsFunc(f.returns, func(s *ast.ReturnStmt) bool { return r.refusing(f, s) }) {
				r.refuses[obj], more = true, true
			}
		}
	}
	return r
}

// object is the function's, nil for a literal.
func (r *rule) object(f *function) *types.Func {
	if f.body != f.decl.Body {
		return nil
	}
	obj, _ := f.unit.info.Defs[f.decl.Name].(*types.Func)
	return obj
}

// collect notes the functions of a file, and the parent of each node.
func (r *rule) collect(u *unit, file *ast.File) {
	var stack []ast.Node
	var in []*function
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			last := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if len(in) > 0 && r.own[last] == in[len(in)-1] {
				in = in[:len(in)-1]
			}
			return true
		}
		if len(stack) > 0 {
			r.parents[n] = stack[len(stack)-1]
		}
		stack = append(stack, n)
		var f *function
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Body != nil {
				f = &function{unit: u, decl: n, results: n.Type.Results, body: n.Body, name: declName(n)}
				f.sig = u.info.Defs[n.Name].Type().(*types.Signature)
			}
		case *ast.FuncLit:
			if len(in) > 0 {
				f = &function{unit: u, decl: in[len(in)-1].decl, results: n.Type.Results, body: n.Body, name: in[len(in)-1].name}
				f.sig = u.info.Types[n].Type.(*types.Signature)
			}
		case *ast.ReturnStmt:
			if len(in) > 0 {
				in[len(in)-1].returns = append(in[len(in)-1].returns, n)
			}
		}
		if f != nil {
			r.functions, r.own[n] = append(r.functions, f), f
			in = append(in, f)
		}
		return true
	})
}

func declName(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.Name + "." + d.Name.Name
		default:
			return d.Name.Name
		}
	}
}

// refusing reports whether a return of f refuses.
func (r *rule) refusing(f *function, s *ast.ReturnStmt) bool {
	if f.sig.Results().Len() == 0 {
		return r.refusingHandler(f, s)
	}
	if !r.refusingType(f.sig.Results().At(f.sig.Results().Len()-1).Type()) || len(s.Results) == 0 {
		return false
	}
	return r.refusal(f, s.Results[len(s.Results)-1], s.Pos())
}

// refusingHandler reports whether the statement before a bare return gets a refusal
// or writes one.
func (r *rule) refusingHandler(f *function, s *ast.ReturnStmt) bool {
	var list []ast.Stmt
	switch p := r.parents[s].(type) {
	case *ast.BlockStmt:
		list = p.List
	case *ast.CaseClause:
		list = p.Body
	}
	i := slices.Index(list, ast.Stmt(s))
	if i < 1 {
		return false
	}
	e, ok := list[i-1].(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	operands := slices.Clone(call.Args)
	if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
		operands = append(operands, sel.X)
	}
	return slices.ContainsFunc(operands, func(x ast.Expr) bool {
		t := f.unit.info.TypeOf(x)
		return t != nil && (named(t, "controlplane/server", "problem") || r.refusingType(t) && r.refusal(f, x, s.Pos()))
	})
}

// refusal reports whether x, at a place in f, is a refusal: made here or handed on.
func (r *rule) refusal(f *function, x ast.Expr, at token.Pos) bool {
	switch x := ast.Unparen(x).(type) {
	case *ast.Ident:
		return r.refusalIn(f, x, at)
	case *ast.SelectorExpr:
		v, ok := f.unit.info.Uses[x.Sel].(*types.Var)
		return ok && !v.IsField() && r.refusingType(v.Type()) // a package's error
	case *ast.UnaryExpr:
		return r.refusal(f, x.X, at)
	case *ast.CompositeLit:
		t := f.unit.info.TypeOf(x)
		return named(t, "internal/agent/states", "Refused", "Failed", "Held") || named(t, "internal/trust", "Refusal") || named(t, "fleet", "Error")
	case *ast.CallExpr:
		return r.refusalOf(f, x, at)
	}
	return false
}

// refusalIn reports whether a variable holds a refusal.
func (r *rule) refusalIn(f *function, x *ast.Ident, at token.Pos) bool {
	v, ok := f.unit.info.Uses[x].(*types.Var)
	if !ok {
		return false
	}
	if v.Parent() == v.Pkg().Scope() {
		return true // a package's error
	}
	if made(v.Type()) && r.isParameter(f, v) {
		return true
	}
	from, at := r.assigned(f, v, at)
	return from != nil && r.refusal(f, from, at)
}

func (r *rule) isParameter(f *function, v *types.Var) bool {
	for p := range f.sig.Params().Variables() {
		if p == v {
			return true
		}
	}
	return false
}

// assigned is what was assigned to a variable last before a place, and where.
func (r *rule) assigned(f *function, v *types.Var, at token.Pos) (last ast.Expr, place token.Pos) {
	note := func(i int, a *ast.AssignStmt) {
		id, ok := a.Lhs[i].(*ast.Ident)
		if !ok || f.unit.info.Defs[id] != v && f.unit.info.Uses[id] != v {
			return
		}
		if last, place = a.Rhs[0], a.Pos(); len(a.Rhs) == len(a.Lhs) {
			last = a.Rhs[i]
		}
	}
	ast.Inspect(f.decl.Body, func(n ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		if !ok || a.Pos() >= at {
			return n == nil || n.Pos() < at
		}
		for i := range a.Lhs {
			note(i, a)
		}
		return true
	})
	return last, place
}

// refusalOf reports whether a call makes a refusal or hands one on.
func (r *rule) refusalOf(f *function, call *ast.CallExpr, at token.Pos) bool {
	if made(f.unit.info.TypeOf(call)) {
		return true
	}
	for _, a := range call.Args {
		if lit, ok := ast.Unparen(a).(*ast.FuncLit); ok {
			own := r.own[lit]
			if own != nil && slices.ContainsFunc(own.returns, func(s *ast.ReturnStmt) bool { return r.refusing(own, s) }) {
				return true
			}
		}
	}
	callee := calleeOf(f.unit.info, call)
	if callee == nil {
		return false
	}
	if r.refuses[callee] {
		return !keeps(callee)
	}
	switch callee.FullName() {
	case "errors.New":
		return true
	case "fmt.Errorf", "errors.Join":
		caused := false
		for _, a := range call.Args {
			if t := f.unit.info.TypeOf(a); t != nil && r.refusingType(t) {
				caused = true
				if r.refusal(f, a, at) {
					return true
				}
			}
		}
		return !caused && callee.Name() == "Errorf"
	}
	return false
}

// keeps reports whether a function is one of the packages that read, write and
// start things, and decide nothing.
func keeps(fn *types.Func) bool {
	return fn.Pkg() != nil && slices.ContainsFunc(keepers, func(dir string) bool { return strings.HasSuffix(fn.Pkg().Path(), "/nixfleet/"+dir) })
}

// calleeOf is the function that a call names; nil if only the run tells.
func calleeOf(info *types.Info, call *ast.CallExpr) *types.Func {
	fun := ast.Unparen(call.Fun)
	switch x := fun.(type) {
	case *ast.IndexExpr:
		fun = x.X
	case *ast.IndexListExpr:
		fun = x.X
	}
	var id *ast.Ident
	switch x := fun.(type) {
	case *ast.Ident:
		id = x
	case *ast.SelectorExpr:
		id = x.Sel
	default:
		return nil
	}
	if fn, ok := info.Uses[id].(*types.Func); ok {
		return fn.Origin()
	}
	return nil
}

// made reports whether a value of a type was made as a refusal.
func made(t types.Type) bool {
	return named(t, "internal/trust", "Refusal") || named(t, "fleet", "Error")
}

func (r *rule) refusingType(t types.Type) bool {
	return types.AssignableTo(t, types.Universe.Lookup("error").Type()) || named(t, "internal/agent/states", "Input")
}

// named reports whether t, or what it points to, is one of a package of this module.
func named(t types.Type, pkg string, names ...string) bool {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	n, ok := types.Unalias(t).(*types.Named)
	return ok && n.Obj().Pkg() != nil && strings.HasSuffix(n.Obj().Pkg().Path(), "/nixfleet/"+pkg) && slices.Contains(names, n.Obj().Name())
}
