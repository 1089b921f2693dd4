// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// figures are what `make bench-house` prints, as one line of JSON.
type figures struct {
	RetiredWords int            `json:"retiredWords"` // places that docs/glossary.md has other words for
	DeadHints    int            `json:"deadHints"`    // commands, flags and targets that are named and do not exist
	MaxFileLines int            `json:"maxFileLines"` // of source files, tests aside
	MaxFuncLines int            `json:"maxFuncLines"` // the same of functions
	DeadCode     int            `json:"deadcode"`     // functions that nothing calls
	Skipped      []skip         `json:"skipped"`
	Imports      map[string]int `json:"imports"` // of each package of the agent: how many packages of the module it imports
}

// Bounds of the figures that have one.
const (
	maxFileLines = 500
	maxFuncLines = 60
)

// excess says what is wrong with the figures.
func (f figures) excess() (wrong []string) {
	for _, b := range []struct {
		name       string
		got, bound int
	}{
		{"retiredWords", f.RetiredWords, 0}, {"deadHints", f.DeadHints, 0}, {"deadcode", f.DeadCode, 0},
		{"maxFileLines", f.MaxFileLines, maxFileLines}, {"maxFuncLines", f.MaxFuncLines, maxFuncLines},
	} {
		if b.got > b.bound {
			wrong = append(wrong, fmt.Sprintf("%s is %d, the bound is %d", b.name, b.got, b.bound))
		}
	}
	return wrong
}

// deadPackage is a package in the output of `deadcode -json`.
type deadPackage struct {
	Path  string
	Funcs []deadFunc
}

type deadFunc struct {
	Name     string
	Position struct {
		File string
		Line int
	}
}

// testSupport are the packages that exist for tests: a function of theirs is
// dead when no test calls it either.
var testSupport = []string{"internal/testbed", "internal/trust/trusttest"}

// uncalled may have no caller yet, for a reason.
var uncalled = []string{}

// deadFunctions lists what no program calls; tests count as programs for what
// exists for tests.
func deadFunctions(programs, tests []deadPackage) []string {
	untested := map[string]bool{}
	for _, p := range tests {
		for _, f := range p.Funcs {
			untested[short(p.Path)+"."+f.Name] = true
		}
	}
	var dead []string
	for _, p := range programs {
		pkg := short(p.Path)
		support := slices.ContainsFunc(testSupport, func(s string) bool { return pkg == s || strings.HasPrefix(pkg, s+"/") })
		for _, f := range p.Funcs {
			name := pkg + "." + f.Name
			if slices.Contains(uncalled, name) || support && !untested[name] {
				continue
			}
			dead = append(dead, fmt.Sprintf("%s:%d: %s", f.Position.File, f.Position.Line, f.Name))
		}
	}
	return dead
}

// gather reads the files that the steps of `make bench-house` leave in a folder.
func gather(dir string, complain io.Writer) (figures, error) {
	var f figures
	var hints, words []string
	var programs, tests []deadPackage
	err := errors.Join(
		readJSON(filepath.Join(dir, "sizes.json"), &f), readJSON(filepath.Join(dir, "words.json"), &words),
		readJSON(filepath.Join(dir, "hints.json"), &hints), readJSON(filepath.Join(dir, "skipped.json"), &f.Skipped),
		readJSON(filepath.Join(dir, "dead.json"), &programs), readJSON(filepath.Join(dir, "dead-tests.json"), &tests),
	)
	if err != nil {
		return f, err
	}
	dead := deadFunctions(programs, tests)
	f.RetiredWords, f.DeadHints, f.DeadCode = len(words), len(hints), len(dead)
	for _, l := range slices.Concat(words, hints, dead) {
		fmt.Fprintln(complain, l)
	}
	return f, nil
}

func readJSON(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

// printFigures prints the line, and fails when a bound is exceeded.
func printFigures(dir string, out, complain io.Writer) int {
	f, err := gather(dir, complain)
	if err != nil {
		fmt.Fprintf(complain, "house: %v\n", err)
		return exitFailed
	}
	line, err := json.Marshal(f)
	if err != nil {
		fmt.Fprintf(complain, "house: %v\n", err)
		return exitFailed
	}
	wrong := f.excess()
	for _, w := range wrong {
		fmt.Fprintln(complain, "house: "+w)
	}
	fmt.Fprintln(out, string(line))
	if len(wrong) > 0 {
		return exitFailed
	}
	return 0
}
