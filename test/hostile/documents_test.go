// SPDX-License-Identifier: MIT

package hostile

import (
	"encoding/json"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// withTimestamps is a scene whose root demands timestamps.
func withTimestamps(t *testing.T) *scene {
	s := newScene(t)
	acme := tt.New(t, "acme", func(r *fleet.Root) { tt.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	s.acme = acme
	root := acme.Root
	s.state.Root = &root
	return s
}

func (s *scene) learn(state trust.State, now int64, d trust.Documents) trust.State {
	s.t.Helper()
	state, errs := state.Learn(now, d)
	if len(errs) > 0 {
		s.t.Fatal(errs)
	}
	return state
}

func (s *scene) expect(state trust.State, now int64, want fleet.Reason) {
	s.t.Helper()
	_, refusal := trust.Accept(state, now, s.offer(nil))
	var got fleet.Reason
	if refusal != nil {
		got = refusal.Reason
	}
	if got != want {
		s.t.Fatalf("got %q (%v), want %q", got, refusal, want)
	}
}

// A control plane that delivers nothing, or old documents, stops the machines. It
// cannot make them accept a release.
func TestTimestampsShowWhenDocumentsAreWithheld(t *testing.T) {
	s := withTimestamps(t)
	revoked := s.acme.Revocations(fleet.Revocations{Version: 2, SignedAt: tt.Now - tt.Hour, Releases: []fleet.Digest{s.releases[6].Digest}})
	harmless := s.acme.Revocations(fleet.Revocations{Version: 1, SignedAt: tt.Now - 2*tt.Hour})
	digest := func(data []byte) fleet.Digest {
		e, err := trust.ParseEnvelope(data, fleet.TypeRevocations)
		if err != nil {
			t.Fatal(err)
		}
		return e.Digest()
	}
	stamp := func(version uint64, age int64, revocations fleet.Digest) []byte {
		return s.acme.Timestamp(fleet.Timestamp{Version: version, SignedAt: tt.Now - age, Expires: tt.Now - age + tt.Day, Revocations: revocations})
	}

	s.expect(s.state, tt.Now, "stale-timestamp") // none delivered
	fresh := s.learn(s.state, tt.Now, trust.Documents{Timestamp: stamp(7, 0, "")})
	s.expect(fresh, tt.Now, "")
	s.expect(fresh, tt.Now+tt.Day-1, "")
	s.expect(fresh, tt.Now+tt.Day, "stale-timestamp") // no newer one delivered

	// The list that revokes release 6 is withheld, an older one is delivered.
	old := s.learn(s.state, tt.Now, trust.Documents{Timestamp: stamp(7, 0, digest(revoked)), Revocations: harmless})
	s.expect(old, tt.Now, "withheld")
	none := s.learn(s.state, tt.Now, trust.Documents{Timestamp: stamp(7, 0, digest(revoked))})
	s.expect(none, tt.Now, "withheld")
	told := s.learn(old, tt.Now, trust.Documents{Revocations: revoked})
	s.expect(told, tt.Now, "revoked")

	// Revoking works at once, before the next timestamp names the list.
	early := s.learn(s.state, tt.Now, trust.Documents{Timestamp: stamp(7, 2*tt.Hour, digest(harmless)), Revocations: revoked})
	s.expect(early, tt.Now, "revoked")
	later := s.learn(s.state, tt.Now, trust.Documents{Timestamp: stamp(7, 90*60*1000, digest(harmless)),
		Revocations: s.acme.Revocations(fleet.Revocations{Version: 3, SignedAt: tt.Now})})
	s.expect(later, tt.Now, "")

	// Replaying old documents cannot undo anything that a machine has learnt.
	for name, d := range map[string]trust.Documents{
		"older timestamp":          {Timestamp: stamp(6, 0, "")},
		"same version, other":      {Timestamp: stamp(7, 1, digest(revoked))},
		"older revocations":        {Revocations: harmless},
		"same version, other list": {Revocations: s.acme.Revocations(fleet.Revocations{Version: 2, SignedAt: tt.Now})},
	} {
		after, errs := told.Learn(tt.Now, d)
		if len(errs) != 1 || trust.ReasonOf(errs[0]) != "older-document" {
			t.Errorf("%s: got %v", name, errs)
		}
		s.expect(after, tt.Now, "revoked")
	}
	s.learn(told, tt.Now, trust.Documents{Timestamp: stamp(7, 0, digest(revoked)), Revocations: revoked}) // the same documents again change nothing
}

// E02 for the other documents: each role signs its own kind and no other.
func TestDocumentsOfTheWrongSignersAreRefused(t *testing.T) {
	s := withTimestamps(t)
	grant := fleet.Grant{FleetID: "acme", Machines: []fleet.MachineID{"web-01"}, Digest: s.releases[4].Digest, Kind: "downgrade",
		SignedAt: tt.Now, Expires: tt.Now + tt.Day}
	stamp := fleet.Timestamp{FleetID: "acme", Version: 9, SignedAt: tt.Now, Expires: tt.Now + tt.Day, Lines: map[fleet.Line]uint64{}}
	list := fleet.Revocations{FleetID: "acme", Version: 9, SignedAt: tt.Now, Releases: []fleet.Digest{}}
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	with := func(g fleet.Grant, edit func(*fleet.Grant)) []byte { edit(&g); return text(g) }
	sign := s.acme.Sign
	for name, tc := range map[string]struct {
		d    trust.Documents
		want fleet.Reason
	}{
		"grant by a release key":       {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, text(grant), "acme-release")}}, "unknown-key"},
		"grant by a root key":          {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, text(grant), "acme-root")}}, "unknown-key"},
		"grant, not signed":            {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, text(grant))}}, "not-signed"},
		"grant of another fleet":       {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.FleetID = "evil" }), "acme-operator")}}, "wrong-fleet"},
		"grant for others":             {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.Machines = []fleet.MachineID{"web-02"} }), "acme-operator")}}, "wrong-machine"},
		"grant for no one":             {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.Machines = nil }), "acme-operator")}}, "malformed"},
		"grant for 25 hours":           {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.Expires += tt.Hour }), "acme-operator")}}, "grant-too-long"},
		"grant, expired":               {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.SignedAt, g.Expires = 1, tt.Now }), "acme-operator")}}, "grant-too-long"},
		"grant of yesterday":           {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.SignedAt, g.Expires = tt.Now-tt.Day, tt.Now }), "acme-operator")}}, "expired"},
		"grant of an unknown kind":     {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.Kind = "root" }), "acme-operator")}}, "malformed"},
		"grant with a critical field":  {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.Crit = []string{"once"} }), "acme-operator")}}, "critical-field"},
		"grant from tomorrow":          {trust.Documents{Grants: [][]byte{sign(fleet.TypeGrant, with(grant, func(g *fleet.Grant) { g.SignedAt, g.Expires = tt.Now+tt.Day, tt.Now+2*tt.Day }), "acme-operator")}}, "clock-behind"},
		"timestamp by an operator":     {trust.Documents{Timestamp: sign(fleet.TypeTimestamp, text(stamp), "acme-operator")}, "unknown-key"},
		"a timestamp as revocations":   {trust.Documents{Revocations: sign(fleet.TypeTimestamp, text(stamp), "acme-revoker")}, "wrong-type"},
		"revocations by the timestamp": {trust.Documents{Revocations: sign(fleet.TypeRevocations, text(list), "acme-timestamp")}, "unknown-key"},
		"revocations, not JSON":        {trust.Documents{Revocations: []byte("{")}, "malformed"},
		"another fleet's root":         {trust.Documents{Roots: [][]byte{s.evil.RootEnvelope}}, "wrong-fleet"},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := json.Marshal(s.state)
			after, errs := s.state.Learn(tt.Now, tc.d)
			if len(errs) != 1 || trust.ReasonOf(errs[0]) != tc.want {
				t.Errorf("got %v, want %s", errs, tc.want)
			}
			if got, _ := json.Marshal(after); string(got) != string(before) {
				t.Errorf("the state changed: %s", got)
			}
		})
	}
}

// A signer's wrong clock must not stop a fleet for good.
func TestTimesFromTheFutureAreNotRemembered(t *testing.T) {
	s := newScene(t)
	state, errs := s.state.Learn(tt.Now, trust.Documents{
		Revocations: s.acme.Revocations(fleet.Revocations{Version: 1, SignedAt: tt.Now + 10*365*tt.Day}),
	})
	if len(errs) != 1 || trust.ReasonOf(errs[0]) != "clock-behind" {
		t.Fatalf("got %v", errs)
	}
	s.expect(state, tt.Now, "")
	future := s.acme.Bundle(s.release(7, func(h *fleet.Header) {
		h.CreatedAt, h.Expires = tt.Now+tt.Day, tt.Now+2*tt.Day
	}, nil), "web-01")
	if _, refusal := trust.Accept(state, tt.Now, future); refusal == nil || refusal.Reason != "clock-behind" || !refusal.Reason.Holds() {
		t.Fatalf("got %v", refusal)
	}
	if _, refusal := trust.Accept(state, tt.Now+tt.Day, future); refusal != nil {
		t.Fatalf("a day later: %v", refusal)
	}
}

// A grant allows one thing, for one release, to the machines that it names, until
// it expires.
func TestGrantsAllowOneThing(t *testing.T) {
	s := withTimestamps(t)
	current := s.acme.Timestamp(fleet.Timestamp{Version: 7, SignedAt: tt.Now, Expires: tt.Now + 300*tt.Day})
	base := s.learn(s.state, tt.Now, trust.Documents{Timestamp: current})
	granted := func(seq uint64, kind fleet.GrantKind, signedAt int64) trust.State {
		return s.learn(base, max(tt.Now, signedAt), trust.Documents{Grants: [][]byte{s.acme.Grant(fleet.Grant{
			Machines: []fleet.MachineID{"db-01", "web-01"}, Digest: s.releases[seq].Digest, Kind: kind,
			SignedAt: signedAt, Expires: signedAt + tt.Day})}})
	}
	noFloor := func(st trust.State) trust.State { st.Floor = nil; return st }
	noStamp := func(st trust.State) trust.State { st.Timestamp = nil; return st }
	late := int64(30 * tt.Day)
	for name, tc := range map[string]struct {
		state trust.State
		offer uint64
		now   int64
		want  fleet.Reason
	}{
		"downgrade":                       {granted(4, "downgrade", tt.Now), 4, tt.Now + tt.Day - 1, ""},
		"downgrade, after a day":          {granted(4, "downgrade", tt.Now), 4, tt.Now + tt.Day, "below-floor"},
		"downgrade of another release":    {granted(4, "downgrade", tt.Now), 3, tt.Now, "below-floor"},
		"downgrade by another kind":       {granted(4, "stale", tt.Now), 4, tt.Now, "below-floor"},
		"downgrade without a floor":       {noFloor(granted(4, "downgrade", tt.Now)), 4, tt.Now, ""},
		"another release without a floor": {noFloor(granted(4, "downgrade", tt.Now)), 6, tt.Now, "floor-unknown"},
		"no timestamp":                    {noStamp(granted(6, "stale", tt.Now)), 6, tt.Now, ""},
		"no timestamp, another kind":      {noStamp(granted(6, "downgrade", tt.Now)), 6, tt.Now, "stale-timestamp"},
		"expired release":                 {granted(6, "stale", tt.Now+late), 6, tt.Now + late, ""},
		"expired release, another kind":   {granted(6, "downgrade", tt.Now+late), 6, tt.Now + late, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			_, refusal := trust.Accept(tc.state, tc.now, s.acme.Bundle(s.releases[tc.offer], "web-01"))
			if tc.want == "" && refusal != nil || tc.want != "" && (refusal == nil || refusal.Reason != tc.want) {
				t.Errorf("got %v, want %q", refusal, tc.want)
			}
		})
	}
	revoked := s.learn(granted(4, "downgrade", tt.Now), tt.Now, trust.Documents{
		Revocations: s.acme.Revocations(fleet.Revocations{Version: 1, SignedAt: tt.Now, Releases: []fleet.Digest{s.releases[4].Digest}}),
	})
	if _, refusal := trust.Accept(revoked, tt.Now, s.acme.Bundle(s.releases[4], "web-01")); refusal == nil || refusal.Reason != "revoked" {
		t.Errorf("a grant for a revoked release: got %v", refusal)
	}
}
