// SPDX-License-Identifier: MIT

package archtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeFigures leaves what was measured in the folder that NIXFLEET_FIGURES
// names, for `make bench-house`.
func writeFigures(t *testing.T, name string, v any) {
	t.Helper()
	dir := os.Getenv("NIXFLEET_FIGURES")
	if dir == "" {
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// importsOfAgent counts, for each package of the agent, the packages of this
// module that it imports.
func importsOfAgent(all []source) map[string]int {
	seen := map[string]map[string]bool{}
	for _, s := range all {
		dir := filepath.ToSlash(filepath.Dir(s.path))
		if s.test() || !in(dir, "internal/agent") {
			continue
		}
		if seen[dir] == nil {
			seen[dir] = map[string]bool{}
		}
		for _, i := range s.file.Imports {
			if path := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(path, module) {
				seen[dir][path] = true
			}
		}
	}
	out := map[string]int{}
	for dir, imports := range seen {
		out[dir] = len(imports)
	}
	return out
}
