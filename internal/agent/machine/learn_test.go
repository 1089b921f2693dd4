// SPDX-License-Identifier: MIT

package machine

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// successor signs version 2 of a fleet's root, by the keys of version 1.
func successor(t *testing.T, f *trusttest.Fleet, signer string) []byte {
	t.Helper()
	root := f.Root
	root.Version++
	payload, err := trust.NewRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	return f.Sign(fleet.TypeRoot, payload, signer)
}

// The trust documents that the control plane names are fetched, judged and kept.
func TestLearn_FollowsTheChainAndKeepsRevocations(t *testing.T) {
	f := trusttest.New(t, "test", nil)
	now := time.Now().UnixMilli()
	revoked := f.Revocations(fleet.Revocations{Version: 1, SignedAt: now, Releases: []fleet.Digest{someOrder.Digest}})
	p := &fakePlane{roots: [][]byte{successor(t, f, "test-root")}, docs: map[fleet.Digest][]byte{"rev": revoked}}
	m := testMachine(t, p)
	j := states.New()
	j.Trust = f.State("web-01")
	have := fleet.DocumentDigests{Root: "root-2", Revocations: "rev"}
	j, _ = states.Next(j, m.learn(t.Context(), j, have), m.Now())
	if j.Trust.Root.Version != 2 || j.Trust.Revocations == nil || j.Learned.Root != "root-2" || j.Learned.Revocations != "rev" {
		t.Errorf("root %d, revocations %v, learned %+v", j.Trust.Root.Version, j.Trust.Revocations, j.Learned)
	}
	if in := m.learn(t.Context(), j, have); in != nil {
		t.Errorf("learned again: %+v", in)
	}
}

// E02: a root document signed by a stranger's key, and revocations signed by the
// wrong role, change nothing. Each is reported once.
func TestLearn_RefusesWhatIsSignedByOthers(t *testing.T) {
	f := trusttest.New(t, "test", nil)
	stranger := trusttest.New(t, "stranger", nil)
	now := time.Now().UnixMilli()
	p := &fakePlane{
		roots: [][]byte{successor(t, f, "stranger-root")},
		docs:  map[fleet.Digest][]byte{"rev": stranger.Revocations(fleet.Revocations{Version: 9, SignedAt: now})},
	}
	m := testMachine(t, p)
	j := states.New()
	j.Trust = f.State("web-01")
	have := fleet.DocumentDigests{Root: "root-2", Revocations: "rev"}
	for range 3 {
		if in := m.learn(t.Context(), j, have); in != nil {
			j, _ = states.Next(j, in, m.Now())
		}
	}
	if j.Trust.Root.Version != 1 || j.Trust.Revocations != nil {
		t.Errorf("root %d, revocations %v", j.Trust.Root.Version, j.Trust.Revocations)
	}
	if n := m.Outbox.Len(); n != 2 {
		t.Errorf("%d refusals reported, want one for each document", n)
	}
}

// A17: a machine that lost its floor takes the sequence that a fresh timestamp names
// for its line; not if a copy of its floor is damaged, and never if it has one.
func TestAdopted_TakesTheFloorThatAFreshTimestampNames(t *testing.T) {
	f := trusttest.New(t, "test", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "test-timestamp") })
	now := time.Now().UnixMilli()
	for name, tc := range map[string]struct {
		line    fleet.Line
		life    int64
		known   bool
		damaged bool
		want    fleet.Sequence
	}{
		"fresh":        {"main", 3600_000, false, false, 9},
		"expired":      {"main", -1, false, false, 0},
		"other line":   {"staging", 3600_000, false, false, 0},
		"floor known":  {"main", 3600_000, true, false, 0},
		"copy damaged": {"main", 3600_000, false, true, 0},
	} {
		m := testMachine(t, &fakePlane{docs: map[fleet.Digest][]byte{"ts": f.Timestamp(fleet.Timestamp{
			Version: 1, SignedAt: now - 1000, Expires: now + tc.life, Lines: map[fleet.Line]fleet.Sequence{tc.line: 9},
		})}})
		m.OnlyAPersonSetsTheFloor = tc.damaged
		j := states.New()
		j.Trust = f.State("web-01")
		if !tc.known {
			j.Trust.Floor = nil
		}
		j, _ = states.Next(j, m.learn(t.Context(), j, fleet.DocumentDigests{Timestamp: "ts"}), m.Now())
		if j.Trust.Timestamp == nil {
			t.Fatalf("%s: the timestamp is not learned", name)
		}
		in := m.adopted(j)
		if a, ok := in.(states.Adopted); ok != (tc.want > 0) || ok && a.Floor.Lines["main"].Sequence != tc.want {
			t.Errorf("%s: %+v", name, in)
		}
	}
}

// A grant is fetched once and kept; one for another machine, and one that a
// stranger signed, are reported and change nothing.
func TestLearnGrants_KeepsThoseForThisMachine(t *testing.T) {
	f, stranger := trusttest.New(t, "test", nil), trusttest.New(t, "stranger", nil)
	now := time.Now().UnixMilli()
	grant := func(by *trusttest.Fleet, m fleet.MachineID) []byte {
		return by.Grant(fleet.Grant{Machines: []fleet.MachineID{m}, Digest: someOrder.Digest, Kind: fleet.GrantDowngrade, SignedAt: now, Expires: now + 1000*3600})
	}
	p := &fakePlane{docs: map[fleet.Digest][]byte{"good": grant(f, "web-01"), "other": grant(f, "web-02"), "forged": grant(stranger, "web-01")}}
	m := testMachine(t, p)
	j := states.New()
	j.Trust = f.State("web-01")
	all := []fleet.Digest{"other", "good", "forged"}
	in := m.learnGrants(t.Context(), j, all)
	if !m.changes(j, in) {
		t.Fatal("nothing was learned")
	}
	j, _ = states.Next(j, in, m.Now())
	if len(j.Trust.Grants) != 1 || j.Trust.Grants[0].Digest != someOrder.Digest {
		t.Errorf("grants %+v", j.Trust.Grants)
	}
	if n := m.Outbox.Len(); n != 2 {
		t.Errorf("%d refusals reported, want 2", n)
	}
	if in := m.learnGrants(t.Context(), j, all); m.changes(j, in) {
		t.Errorf("learned again: %+v", in)
	}
	if !m.idle.documents["good"].After(time.Now().Add(time.Hour)) {
		t.Error("a grant that is known would be fetched at each look")
	}
	again := testMachine(t, p) // the agent starts again
	if in := again.learnGrants(t.Context(), j, []fleet.Digest{"good"}); again.changes(j, in) {
		t.Error("a grant that is known changed the journal")
	}
}
