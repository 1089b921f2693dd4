// SPDX-License-Identifier: MIT

// Package loosen builds a package's tests against a product of which one rule each is
// loosened, to see that they fail. It never changes the source: the product with its
// loosened rules is an overlay of the build.
package loosen

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// Rule is a rule of the product, and what makes the product break it.
type Rule struct {
	Name  string
	edits []edit
}

type edit struct{ file, old, loose string }

// Of makes a rule that nothing loosens yet.
func Of(name string) Rule { return Rule{Name: name} }

// In has the rule loosened in a file of the module, which has the old text exactly
// once. In the new one the word LOOSE stands for whether the rule is loosened.
func (r Rule) In(file, old, loose string) Rule {
	r.edits = append(r.edits, edit{file, old, loose})
	return r
}

// env says which rule is loosened.
const env = "NIXFLEET_LOOSENED"

// Overlay writes the product with all rules, of which none is loosened unless the
// environment names it, into a folder, and returns the file for `go build -overlay`.
// An error says which text a file does not have exactly once.
func Overlay(module, dir string, rules []Rule) (file string, err error) {
	texts, err := apply(module, rules)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for of, text := range texts {
		_, name, _ := strings.Cut(text, "\npackage ")
		name, _, _ = strings.Cut(name, "\n")
		loosened := fmt.Sprintf("package %s\n\nimport \"os\"\n\nfunc loosened(name string) bool { return os.Getenv(%q) == name }\n", name, env)
		for path, text := range map[string]string{of: text, filepath.Join(filepath.Dir(of), "loosened.go"): loosened} {
			to := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
			if err = os.WriteFile(to, []byte(text), 0o600); err != nil {
				return "", err
			}
			replace[filepath.Join(module, path)] = to
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o600)
}

// apply returns the files that the rules are in, with their edits.
func apply(module string, rules []Rule) (map[string]string, error) {
	texts := map[string]string{}
	for _, r := range rules {
		for _, e := range r.edits {
			if _, known := texts[e.file]; !known {
				b, err := os.ReadFile(filepath.Join(module, e.file))
				if err != nil {
					return nil, err
				}
				texts[e.file] = string(b)
			}
			if n := strings.Count(texts[e.file], e.old); n != 1 {
				return nil, fmt.Errorf("%s: %s has %q %d times: say what the rule is now", r.Name, e.file, e.old, n)
			}
			loose := strings.ReplaceAll(e.loose, "LOOSE", fmt.Sprintf("loosened(%q)", r.Name))
			texts[e.file] = strings.Replace(texts[e.file], e.old, loose, 1)
		}
	}
	return texts, nil
}

// Program is the test program of a package, with rules that can be loosened.
type Program struct{ path string }

// Build builds the tests of the package in the working folder into dir.
func Build(ctx context.Context, module, dir string, rules []Rule) (Program, error) {
	overlay, err := Overlay(module, dir, rules)
	if err != nil {
		return Program{}, err
	}
	p := Program{filepath.Join(dir, "loosened.test")}
	res, err := proc.Run(ctx, proc.Cmd{Path: "go", Args: []string{"test", "-c", "-overlay", overlay, "-o", p.path, "."}, Timeout: 10 * time.Minute})
	if err != nil {
		return p, fmt.Errorf("build the tests with loosened rules: %w\n%s%s", err, res.Stdout, res.Stderr)
	}
	return p, nil
}

// Run runs tests while a rule is loosened, "" for none, and returns what they print.
// The error is that of a test that fails.
func (p Program) Run(ctx context.Context, rule string, environ []string, args ...string) (string, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: p.path, Args: args, Env: append(append(os.Environ(), environ...), env+"="+rule), Timeout: 20 * time.Minute})
	return string(res.Stdout) + string(res.Stderr), err
}
