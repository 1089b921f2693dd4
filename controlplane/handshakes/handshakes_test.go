// SPDX-License-Identifier: AGPL-3.0-only

package handshakes

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Who wastes a few connections waits for nothing; who wastes many waits, then is
// refused; another address is not touched.
func TestHandshakes_WaitByWhatWasWasted(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	h.Waste("a", now)
	for range 1000 {
		for _, address := range []string{"a", "b"} {
			if d, ok := h.wait(address, now); d != 0 || !ok {
				t.Fatalf("%s waits %s, %t", address, d, ok)
			}
		}
	}
	for range 2 * wastedBurst {
		h.Waste("a", now)
	}
	waited, refused := false, false
	for range 1000 {
		d, ok := h.wait("a", now)
		waited = waited || ok && d > 0
		refused = refused || !ok
		if !ok && d != 0 || d > slowLimit {
			t.Fatalf("waits %s, %t", d, ok)
		}
	}
	if err := h.Wait(t.Context(), "a", now); !waited || !refused || fleet.ErrorCode(err) != fleet.Unavailable {
		t.Errorf("waited %t, refused %t, then %v", waited, refused, err)
	}
	if err := h.Wait(t.Context(), "b", now); err != nil {
		t.Errorf("another address: %v", err)
	}
}
