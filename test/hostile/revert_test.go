// SPDX-License-Identifier: MIT

package hostile

import (
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E04: a revert order that is repeated, or leads below the floor, or is for a
// release that was never applied here.
func TestRevertOrdersAreObeyedOnceWithinTheWindow(t *testing.T) {
	s := newScene(t)
	good := trust.Mark{Line: "main", Sequence: 5, Digest: s.releases[5].Digest}
	a, refusal := trust.Accept(s.state, tt.Now, s.offer(nil))
	if refusal != nil {
		t.Fatal(refusal)
	}
	begun := s.state
	begun.LastGood = &good
	begun = begun.Record(a, tt.Now)
	on := begun.Activated(tt.Now)
	window := a.Header.Policy.RevertWindowMs
	with := func(st trust.State, edit func(*trust.State)) trust.State { edit(&st); return st }
	for name, tc := range map[string]struct {
		state trust.State
		now   int64
		of    uint64
		want  fleet.Reason
	}{
		"the pending release":             {on, tt.Now + 1, 6, ""},
		"at the end of the window":        {on, tt.Now + window - 1, 6, ""},
		"after the window":                {on, tt.Now + window, 6, "revert-late"},
		"after the window, floor raised":  {on.RaiseFloor(tt.Now + window), tt.Now + window, 6, "revert-late"},
		"clock set back after the window": {on.RaiseFloor(tt.Now + window), tt.Now, 6, "revert-late"},
		"clock set back, seen times hold": {with(on, func(st *trust.State) { st.HighestSignedTime = tt.Now + window }), tt.Now, 6, "clock-behind"},
		"while it is being applied":       {begun, tt.Now, 6, ""},
		"repeated":                        {on.Left(s.releases[6].Digest, tt.Now), tt.Now, 6, "revert-repeated"},
		"repeated after another try":      {on.Left(s.releases[6].Digest, tt.Now).Record(a, tt.Now).Activated(tt.Now), tt.Now, 6, "revert-repeated"},
		"of the last good release":        {on, tt.Now, 5, "revert-late"},
		"of an older release":             {on, tt.Now, 3, "revert-unknown"},
		"when nothing was applied":        {s.state, tt.Now, 6, "revert-unknown"},
		"after the agent rolled back": {with(on, func(st *trust.State) {
			f := st.Floor.RolledBack(tt.Now)
			st.Floor = &f
		}), tt.Now, 6, "revert-unknown"},
		"after state was lost":        {with(on, func(st *trust.State) { st.Floor = nil }), tt.Now, 6, "revert-unknown"},
		"without a last good release": {with(on, func(st *trust.State) { st.LastGood = nil }), tt.Now, 6, "no-last-good"},
		"to below the floor": {with(on, func(st *trust.State) {
			st.LastGood = &trust.Mark{Line: "main", Sequence: 4, Digest: s.releases[4].Digest}
		}), tt.Now, 6, "below-floor"},
		"to a revoked release": {with(on, func(st *trust.State) {
			st.Revocations = &fleet.Revocations{Releases: []fleet.Digest{s.releases[5].Digest}}
		}), tt.Now, 6, "revoked"},
		"to a release below the line's minimum": {with(on, func(st *trust.State) {
			st.Revocations = &fleet.Revocations{MinSequence: map[fleet.Line]uint64{"main": 6}}
		}), tt.Now, 6, "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			refusal := trust.Revert(tc.state, tc.now, s.releases[tc.of].Digest)
			if tc.want == "" && refusal != nil || tc.want != "" && (refusal == nil || refusal.Reason != tc.want) {
				t.Errorf("got %v, want %q", refusal, tc.want)
			}
		})
	}
}

// E03: after a revert the floor stays at the last good release, so that it is never
// above what the machine runs. An operator may try the release again, and a mended
// one; E04: it is not reverted again.
func TestAfterARevertTheFloorStaysAndTheReleaseMayBeTriedAgain(t *testing.T) {
	s := newScene(t)
	a, refusal := trust.Accept(s.state, tt.Now, s.offer(nil))
	if refusal != nil {
		t.Fatal(refusal)
	}
	st := s.state.Record(a, tt.Now).Activated(tt.Now).Became(a.Mark(), tt.Now).Left(a.Digest, tt.Now)
	s.expect(st, tt.Now+1, "")
	s.expect(st, tt.Now+29*tt.Day, "")
	if r := trust.Revert(st.Record(a, tt.Now).Activated(tt.Now).Became(a.Mark(), tt.Now), tt.Now, a.Digest); r == nil || r.Reason != fleet.ReasonRevertRepeated {
		t.Errorf("reverted again: %v", r)
	}
	if _, refusal = trust.Accept(st, tt.Now+29*tt.Day, s.acme.Bundle(s.releases[5], "web-01")); refusal != nil {
		t.Errorf("the last good release: %v", refusal)
	}
	next := s.release(7, nil, nil)
	b, refusal := trust.Accept(st, tt.Now, s.acme.Bundle(next, "web-01"))
	if refusal != nil {
		t.Fatalf("the next release: %v", refusal)
	}
	st = st.Record(b, tt.Now).Activated(tt.Now).RaiseFloor(tt.Now + 7*tt.Day)
	if got := st.Floor.At("main", tt.Now).Sequence; got != 7 {
		t.Errorf("floor %d after the window, want 7", got)
	}
}

// A machine moves to another line only by a release of its old one, and its
// floor there is not forgotten.
func TestNextLineMovesAMachine(t *testing.T) {
	s := newScene(t)
	move := s.release(6, nil, func(e *fleet.Entry) { e.NextLine = "staging" })
	a, refusal := trust.Accept(s.state, tt.Now, s.acme.Bundle(move, "web-01"))
	if refusal != nil || a.Line != "staging" {
		t.Fatalf("line %q, %v", a.Line, refusal)
	}
	st := s.state.Record(a, tt.Now).Activated(tt.Now)
	st.Line = a.Line
	if _, refusal = trust.Accept(st, tt.Now, s.offer(nil)); refusal == nil || refusal.Reason != "wrong-line" {
		t.Errorf("a release of the old line: got %v", refusal)
	}
	staged := s.release(2, func(h *fleet.Header) { h.Line = "staging" }, nil)
	b, refusal := trust.Accept(st, tt.Now, s.acme.Bundle(staged, "web-01"))
	if refusal != nil {
		t.Fatalf("a release of the new line: %v", refusal)
	}
	st = st.Record(b, tt.Now).Activated(tt.Now)
	if got := st.Floor.At("main", tt.Now); got != a.Mark() {
		t.Errorf("floor of the old line %v, want %v", got, a.Mark())
	}
}

// A14: a cache that does not serve what was built is detected before the switch.
func TestAlteredClosuresAreRefused(t *testing.T) {
	dep := tt.Entry("glibc", "2.40")
	closure := []fleet.ClosurePath{{Path: dep.StorePath, NarHash: dep.NarHash, NarSize: 10}}
	e := tt.Entry("web-01", "x")
	closure = append(closure, fleet.ClosurePath{Path: e.StorePath, NarHash: e.NarHash, NarSize: 20})
	e.ClosureDigest = fleet.ClosureDigest(closure)
	with := func(i int, edit func(*fleet.ClosurePath)) []fleet.ClosurePath {
		c := append([]fleet.ClosurePath{}, closure...)
		edit(&c[i])
		return c
	}
	for name, tc := range map[string]struct {
		closure []fleet.ClosurePath
		want    fleet.Reason
	}{
		"as signed":            {closure, ""},
		"in another order":     {[]fleet.ClosurePath{closure[1], closure[0]}, ""},
		"another system":       {with(1, func(p *fleet.ClosurePath) { p.NarHash = dep.NarHash }), "nar-hash-mismatch"},
		"another dependency":   {with(0, func(p *fleet.ClosurePath) { p.NarHash = e.NarHash }), "closure-mismatch"},
		"a dependency moved":   {with(0, func(p *fleet.ClosurePath) { p.Path = tt.Entry("glibc", "2.41").StorePath }), "closure-mismatch"},
		"a dependency missing": {closure[1:], "closure-mismatch"},
		"the system missing":   {closure[:1], "closure-mismatch"},
		"nothing":              {nil, "closure-mismatch"},
	} {
		refusal := trust.CheckClosure(e, tc.closure)
		if tc.want == "" && refusal != nil || tc.want != "" && (refusal == nil || refusal.Reason != tc.want) {
			t.Errorf("%s: got %v, want %q", name, refusal, tc.want)
		}
	}
}
