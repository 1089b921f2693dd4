// SPDX-License-Identifier: MIT

package hints

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// With NIXFLEET_FIGURES=FOLDER the list is written to hints.json there as well,
// for `make bench-house`.
func TestHints_NameCommandsThatExist(t *testing.T) {
	k := load(t)
	dead := []string{}
	n := 0
	walk(t, func(file, text string) {
		for _, f := range collect(file, text) {
			n++
			if why := k.resolve(f.words, f.prose); why != "" {
				dead = append(dead, fmt.Sprintf("%s:%d: %q: %s", f.File, f.Line, f.text(), why))
			}
		}
	})
	if n < 200 {
		t.Errorf("found %d command lines: the search is broken", n)
	}
	for _, d := range dead {
		t.Error(d)
	}
	if dir := os.Getenv("NIXFLEET_FIGURES"); dir != "" {
		b, err := json.Marshal(dead)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hints.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Each row is the text of a file and the command lines in it that are dead.
func TestCollect_TellsCommandsFromSentences(t *testing.T) {
	k := load(t)
	for name, c := range map[string]struct {
		file, text string
		dead       []string
	}{
		"a command in a code span":        {"a.md", "run `nixfleet trust entrust` then", []string{"nixfleet trust entrust"}},
		"a span over two lines":           {"a.md", "run `nixfleet\ntrust entrust` then", []string{"nixfleet trust entrust"}},
		"a sentence":                      {"a.md", "nixfleet deploy is no command; nixfleet now tells", nil},
		"a whole program":                 {"a.md", "`nixfleet` and `nixfleet-agent`", nil},
		"a block":                         {"a.md", "```\n$ nixfleet deploy --ssh\n```", []string{"nixfleet deploy --ssh"}},
		"a line that goes on":             {"a.md", "```console\n$ cat x | nixfleet key \\\n  bootstrap --sekret-file -\n```", []string{"nixfleet key bootstrap --sekret-file -"}},
		"a block in another language":     {"a.md", "```nix\nnixfleet = { x = 1; };\n```", nil},
		"a comment in a block":            {"a.md", "```\nnixfleet demo # for nixfleet trust entrust, later\n```", []string{"nixfleet trust entrust"}},
		"a flag before the command":       {"a.md", "`nixfleet --json machine token web-01` `nixfleet --ca x machine tokn`", []string{"nixfleet --ca x machine tokn"}},
		"a flag of another command":       {"a.md", "`nixfleet machine list --wait`", []string{"nixfleet machine list --wait"}},
		"a flag of every command":         {"a.md", "`nixfleet machine list --json --server=x --help`", nil},
		"a placeholder":                   {"a.md", "`nixfleet trust COMMAND` `nixfleet completion bash\\|zsh`", nil},
		"the agent and the control plane": {"a.md", "`nixfleet-agent enrol` `nixfleet-agent enroll --token-file F` `nixfleet-control-plane dump F` `nixfleet-control-plane doctor --json`", []string{"nixfleet-agent enrol", "nixfleet-control-plane dump F"}},
		"a target":                        {"a.md", "`make tset` `make demo KEEP=1` `make`", []string{"make tset"}},
		"an app and a template":           {"a.md", "`nix run .#boot-vm` `nix run .#start-vm -- --all` `nix flake init -t github:arcanesys/nixfleet#flete`", []string{"nix run .#boot-vm", "nix flake init -t github:arcanesys/nixfleet#flete"}},
		"a hint":                          {"a.go", "package a\nvar _ = e.WithHint(\"make one; nixfleet grant signs it\")", []string{"nixfleet grant signs it"}},
		"an example":                      {"a.go", "package a\nvar _ = c{Example: \"  nixfleet demo\\n  nixfleet dmeo\"}", []string{"nixfleet dmeo"}},
		"a text after a colon":            {"a.go", "package a\nvar _ = \"do this: nixfleet-control-plane dump FILE\"", []string{"nixfleet-control-plane dump FILE"}},
		"a text that is a command":        {"a.go", "package a\nvar _ = \"nixfleet trust entwine\"", []string{"nixfleet trust entwine"}},
		"a text that is none":             {"a.go", "package a\nvar _ = \"nixfleet server CA\"", nil},
		"a comment":                       {"a.go", "package a\n\n// nixfleet release is a word; nixfleet trust\n// entrust is not.\nvar _ = 1", []string{"nixfleet trust entrust is not"}},
		"a comment of Nix":                {"a.nix", "# nixos-anywhere and `nixfleet deploy --ssh` log in.\nnixfleet = lib.x;", []string{"nixfleet deploy --ssh"}},
		"a message of Nix":                {"a.nix", "message = \"run nixfleet trust entrust, then build\";", []string{"nixfleet trust entrust"}},
		"a usage of a script":             {"a.sh", "echo \"give it: make evil NIXPKGS=/x\"", []string{"make evil NIXPKGS=/x"}},
	} {
		var got []string
		for _, f := range collect(c.file, c.text) {
			if k.resolve(f.words, f.prose) != "" {
				got = append(got, f.text())
			}
		}
		if !slices.Equal(got, c.dead) {
			t.Errorf("%s: dead in %q are %q, want %q", name, c.text, got, c.dead)
		}
	}
}

// walk calls f for every file that speaks to people. Tests do not: they also
// call what must be refused.
func walk(t *testing.T, f func(file, text string)) {
	t.Helper()
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "vendor", "node_modules", "testdata"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), string(b))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
