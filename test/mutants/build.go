// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// switchFile is added to each audited package.
const switchFile = "nixfleet_mutant.go"

// switchText has what the edits call. A suite of hosts starts programs in which
// the environment does not reach; for it the number is part of the text. Without a
// mutant, the numbers of those that would have changed what was decided are noted
// in a file.
const switchText = `package %s

import (
	"os"
	"strconv"
	"sync"
)

var nixfleetMutant = func() int {
	if n, err := strconv.Atoi(os.Getenv(%q)); err == nil {
		return n
	}
	return %s
}()

var (
	nixfleetNotes = os.Getenv(%q)
	nixfleetNoted sync.Map
)

func nixfleetNote(id int, differs bool) {
	if nixfleetNotes == "" || id < 0 || !differs {
		return
	}
	if _, twice := nixfleetNoted.LoadOrStore(id, true); twice {
		return
	}
	f, err := os.OpenFile(nixfleetNotes, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	if _, err = f.WriteString(strconv.Itoa(id) + "\n"); err != nil {
		panic(err)
	}
	if err = f.Close(); err != nil {
		panic(err)
	}
}

func nixfleetOn(id int) bool {
	nixfleetNote(id, true)
	return id == nixfleetMutant
}

func nixfleetGuard(never, inverted int, negative, condition bool) bool {
	nixfleetNote(never, condition != negative)
	nixfleetNote(inverted, true)
	switch {
	case never == nixfleetMutant && never >= 0:
		return negative
	case inverted == nixfleetMutant && inverted >= 0:
		return !condition
	}
	return condition
}

func nixfleetDecide(yes, no int, v bool) bool {
	nixfleetNote(yes, !v)
	nixfleetNote(no, v)
	return (v || yes == nixfleetMutant) && no != nixfleetMutant
}

func nixfleetAccept[T any](id int, v T) T {
	nixfleetNote(id, any(v) != nil)
	if id == nixfleetMutant {
		var none T
		return none
	}
	return v
}
`

// Environment variables: variable turns a mutant on, notes names the file of notes.
const (
	variable = "NIXFLEET_MUTANT"
	notes    = "NIXFLEET_MUTANT_NOTES"
)

// writeOverlay writes, into dir, the files that compile all mutants, and returns
// the file for go build -overlay. on is the mutant that is on without the
// variable; "-2" is none.
func (m *module) writeOverlay(dir string, packages []string, edits []edit, on string) (string, error) {
	replace := map[string]string{}
	put := func(name string, text []byte) error {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "+"))
		replace[filepath.Join(m.dir, name)] = file
		return os.WriteFile(file, text, 0o600)
	}
	byFile := map[string][]edit{}
	for _, e := range edits {
		byFile[e.file] = append(byFile[e.file], e)
	}
	for _, path := range packages {
		u := m.packages[m.path+"/"+path]
		for name, text := range u.text {
			if len(byFile[name]) == 0 {
				continue
			}
			if err := put(name, apply(text, byFile[name])); err != nil {
				return "", err
			}
		}
		if err := put(path+"/"+switchFile, fmt.Appendf(nil, switchText, u.types.Name(), variable, on, notes)); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, data, 0o600)
}

// compile builds the test program of a package with all mutants.
func (m *module) compile(ctx context.Context, overlay, dir, out string) error {
	res, err := proc.Run(ctx, proc.Cmd{Path: "go", Dir: m.dir, Args: []string{"test", "-c", "-vet=off", "-overlay", overlay, "-o", out, "./" + dir}})
	if err != nil {
		return fmt.Errorf("compile tests of %s with the mutants: %w\n%s", dir, err, res.Stderr)
	}
	return nil
}
