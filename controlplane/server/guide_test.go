// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/wire"
	"github.com/arcanesys/nixfleet/fleet"
)

// What the guide says of codes and limits is what the server has.
func TestGuide_SaysTheCodesAndLimits(t *testing.T) {
	b, err := os.ReadFile("../../docs/guide/api.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := string(b)
	for _, c := range fleet.Codes {
		if row := fmt.Sprintf("| `%s` | %d |", c, api.Status(c)); !strings.Contains(guide, row) {
			t.Errorf("the guide has no row %s", row)
		}
	}
	if n := strings.Count(guide, "\n| `"); n != len(fleet.Codes) {
		t.Errorf("the guide lists %d codes, there are %d", n, len(fleet.Codes))
	}
	for _, want := range []string{
		fmt.Sprintf("| body | %d MiB; of a release %d MiB; within %.0f seconds, a release within %.0f minutes |", maxBody>>20, wire.MaxReleaseBody>>20, bodyTimeout.Seconds(), releaseTimeout.Minutes()),
		fmt.Sprintf("| items of a page | %d; %d if", fleet.MaxLimit, fleet.PageRequest{}.Size()),
		fmt.Sprintf("one in %.0f seconds after a burst of %d;", 1/failuresPerSec, failureBurst),
	} {
		if !strings.Contains(guide, want) {
			t.Errorf("the guide does not say: %s", want)
		}
	}
}
