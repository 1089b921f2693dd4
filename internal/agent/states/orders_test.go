// SPDX-License-Identifier: MIT

package states

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
)

var (
	applyOrder  = &fleet.Order{Digest: apply.Digest, Rollout: "r1", Attempt: 1}
	revertOrder = &fleet.Order{Digest: apply.Digest, Rollout: "r1", Attempt: 1}
)

// H03: an order that was carried out is not begun again; another attempt is.
func TestPick_TakesEachOrderOnceAndRevertsFirst(t *testing.T) {
	j := New()
	o, ok := (Orders{Apply: applyOrder}).Pick(j)
	if !ok || o.Kind != Apply {
		t.Fatalf("order = %+v, %t", o, ok)
	}
	j.Done = append(j.Done, o.Key())
	if o, ok := (Orders{Apply: applyOrder}).Pick(j); ok {
		t.Errorf("again: %+v", o)
	}
	if o, ok := (Orders{Apply: applyOrder, Revert: revertOrder}).Pick(j); !ok || o.Kind != Revert {
		t.Errorf("order = %+v, %t", o, ok)
	}
	retry := *applyOrder
	retry.Attempt = 2
	if _, ok := (Orders{Apply: &retry}).Pick(j); !ok {
		t.Error("another attempt is not begun")
	}
}

func TestInterrupt_WithdrawsOrReverts(t *testing.T) {
	working := func(s Step) Journal {
		j := New()
		j.Step, j.Work = s, &Work{Order: apply}
		return j
	}
	for _, tc := range []struct {
		name string
		v    Orders
		step Step
		want Input
	}{
		{"still ordered", Orders{Apply: applyOrder}, Fetch, nil},
		{"no longer ordered", Orders{}, Fetch, Withdrawn{}},
		{"reverted before the switch", Orders{Revert: revertOrder}, Fetch, Withdrawn{}},
		{"reverted after it", Orders{Revert: revertOrder}, Verify, Ordered{Order: Order{Kind: Revert, Order: fleet.Order{Digest: apply.Digest, Rollout: "r1", Attempt: 1}}}},
	} {
		got, _ := tc.v.Interrupt(working(tc.step))
		if d := cmp.Diff(got, tc.want); d != "" {
			t.Errorf("%s: -got +want:\n%s", tc.name, d)
		}
	}
}
