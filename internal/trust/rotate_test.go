// SPDX-License-Identifier: MIT

package trust_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// changes draws a change of the root role, from the keys p0 to p5.
func changes(t *rapid.T, root fleet.Root) trust.RootChange {
	label := rapid.SampledFrom([]string{"p0", "p1", "p2", "p3", "p4", "p5"})
	c := trust.RootChange{Expires: root.Expires + 1}
	held := rapid.SampledFrom(root.Roles[fleet.TrustRoleRoot].Keys)
	if rapid.Bool().Draw(t, "add") {
		c.Add = []trust.RoleKey{{Role: fleet.TrustRoleRoot, Key: trusttest.Key(label.Draw(t, "new")).PublicKey()}}
	}
	if rapid.Bool().Draw(t, "replace") {
		c.Replace = []trust.Replacement{{Old: held.Draw(t, "old"), New: trusttest.Key(label.Draw(t, "by")).PublicKey()}}
	} else if rapid.Bool().Draw(t, "remove") {
		c.Remove = []trust.KeyRef{{Role: fleet.TrustRoleRoot, Key: held.Draw(t, "gone")}}
	}
	if rapid.Bool().Draw(t, "threshold") {
		c.Thresholds = map[fleet.TrustRole]int{fleet.TrustRoleRoot: rapid.IntRange(1, 3).Draw(t, "n")}
	}
	return c
}

// E01: a version follows exactly if distinct keys of the version before and of its
// own have signed up to both thresholds; a key that signs twice counts once. A
// machine that starts from any version follows the rest of the chain, and none
// that lacks a version.
func TestNextRoot_ChainsByTheThresholdsOfBothVersions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleRoot, "p0") })
		chain, roots := [][]byte{f.RootEnvelope}, []fleet.Root{f.Root}
		for range rapid.IntRange(1, 8).Draw(rt, "versions") {
			old := roots[len(roots)-1]
			next, err := trust.NextRoot(old, changes(rt, old), trusttest.Now)
			if err != nil {
				continue // such as a threshold above the number of keys
			}
			payload, err := trust.NewRoot(next)
			if err != nil {
				rt.Fatalf("NextRoot made a root document that NewRoot refuses: %v", err)
			}
			e := trust.Envelope{PayloadType: fleet.TypeRoot, Payload: payload}
			who := rapid.SliceOfN(rapid.SampledFrom([]string{"acme-root", "p0", "p1", "p2", "p3", "p4", "p5"}), 0, 7).Draw(rt, "signers")
			for _, w := range who {
				k := trusttest.Key(w)
				sig, _ := k.Sign(trust.PAE(e.PayloadType, e.Payload))
				e.Signatures = append(e.Signatures, trust.Signature{Sig: sig})
			}
			want := enough(old, who) && enough(next, who)
			got, err := trust.AdvanceRoot(old, trusttest.Now, e.Encode())
			if (err == nil) != want {
				rt.Fatalf("signed by %v: %v, want accepted %v", who, err, want)
			}
			d, derr := trust.ParseDraft(e.Encode())
			if derr != nil {
				rt.Fatal(derr)
			}
			quorums, derr := d.Quorums(&old)
			if derr != nil {
				rt.Fatal(derr)
			}
			if met := quorums[0].Met() && quorums[1].Met(); met != want {
				rt.Fatalf("signed by %v: quorums %+v", who, quorums)
			}
			if err == nil {
				chain, roots = append(chain, e.Encode()), append(roots, got)
			}
		}
		last := roots[len(roots)-1]
		for i := range roots {
			if got, err := trust.AdvanceRoot(roots[i], trusttest.Now, chain[i+1:]...); err != nil || got.Version != last.Version {
				rt.Fatalf("from version %d: version %d, %v; want %d", roots[i].Version, got.Version, err, last.Version)
			}
			if i+2 < len(roots) {
				if got, err := trust.AdvanceRoot(roots[i], trusttest.Now, chain[i+2:]...); err == nil || got.Version != roots[i].Version {
					rt.Fatalf("version %d without version %d: version %d, %v", roots[i].Version, roots[i+1].Version, got.Version, err)
				}
			}
		}
	})
}

// enough reports whether the labels name as many distinct keys of the root role as
// it needs.
func enough(root fleet.Root, labels []string) bool {
	keys, need := trust.RoleKeys(root, fleet.TrustRoleRoot)
	distinct := map[string]bool{}
	for _, l := range labels {
		if trust.HasKey(keys, trusttest.Key(l).Public()) {
			distinct[l] = true
		}
	}
	return len(distinct) >= need
}

func TestNextRoot_RefusesWhatCannotBeMeant(t *testing.T) {
	alice, carol := trusttest.Key("alice").PublicKey(), trusttest.Key("carol").PublicKey()
	f := trusttest.New(t, "acme", func(r *fleet.Root) {
		trusttest.AddKey(r, fleet.TrustRoleRelease, "bob")
		trusttest.AddKey(r, fleet.TrustRoleRelease, "dave")
		for _, id := range r.Roles[fleet.TrustRoleRelease].Keys[1:] { // persons of one name
			k := r.Keys[id]
			k.Name = "twin"
			r.Keys[id] = k
		}
		// A key id is only a word: this one looks like that of another key.
		q := r.Roles[fleet.TrustRoleOperator]
		r.Keys[trust.KeyID(carol.Key)] = trusttest.Key("erin").PublicKey().Trust()
		r.Roles[fleet.TrustRoleOperator] = fleet.KeyQuota{Keys: append(q.Keys, trust.KeyID(carol.Key)), Threshold: 1}
	})
	for name, tc := range map[string]struct {
		change trust.RootChange
		want   string
	}{
		"nothing":                {trust.RootChange{}, "nothing changes"},
		"the same again":         {trust.RootChange{Thresholds: map[fleet.TrustRole]int{fleet.TrustRoleRoot: 1}}, "nothing changes"},
		"no such key":            {trust.RootChange{Remove: []trust.KeyRef{{Key: "bob"}}}, `no key "bob"`},
		"key without role":       {trust.RootChange{Remove: []trust.KeyRef{{Role: fleet.TrustRoleRoot, Key: "acme-release"}}}, "does not have the role root"},
		"twice in a role":        {trust.RootChange{Add: []trust.RoleKey{{Role: fleet.TrustRoleRoot, Key: alice}, {Role: fleet.TrustRoleRoot, Key: alice}}}, "twice"},
		"no root key":            {trust.RootChange{Remove: []trust.KeyRef{{Key: "acme-root"}}}, "threshold of 1 and 0 keys"},
		"no release role":        {trust.RootChange{Thresholds: map[fleet.TrustRole]int{fleet.TrustRoleRelease: 0}}, "no role release"},
		"too many needed":        {trust.RootChange{Thresholds: map[fleet.TrustRole]int{fleet.TrustRoleRoot: 2}}, "threshold of 2 and 1 keys"},
		"expired":                {trust.RootChange{Expires: trusttest.Now}, "expired already"},
		"no such role":           {trust.RootChange{Add: []trust.RoleKey{{Role: "king", Key: alice}}}, "not a role"},
		"replaces nobody":        {trust.RootChange{Replace: []trust.Replacement{{Old: "nobody", New: alice}}}, `no key "nobody"`},
		"replaces by a taken id": {trust.RootChange{Replace: []trust.Replacement{{Old: "acme-root", New: carol}}}, "belongs to another key"},
		"adds a taken id":        {trust.RootChange{Add: []trust.RoleKey{{Role: fleet.TrustRoleRoot, Key: carol}}}, "belongs to another key"},
		"one of many":            {trust.RootChange{Remove: []trust.KeyRef{{Key: "twin"}}}, "3 keys are called"},
		"no name":                {trust.RootChange{Remove: []trust.KeyRef{{Key: ""}}}, `no key ""`},
		"role has no key":        {trust.RootChange{Thresholds: map[fleet.TrustRole]int{fleet.TrustRoleTimestamp: 1}}, "has no key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := trust.NextRoot(f.Root, tc.change, trusttest.Now)
			if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	next, err := trust.NextRoot(f.Root, trust.RootChange{Replace: []trust.Replacement{{Old: "acme-release", New: alice}}}, trusttest.Now)
	if err != nil || len(next.Keys) != len(f.Root.Keys) || next.Roles[fleet.TrustRoleRelease].Keys[0] != trust.KeyID(alice.Key) {
		t.Errorf("replaced: %+v, %v", next, err)
	}
	next, err = trust.NextRoot(f.Root, trust.RootChange{Add: []trust.RoleKey{{Role: fleet.TrustRoleTimestamp, Key: alice}}}, trusttest.Now)
	if keys, need := trust.RoleKeys(next, fleet.TrustRoleTimestamp); err != nil || need != 1 || !trust.HasKey(keys, alice.Key) {
		t.Errorf("with a new role: %+v, %v", next, err)
	}
}

// A signature counts once, from whomever it comes, and only one by a key that may
// sign is added.
func TestAttach_CountsDistinctKeys(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) {
		r.Roles[fleet.TrustRoleRelease] = fleet.KeyQuota{Keys: r.Roles[fleet.TrustRoleRelease].Keys, Threshold: 2}
	})
	envelope, _ := f.Unchecked(f.Header(1), []fleet.Entry{trusttest.Entry("web-01", "a")})
	sign := func(d trust.Draft, label string) (trust.Draft, error) {
		keys, err := d.Keys(&f.Root)
		if err != nil {
			t.Fatal(err)
		}
		sig, _ := trusttest.Key(label).Sign(trust.PAE(d.Envelope.PayloadType, d.Envelope.Payload))
		d.Envelope, _, err = trust.Attach(d.Envelope, sig, keys)
		return d, err
	}
	draft, err := trust.ParseDraft(envelope)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		label string
		count int
		met   bool
		added bool
	}{
		{"acme-release", 1, false, true},
		{"acme-release", 1, false, true}, // the same person twice
		{"acme-root", 1, false, false},   // another role's key
		{"mallory", 1, false, false},
		{"acme-release2", 2, true, true},
	} {
		t.Run(fmt.Sprintf("%d %s", i, step.label), func(t *testing.T) {
			next, err := sign(draft, step.label)
			if (err == nil) != step.added || err != nil && fleet.ErrorCode(err) != fleet.Refused {
				t.Fatalf("error %v", err)
			}
			draft = next
			quorums, err := draft.Quorums(&f.Root)
			if err != nil || len(quorums[0].Signed) != step.count || quorums[0].Met() != step.met || len(draft.Envelope.Signatures) != step.count {
				t.Errorf("%+v with %d signatures, %v", quorums, len(draft.Envelope.Signatures), err)
			}
			_, _, err = trust.CheckHeader(draft.Envelope.Encode(), &f.Root)
			if (err == nil) != step.met {
				t.Errorf("the agents' verdict: %v", err)
			}
		})
	}
}

// The document makers write what the parsers read, and refuse the rest.
func TestNewDocuments_AreReadAgain(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	const now = trusttest.Now
	ts, err := trust.NewTimestamp(fleet.Timestamp{FleetID: "acme", Version: 1, SignedAt: now, Expires: now + 1, Lines: map[fleet.Line]fleet.Sequence{"main": 7}})
	if got, perr := trust.ParseTimestamp(f.Sign(fleet.TypeTimestamp, ts, "acme-timestamp"), f.Root); err != nil || perr != nil || got.Lines["main"] != 7 {
		t.Errorf("timestamp %+v, %v, %v", got, err, perr)
	}
	rev, err := trust.NewRevocations(fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: now, Certificates: []string{"0a"}})
	if got, _, perr := trust.ParseRevocations(f.Sign(fleet.TypeRevocations, rev, "acme-revoker"), f.Root); err != nil || perr != nil || got.Certificates[0] != "0a" {
		t.Errorf("revocations %+v, %v, %v", got, err, perr)
	}
	good := fleet.Grant{FleetID: "acme", Machines: []fleet.MachineID{"web-01"}, Digest: fleet.SHA256(nil), Kind: fleet.GrantStale, SignedAt: now, Expires: now + trust.MaxGrantLifeMs}
	gr, err := trust.NewGrant(good)
	if got, perr := trust.ParseGrant(f.Sign(fleet.TypeGrant, gr, "acme-operator"), f.Root); err != nil || perr != nil || got.Kind != fleet.GrantStale {
		t.Errorf("grant %+v, %v, %v", got, err, perr)
	}
	long, lift, elsewhere := good, good, good
	long.Expires++
	lift.Kind = "quarantine-lift"
	elsewhere.FleetID = "no fleet"
	for name, g := range map[string]fleet.Grant{"25 hours": long, "kind": lift, "fleet": elsewhere} {
		if _, err = trust.NewGrant(g); fleet.ErrorCode(err) != fleet.Refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err = trust.NewTimestamp(fleet.Timestamp{FleetID: "acme", Version: 0, SignedAt: now, Expires: now + 1}); err == nil {
		t.Error("a timestamp of version 0 was made")
	}
	if _, err = trust.NewRevocations(fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: now, Certificates: []string{"0A"}}); err == nil {
		t.Error("a serial number in upper case was taken")
	}
	// What no machine would read is not made.
	lines, serials, machines := map[fleet.Line]fleet.Sequence{}, []string{}, []fleet.MachineID{}
	for i := range 40_000 {
		lines[fleet.Line(fmt.Sprint("line-", i))] = 1
		serials = append(serials, fmt.Sprintf("%040x", i))
		machines = append(machines, fleet.MachineID(fmt.Sprint("web-", i)))
	}
	crowd := good
	crowd.Machines = machines
	_, err = trust.NewTimestamp(fleet.Timestamp{FleetID: "acme", Version: 1, SignedAt: now, Expires: now + 1, Lines: lines})
	_, rerr := trust.NewRevocations(fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: now, Certificates: serials})
	_, gerr := trust.NewGrant(crowd)
	for what, refusal := range map[string]error{"timestamp": err, "revocations": rerr, "grant": gerr} {
		if trust.ReasonOf(refusal) != fleet.ReasonTooLarge {
			t.Errorf("a %s that is too large: %v", what, refusal)
		}
	}
}

// Nothing that either list revokes is lost.
func TestMergeRevocations_KeepsWhatEitherRevokes(t *testing.T) {
	x, y := fleet.SHA256([]byte("x")), fleet.SHA256([]byte("y"))
	a := fleet.Revocations{Version: 7, Releases: []fleet.Digest{x}, MinSequence: map[fleet.Line]fleet.Sequence{"main": 5, "old": 1}, Certificates: []string{"0a"}}
	b := fleet.Revocations{FleetID: "acme", Version: 2, SignedAt: 9, Releases: []fleet.Digest{y, x}, MinSequence: map[fleet.Line]fleet.Sequence{"main": 3, "new": 2}, Certificates: []string{"0b"}}
	got := trust.MergeRevocations(a, b)
	want := fleet.Revocations{
		FleetID: "acme", Version: 2, SignedAt: 9, Releases: []fleet.Digest{x, y},
		MinSequence: map[fleet.Line]fleet.Sequence{"main": 5, "old": 1, "new": 2}, Certificates: []string{"0a", "0b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("merged (-want +got):\n%s", d)
	}
}
