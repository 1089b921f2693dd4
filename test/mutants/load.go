// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// module is the module's packages that the audited ones are made of, with their
// types.
type module struct {
	dir      string // of the module
	path     string // import path of the module
	fset     *token.FileSet
	packages map[string]*unit // by import path
	order    []*unit          // imports first
}

// unit is one package of the module.
type unit struct {
	path  string // import path
	dir   string // relative to the module
	files []*ast.File
	text  map[string][]byte // by file, relative to the module
	types *types.Package
	info  *types.Info
}

type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	Module                  *struct {
		Path, Dir string
		Main      bool
	}
}

// load reads packages of the module in dir, relative to it, and all of the module
// that they import.
func load(ctx context.Context, dir string, packages []string) (*module, error) {
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Module"}
	for _, p := range packages {
		args = append(args, "./"+p)
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "go", Args: args, Dir: dir, MaxOutput: 64 << 20})
	if err != nil {
		return nil, fmt.Errorf("list packages: %w\n%s", err, res.Stderr)
	}
	m := &module{dir: dir, fset: token.NewFileSet(), packages: map[string]*unit{}}
	exports := map[string]string{}
	var ours []listed
	for dec := json.NewDecoder(bytes.NewReader(res.Stdout)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read list of packages: %w", err)
		}
		if l.Module != nil && l.Module.Main {
			m.path, m.dir = l.Module.Path, l.Module.Dir
			ours = append(ours, l)
			continue
		}
		exports[l.ImportPath] = l.Export
	}
	others := importer.ForCompiler(m.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, l := range ours { // go list names imports first
		if err := m.add(l, others); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *module) add(l listed, others types.Importer) error {
	rel, err := filepath.Rel(m.dir, l.Dir)
	if err != nil {
		return err
	}
	u := &unit{path: l.ImportPath, dir: filepath.ToSlash(rel), text: map[string][]byte{}}
	for _, name := range l.GoFiles {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(l.Dir, name)); err != nil {
			return err
		}
		name = u.dir + "/" + name
		var f *ast.File
		if f, err = parser.ParseFile(m.fset, name, data, parser.SkipObjectResolution); err != nil {
			return err
		}
		u.files, u.text[name] = append(u.files, f), data
	}
	u.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{},
		Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	conf := types.Config{Importer: imports{m, others}}
	if u.types, err = conf.Check(l.ImportPath, m.fset, u.files, u.info); err != nil {
		return fmt.Errorf("check types of %s: %w", l.ImportPath, err)
	}
	m.packages[l.ImportPath] = u
	m.order = append(m.order, u)
	return nil
}

// imports finds the module's packages as they were read from source, so that a
// function is the same object wherever it is called.
type imports struct {
	m      *module
	others types.Importer
}

// Import implements types.Importer.
func (i imports) Import(path string) (*types.Package, error) {
	if u, ok := i.m.packages[path]; ok {
		return u.types, nil
	}
	return i.others.Import(path)
}
