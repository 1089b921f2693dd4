// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fixture has one function for each shape of a refusal, and a test that notices
// all that is weakened but what noticed says.
const fixture = `package door

import (
	"errors"
	"fmt"
	"strconv"
)

var errShut = errors.New("shut")

func open(age int, name string) (string, error) {
	if age < 18 || name == "" {
		return "", errors.New("too young")
	}
	if err := known(name); err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	n, err := strconv.Atoi("1")
	if err != nil {
		return "", err
	}
	switch {
	case late(n):
		return "", errShut
	}
	return check(name)
}

func known(name string) error {
	if name != "alice" && name != "bob" {
		return errShut
	}
	return nil
}

func late(n int) bool { return n > 1 }

func check(name string) (string, error) {
	return name, last(name)
}

func last(name string) error {
	if name == "alice" {
		return nil
	}
	return errors.New("not alice")
}

func unrelated(n int) bool { return n > 1 }
`

const fixtureTest = `package door

import "testing"

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		age  int
		name string
		good bool
	}{{18, "alice", true}, {17, "alice", false}, {18, "eve", false}} {
		if _, err := open(c.age, c.name); (err == nil) != c.good {
			t.Errorf("%v: %v", c, err)
		}
	}
}
`

// A mutant that no test notices is told from one that a test does.
func TestMutants_AreFoundCompiledAndMet(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/nixfleet\n\ngo 1.26.0\n")
	write("door/door.go", fixture)
	write("door/door_test.go", fixtureTest)
	write(equalFile, "# none\n")
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOWORK", "off")
	m, err := load(t.Context(), dir, []string{"door"})
	if err != nil {
		t.Fatal(err)
	}
	all, edits := find(newRule(m), func(file string) bool { return strings.HasPrefix(file, "door/") })
	var names []string
	for _, mu := range all {
		names = append(names, strings.TrimPrefix(mu.Name, "door/door.go:"))
	}
	want := []string{
		"open#1:never", "open#1:inverted", "open#1:never-1", "open#1:never-2", // not the one of strconv
		"open#2:never", "open#2:inverted", "open#3:never", "open#3:inverted", "open#4:accepted",
		"known#1:never", "known#1:inverted", "late#1:true", "late#1:false",
		"check#1:accepted", "last#1:accepted",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	overlay, err := m.writeOverlay(t.TempDir(), []string{"door"}, edits, "-2")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{m: m, dir: t.TempDir(), overlay: overlay, programs: map[suite]*program{}, progress: t.Logf}
	var r result
	if err := l.try(t.Context(), all, all, &r); err != nil {
		t.Fatal(err)
	}
	survivors := []string{
		"open#1:never-2", "open#2:never", "open#3:never", "open#4:accepted", // no empty name, no late hour, no bob; and eve is refused twice
		"known#1:never", "late#1:false", "check#1:accepted", "last#1:accepted",
	}
	for i, s := range survivors {
		survivors[i] = "door/door.go:" + s
	}
	if diff := cmp.Diff(survivors, r.Survivors); diff != "" {
		t.Errorf("survivors -want +got:\n%s", diff)
	}
	if r.Mutants != len(all) || r.MutantsCaught != len(all)-len(survivors) {
		t.Errorf("%d of %d are caught", r.MutantsCaught, r.Mutants)
	}
}

// The list of mutants that change nothing cannot grow old.
func TestList_NamesMutantsThatExistAndSurvive(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(equalFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{"a:F#1:never because\n": true, "a:F#1:never\n": false, "a x\na y\n": false} {
		if err := os.WriteFile(filepath.Join(dir, equalFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readEqual(dir); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := unknown(map[string]string{"a": "x", "b": "y"}, []mutant{{Name: "b"}}); len(got) != 1 || !strings.Contains(got[0], " a,") {
		t.Errorf("got %q", got)
	}
}

// A sample is the same for the same seed, and in the order of the source.
func TestChoose_IsASampleByItsSeed(t *testing.T) {
	var all []mutant
	for i := range 200 {
		all = append(all, mutant{Name: "m", id: fmt.Sprint(i)})
	}
	first, err := options{count: "20"}.choose(all, 7)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := options{count: "20"}.choose(all, 7)
	other, _ := options{count: "20"}.choose(all, 8)
	if len(first) != 20 || !slices.Equal(first, again) || slices.Equal(first, other) || !slices.IsSortedFunc(first, func(a, b mutant) int { return number(a.id) - number(b.id) }) {
		t.Errorf("got %v, %v, %v", first, again, other)
	}
	if _, err := (options{count: "some"}).choose(all, 7); err == nil {
		t.Error("a count that is no number is taken")
	}
}
