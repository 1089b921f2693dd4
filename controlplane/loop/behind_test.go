// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
)

// A machine that missed a rollout that was made for it waits for longer each time, up
// to a limit.
func TestMissed_WaitsLongerEachTime(t *testing.T) {
	c := store.CatchUp{Machine: "m"}
	last := int64(0)
	for n := range 100 {
		c = missed(c, n%2 == 0, 0)
		if c.Until < last || c.Until > catchUpAgainMost.Milliseconds() || last == 0 && c.Until != (2*time.Minute).Milliseconds() {
			t.Fatalf("after %d ms it waits for %d ms", last, c.Until)
		}
		last = c.Until
	}
	if last != catchUpAgainMost.Milliseconds() || c.Tries != 100 || c.Silent != 50 {
		t.Errorf("at the end: %+v", c)
	}
}
