// SPDX-License-Identifier: MIT

package disk

import (
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestRepairs_AllowAPathOnce(t *testing.T) {
	r := Repairs{Folder: filepath.Join(t.TempDir(), "repair")}
	const a, b = fleet.StorePath("/nix/store/00000000000000000000000000000000-a"), fleet.StorePath("/nix/store/00000000000000000000000000000000-b")
	if r.Allowed(a) {
		t.Error("allowed by nobody")
	}
	for range 2 {
		if err := r.Allow(a); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Allowed(a) || r.Allowed(b) {
		t.Errorf("a: %t, b: %t", r.Allowed(a), r.Allowed(b))
	}
	if err := r.Repaired(a); err != nil || r.Allowed(a) {
		t.Errorf("allowed again: %v", err)
	}
	if err := r.Allow("/nix/store/../etc"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("no store path: %v", err)
	}
}
