// SPDX-License-Identifier: MIT

package trust_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

func mark(seq uint64) trust.Mark {
	return trust.Mark{Line: "main", Sequence: seq, Digest: fleet.SHA256(fmt.Append(nil, seq))}
}

func TestFloor_FollowsOnlyWhenTheWindowEndsOrALaterReleaseBegins(t *testing.T) {
	const window, now = 100, 1000
	at := func(seq uint64) trust.Floor {
		return trust.Floor{}.Begin(mark(seq), window, now).Activated(now).Raise(now + window)
	}
	for name, tc := range map[string]struct {
		f    trust.Floor
		now  int64
		want uint64
	}{
		"no release yet":                     {trust.Floor{}, now, 0},
		"begun, not activated":               {at(5).Begin(mark(6), window, now), now + 10*window, 5},
		"in the window":                      {at(5).Begin(mark(6), window, now).Activated(now), now + window - 1, 5},
		"window over":                        {at(5).Begin(mark(6), window, now).Activated(now), now + window, 6},
		"no window":                          {at(5).Begin(mark(6), 0, now).Activated(now), now, 6},
		"window runs from the first switch":  {at(5).Begin(mark(6), window, now).Activated(now).Activated(now + 50), now + window, 6},
		"another try does not lengthen it":   {at(5).Begin(mark(6), window, now).Activated(now).Begin(mark(6), window, now+50).Activated(now + 50), now + window, 6},
		"rolled back":                        {at(5).Begin(mark(6), window, now).Activated(now).RolledBack(now), now + window, 5},
		"rolled back after the window":       {at(5).Begin(mark(6), window, now).Activated(now).RolledBack(now + window), now + window, 6},
		"a later one begins":                 {at(5).Begin(mark(6), window, now).Activated(now).Begin(mark(7), window, now), now, 6},
		"a later one begins and fails":       {at(5).Begin(mark(6), window, now).Begin(mark(7), window, now).RolledBack(now), now + window, 6},
		"the later one's window ends":        {at(5).Begin(mark(6), window, now).Begin(mark(7), window, now).Activated(now), now + window, 7},
		"the last good again":                {at(5).Begin(mark(7), window, now).Activated(now).Begin(mark(5), window, now), now + window, 5},
		"one between them, window open":      {at(5).Begin(mark(7), window, now).Activated(now).Begin(mark(6), window, now), now, 5},
		"one between them, window over":      {at(5).Begin(mark(7), window, now).Activated(now).Begin(mark(6), window, now).Activated(now), now + window, 6},
		"a granted downgrade does not lower": {at(5).Begin(mark(3), window, now).Activated(now), now + window, 5},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.f.At("main", tc.now).Sequence; got != tc.want {
				t.Errorf("floor %d, want %d", got, tc.want)
			}
			if got := tc.f.At("staging", tc.now); got != (trust.Mark{}) {
				t.Errorf("another line has the floor %v", got)
			}
		})
	}
}

// Whatever happens, a line's floor never sinks and is always the sequence of a
// release that was begun; and a value returned earlier does not change.
func TestFloor_NeverSinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f trust.Floor
		now, floor := int64(1), uint64(0)
		begun := map[trust.Mark]bool{{}: true}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before, copied := f, trust.Floor{Lines: map[fleet.Line]trust.Mark{}, Pending: f.Pending}
			for l, m := range f.Lines {
				copied.Lines[l] = m
			}
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				m := mark(rapid.Uint64Range(1, 20).Draw(t, "sequence"))
				begun[m] = true
				f = f.Begin(m, rapid.Int64Range(0, 50).Draw(t, "window"), now)
			case 1:
				f = f.Activated(now)
			case 2:
				f = f.RolledBack(now)
			case 3:
				f = f.Raise(now)
			case 4:
				now += rapid.Int64Range(0, 60).Draw(t, "later")
			}
			m := f.At("main", now)
			if m.Sequence < floor || !begun[m] {
				t.Fatalf("the floor was %d and is %v", floor, m)
			}
			floor = m.Sequence
			if before.Lines != nil {
				if diff := cmp.Diff(copied, before); diff != "" {
					t.Fatalf("an older value changed:\n%s", diff)
				}
			}
		}
	})
}
