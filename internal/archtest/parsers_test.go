// SPDX-License-Identifier: MIT

package archtest

import (
	"go/ast"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// decoders are what turns bytes into values. A function that calls one reads what
// somebody wrote, and is a parser; so is one that is named like one.
var decoders = map[string][]string{
	"encoding/json":              {"Unmarshal", "NewDecoder"},
	"encoding/base64":            {"DecodeString", "Decode"},
	"encoding/hex":               {"DecodeString", "Decode"},
	"encoding/pem":               {"Decode"},
	"encoding/csv":               {"NewReader"},
	"encoding/xml":               {"Unmarshal", "NewDecoder"},
	"encoding/binary":            {"Read", "Decode"},
	"encoding/asn1":              {"Unmarshal"},
	"archive/tar":                {"NewReader"},
	"archive/zip":                {"NewReader"},
	"bufio":                      {"NewScanner"},
	"crypto/x509":                {"ParseCertificate", "ParseCertificates", "ParseCertificateRequest", "ParsePKCS8PrivateKey", "ParseECPrivateKey", "ParsePKIXPublicKey"},
	"filippo.io/age":             {"Decrypt"},
	"net/textproto":              {"NewReader"},
	module + "internal/trust":    {"Decode"},
	"github.com/BurntSushi/toml": {"Decode", "NewDecoder"},
}

var parserName = regexp.MustCompile(`^([pP]arse|[dD]ecode|[uU]nmarshal)([A-Z]|$)`)

// noNetwork are the parsers that read only what this machine's own program, its
// owner or an operator wrote, and why. Whatever else is a parser needs a fuzz
// target.
var noNetwork = map[string]string{
	"controlplane/once .answered":        "what the control plane answered before, sealed by itself",
	"controlplane/pki sign":              "the control plane's own certificate",
	"controlplane/loop .loadFreeze":      "the control plane's own row",
	"controlplane/plane .read":           "rows of releases that were checked before they were stored",
	"controlplane/plane .reachedEntries": "entries of releases that were checked before they were stored",
	"controlplane/server rootOf":         "the control plane's own certificate",
	"fleet ParseFailureLimit":            "an operator's command line",
	"internal/agent/disk .List":          "the agent's own history",
	"internal/agent/disk .Load":          "the agent's own journal",
	"internal/agent/disk .Read":          "the agent's own file for its watchdog",
	"internal/agent/disk .Take":          "a file of root's on the machine; a damaged one is no floor",
	"internal/agent/disk .read":          "the agent's own outbox",
	"internal/agent/link .certificate":   "the certificate that ours has checked before it was written",
	"internal/agent/link readKey":        "the machine's own key",
	"internal/cli releaseEntries":        "what is shown of a release; FuzzDecode has its parser, and CheckAgain what is signed again",
	"internal/wiretest Change":           "documents that a test writes",
	"internal/config ParseAgent":         "the program's configuration, written by root",
	"internal/config decode":             "the program's configuration, written by root",
	"internal/signer .Sign":              "the signature of the operator's own command, which is verified",
	"internal/nix .Hosts":                "what Nix prints of the flake that is built; names are checked by ParseMachineID",
	"internal/nix .metadata":             "what Nix prints of the flake that is built; FuzzLockFile reads its lock file",
	"internal/nix Fingerprints":          "files of a system, which was compared with its signed entry",
}

// function is a function of the repository, with the names that it uses.
type function struct {
	dir, name string
	uses      map[string]bool // "dir name" of functions and types, "dir .name" of methods
	decodes   bool
}

// functionsOf reads the functions of all files. What a fuzz target does is what is
// in its call of Fuzz: what prepares it does not count.
func functionsOf(all []source) (functions map[string]*function, targets []*function) {
	functions = map[string]*function{}
	for _, s := range all {
		dir := filepath.ToSlash(filepath.Dir(s.path))
		imports := importsOf(s.file)
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if s.test() && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
				targets = append(targets, use(&function{dir: dir, name: f.Name.Name}, fuzzed(f), imports))
				continue
			}
			key := dir + " " + f.Name.Name
			if f.Recv != nil {
				key = dir + " ." + f.Name.Name
			}
			if functions[key] == nil {
				functions[key] = &function{dir: dir, name: f.Name.Name}
			}
			fn := use(functions[key], f.Body, imports)
			if receiver := receiverOf(f); receiver != "" && parserName.MatchString(f.Name.Name) {
				// Decoders call it: who names the type uses it.
				r := dir + " " + receiver
				if functions[r] == nil {
					functions[r] = &function{dir: dir, name: receiver, uses: map[string]bool{}}
				}
				functions[r].uses[key] = true
			}
			fn.decodes = !s.test() && (fn.decodes || parserName.MatchString(f.Name.Name) && takesText(f))
		}
	}
	return functions, targets
}

func importsOf(f *ast.File) map[string]string {
	out := map[string]string{}
	for _, i := range f.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		out[name] = path
	}
	return out
}

// fuzzed is the function that a fuzz target gives to Fuzz.
func fuzzed(f *ast.FuncDecl) ast.Node {
	var body ast.Node = &ast.BlockStmt{}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			if sel, ok := c.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Fuzz" && len(c.Args) == 1 {
				body = c.Args[0]
			}
		}
		return true
	})
	// Functions that the target has put into a variable belong to it.
	named := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			named[id.Name] = true
		}
		return true
	})
	list := &ast.BlockStmt{List: []ast.Stmt{&ast.ExprStmt{X: &ast.CallExpr{Fun: body.(ast.Expr)}}}}
	for _, stmt := range f.Body.List {
		if a, ok := stmt.(*ast.AssignStmt); ok && len(a.Lhs) == 1 {
			id, isName := a.Lhs[0].(*ast.Ident)
			if _, isFunc := a.Rhs[0].(*ast.FuncLit); isFunc && isName && named[id.Name] {
				list.List = append(list.List, a)
			}
		}
	}
	return list
}

func receiverOf(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return ""
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// takesText reports whether a function has text, bytes or a stream as parameter.
func takesText(f *ast.FuncDecl) bool {
	text := regexp.MustCompile(`^(string|\[\]byte|\[\]string|io\.Reader|\*http\.Request|http\.Request)$`)
	return slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool { return text.MatchString(typeText(p.Type)) })
}

func typeText(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.StarExpr:
		return "*" + typeText(x.X)
	case *ast.ArrayType:
		return "[]" + typeText(x.Elt)
	case *ast.SelectorExpr:
		return typeText(x.X) + "." + x.Sel.Name
	}
	return ""
}

// use adds what a piece of code names. A method is taken for one of its own package,
// or of one that the file imports.
func use(f *function, code ast.Node, imports map[string]string) *function {
	if f.uses == nil {
		f.uses = map[string]bool{}
	}
	ast.Inspect(code, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok && imports[id.Name] != "" {
				path := imports[id.Name]
				f.decodes = f.decodes || slices.Contains(decoders[path], x.Sel.Name)
				if rel, ours := strings.CutPrefix(path, module); ours {
					f.uses[rel+" "+x.Sel.Name] = true
				}
				return false
			}
			f.uses[f.dir+" ."+x.Sel.Name] = true
			for _, path := range imports {
				if rel, ours := strings.CutPrefix(path, module); ours {
					f.uses[rel+" ."+x.Sel.Name] = true
				}
			}
		case *ast.CallExpr:
			if sel, ok := x.Fun.(*ast.SelectorExpr); ok && slices.Contains(decoders["encoding/base64"], sel.Sel.Name) && mentions(sel.X, "base64") {
				f.decodes = true
			}
		case *ast.Ident:
			f.uses[f.dir+" "+x.Name] = true
		}
		return true
	})
	return f
}

func mentions(code ast.Node, name string) (found bool) {
	ast.Inspect(code, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && id.Name == name
		return !found
	})
	return found
}

// inProduct reports whether a folder is part of what users run.
func inProduct(dir string) bool {
	return !in(dir, "test") && !in(dir, "internal/testbed") && !in(dir, "internal/demo") && !in(dir, "internal/reference") && !in(dir, "internal/trust/trusttest")
}

// A function that decodes what somebody else may have written is run by a fuzz
// target.
func TestParsers_HaveAFuzzTarget(t *testing.T) {
	functions, targets := functionsOf(sources(t))
	if len(targets) < 20 {
		t.Fatalf("found %d fuzz targets: the search is broken", len(targets))
	}
	reached := map[string]bool{}
	var reach func(uses map[string]bool)
	reach = func(uses map[string]bool) {
		for u := range uses {
			if f := functions[u]; f != nil && !reached[u] {
				reached[u] = true
				reach(f.uses)
			}
		}
	}
	for _, f := range targets {
		reach(f.uses)
	}
	parsers := 0
	for _, name := range slices.Sorted(maps.Keys(functions)) {
		f := functions[name]
		if !f.decodes || !inProduct(f.dir) {
			continue
		}
		parsers++
		_, exempt := noNetwork[name]
		switch {
		case !reached[name] && !exempt:
			t.Errorf("%s decodes text, and no fuzz target runs it: write one beside it, or say in noNetwork who writes what it reads", name)
		case reached[name] && exempt:
			t.Errorf("%s has a fuzz target: noNetwork need not have it", name)
		}
	}
	if parsers < 40 {
		t.Errorf("found %d parsers: the search is broken", parsers)
	}
	for name := range noNetwork {
		if f := functions[name]; f == nil || !f.decodes {
			t.Errorf("noNetwork has %s, which is no parser", name)
		}
	}
}
