// SPDX-License-Identifier: MIT

package states

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// H03: an order that was carried out is not carried out again, however often it is
// given.
func TestNext_CarriesOutAnOrderOnce(t *testing.T) {
	live := run(at(t, Verify), boot1, Healthy{}, Done{})
	back := run(live, boot1, Ordered{revert}, Done{}, Switched{Generations: onOld}, Done{}, Done{})
	for name, c := range map[string]struct {
		j Journal
		o Order
	}{"an apply": {live, apply}, "an apply, reverted since": {back, apply}, "a revert": {back, revert}} {
		if next, changed := Next(c.j, Ordered{c.o}, boot1); changed || next.Work != nil {
			t.Errorf("%s: step %s, work %+v", name, next.Step, next.Work)
		}
	}
}

// E04: while a release is verified, an order reverts that release alone, within its
// window, if it is known what ran before; a system that ran before the attempt is
// not left for it.
func TestNext_RevertsOnlyWhatIsAtWork(t *testing.T) {
	late := boot1
	late.WallMs += 3600_001
	other := revert
	other.Digest = oldDigest
	pending := at(t, Verify) // whatever the floor says of it
	pending.Trust.Floor.Pending.Digest = oldDigest
	converged := after(at(t, Prepare), Prepared{Generations: onNew}, boot1)
	converged.Work.Previous = *converged.Current
	foreign := at(t, Verify)
	foreign.Work.Previous = System{Path: handPath}
	for name, c := range map[string]struct {
		j     Journal
		o     Order
		now   Moment
		obeys bool
	}{
		"in its window":                   {at(t, Verify), revert, boot1, true},
		"after its window":                {at(t, Verify), revert, late, false},
		"of another release":              {at(t, Verify), other, boot1, false},
		"of another release, pending":     {pending, other, boot1, false},
		"of what ran before":              {converged, revert, boot1, false},
		"to a system that no release has": {foreign, revert, boot1, false},
	} {
		next, changed := Next(c.j, Ordered{c.o}, c.now)
		if changed != c.obeys || c.obeys != (next.Step == RollbackProfile) || !c.obeys && !cmp.Equal(next, c.j) {
			t.Errorf("%s: step %s, reason %q", name, next.Step, next.Work.Reason)
		}
	}
}

// A fetch goes on with what it replaced, and is tried again only until the order's
// deadline.
func TestNext_EndsAFetchAtItsDeadline(t *testing.T) {
	fetch := at(t, Fetch)
	if next, changed := Next(fetch, Replaced{Paths: []string{"a path"}}, boot1); !changed || next.Step != Prepare || len(next.Work.Replaced) != 1 {
		t.Errorf("replaced: changed %t, step %s, work %+v", changed, next.Step, next.Work)
	}
	in := Failed{Reason: fleet.ReasonFetchFailed, Message: "down", Again: true}
	for seconds, want := range map[float64]Step{60: Fetch, 60.1: Report} {
		now := boot1
		now.Boot += seconds
		if next := after(fetch, in, now); next.Step != want {
			t.Errorf("after %v s: step %s, want %s", seconds, next.Step, want)
		}
	}
}

// A profile that could not be set is set back, and no switch follows: none has
// happened.
func TestNext_SwitchesNothingBackThatWasNotSwitched(t *testing.T) {
	j := after(at(t, Profile), Failed{Reason: fleet.ReasonDiskFull, Message: "full"}, boot1)
	if j.Step != RollbackProfile {
		t.Fatalf("step %s", j.Step)
	}
	if j = after(j, Done{}, boot1); j.Step != Report || j.Work.Outcome != fleet.OutcomeFailed || j.Work.Reason != fleet.ReasonDiskFull {
		t.Errorf("step %s, outcome %s, reason %s", j.Step, j.Work.Outcome, j.Work.Reason)
	}
}

// A17: a floor is adopted by an agent that knows none, and by no other. Documents
// that are known change nothing, whatever else is said with them.
func TestNext_AdoptsAFloorOnceAndLearnsWhatIsNew(t *testing.T) {
	floor := trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 9, Digest: newDigest}}}
	j := atRest()
	if next, changed := Next(j, Adopted{floor}, boot1); changed || floorOf(next) != 1 {
		t.Errorf("a floor that is known: changed %t, now %d", changed, floorOf(next))
	}
	j.Trust.Floor = nil
	if next, changed := Next(j, Adopted{floor}, boot1); !changed || floorOf(next) != 9 {
		t.Errorf("no floor: changed %t, now %d", changed, floorOf(next))
	}
	j.Learned = fleet.DocumentDigests{Root: newDigest}
	if next, changed := Next(j, Learned{Trust: trust.State{HighestSignedTime: 7}, Documents: j.Learned}, boot1); changed || next.Trust.HighestSignedTime == 7 {
		t.Errorf("known documents: changed %t, %+v", changed, next.Trust)
	}
}
