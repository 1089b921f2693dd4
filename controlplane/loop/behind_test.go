// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// A machine that missed a rollout that was made for it waits for longer each time, up
// to a limit. What it waits for is forgotten when it has caught up.
func TestBehind_WaitsLongerEachTime(t *testing.T) {
	b := newBehind([]store.CatchUp{{Machine: "m"}})
	last := int64(0)
	for range 100 {
		b.change(nil, map[fleet.MachineID]bool{"m": false, "other": false}, 0)
		w := b.wait("m")
		if w.until < last || w.until > catchUpAgainMost.Milliseconds() || last == 0 && w.until != (2*time.Minute).Milliseconds() {
			t.Fatalf("after %d ms it waits for %d ms", last, w.until)
		}
		last = w.until
	}
	if last != catchUpAgainMost.Milliseconds() || b.wait("m").silent != 0 || b.wait("other") != (wait{}) {
		t.Errorf("at the end it waits for %d ms: %+v", last, b.waits)
	}
	b.change(map[fleet.MachineID]*store.CatchUp{"m": nil}, nil, 0)
	b.change(map[fleet.MachineID]*store.CatchUp{"m": {Machine: "m"}}, nil, 0)
	if !b.Has("m") || b.wait("m") != (wait{}) {
		t.Errorf("later it waits for %+v", b.wait("m"))
	}
}
