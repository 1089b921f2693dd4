// SPDX-License-Identifier: MIT

package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzProject reads a project file, which comes with whatever flake a user has
// fetched: it is taken whole or not at all, and its paths lead from its folder.
func FuzzProject(f *testing.F) {
	for _, s := range []string{
		"server = \"https://fleet.example.org\"\nroot = \"root.json\"\n", "root = \"../../root.json\"", "mood = 1", "[cache]\nsignKey = \"~/k\"", "flake = \"github:a/b\"\nca = \"\x1b\"", "server = 1", "\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseProject("/srv/fleet/nixfleet.toml", text)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), "/srv/fleet/nixfleet.toml") {
				t.Fatalf("%q: %q with code %q", text, err, fleet.ErrorCode(err))
			}
			return
		}
		for _, path := range []string{p.CA, p.Root, p.Cache.SignKey} {
			if path != "" && !filepath.IsAbs(path) {
				t.Fatalf("%q gives the path %q", text, path)
			}
		}
	})
}
