// SPDX-License-Identifier: MIT

package trust_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// copyRoot lets a test change a root without changing the fleet's.
func copyRoot(r fleet.Root) fleet.Root {
	r.Keys, r.Roles = maps.Clone(r.Keys), maps.Clone(r.Roles)
	return r
}

func signRoot(t *testing.T, f *trusttest.Fleet, r fleet.Root, labels ...string) []byte {
	t.Helper()
	payload, err := trust.NewRoot(r)
	if err != nil {
		t.Fatal(err)
	}
	return f.Sign(fleet.TypeRoot, payload, labels...)
}

func TestValidateRoot_NamesTheFirstFault(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	for want, edit := range map[string]func(*fleet.Root){
		"fleet id":              func(r *fleet.Root) { r.FleetID = "a/b" },
		"version":               func(r *fleet.Root) { r.Version = 0 },
		"Unix milliseconds":     func(r *fleet.Root) { r.Expires = 0 },
		"expires must be later": func(r *fleet.Root) { r.SignedAt = r.Expires },
		"later than signedAt":   func(r *fleet.Root) { r.SignedAt = -1 },
		"32 bytes":              func(r *fleet.Root) { r.Keys["x"] = fleet.TrustKey{Public: "AAAA"} },
		"are the same":          func(r *fleet.Root) { r.Keys["x"] = trusttest.Key("acme-root").PublicKey().Trust() },
		"not listed":            func(r *fleet.Root) { r.Roles["root"] = fleet.KeyQuota{Keys: []string{"x"}, Threshold: 1} },
		"threshold of 0":        func(r *fleet.Root) { r.Roles["root"] = fleet.KeyQuota{Keys: r.Roles["root"].Keys} },
		"threshold of 3":        func(r *fleet.Root) { r.Roles["release"] = fleet.KeyQuota{Keys: r.Roles["release"].Keys, Threshold: 3} },
		"threshold of 1 and 0":  func(r *fleet.Root) { r.Roles["timestamp"] = fleet.KeyQuota{Threshold: 1} },
		"no role release":       func(r *fleet.Root) { delete(r.Roles, "release") },
		"no role root":          func(r *fleet.Root) { delete(r.Roles, "root") },
		"twice": func(r *fleet.Root) {
			k := r.Roles["root"].Keys[0]
			r.Roles["root"] = fleet.KeyQuota{Keys: []string{k, k}, Threshold: 2}
		},
		"at most 64": func(r *fleet.Root) {
			for i := range 64 {
				trusttest.AddKey(r, fleet.TrustRoleRelease, strings.Repeat("k", i+1))
			}
		},
	} {
		t.Run(want, func(t *testing.T) {
			r := copyRoot(f.Root)
			edit(&r)
			err := trust.ValidateRoot(r)
			if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to say %q", err, want)
			}
			if _, err := trust.NewRoot(r); err == nil {
				t.Error("NewRoot accepts it")
			}
		})
	}
}

func TestPinRoot_NeedsTheRootsOwnSignature(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	got, err := trust.PinRoot(f.RootEnvelope)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.Root, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, tc := range map[string]struct {
		data []byte
		want fleet.Reason
	}{
		"signed by another role": {signRoot(t, f, f.Root, "acme-release"), "unknown-key"},
		"not signed":             {signRoot(t, f, f.Root), "not-signed"},
		"not valid":              {f.Sign(fleet.TypeRoot, []byte(`{"fleetId":"acme","version":1,"expires":5}`), "acme-root"), "malformed"},
		"crit":                   {f.Sign(fleet.TypeRoot, []byte(`{"crit":["quorum"],"quorum":3}`), "acme-root"), "critical-field"},
		"cut":                    {f.RootEnvelope[:100], "malformed"},
	} {
		if _, err := trust.PinRoot(tc.data); trust.ReasonOf(err) != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
}

func TestAdvanceRoot_FollowsOnlyTheChain(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	next := func(version uint64, rootKey string, edit func(*fleet.Root)) fleet.Root {
		r := copyRoot(f.Root)
		r.Version = version
		r.Roles["root"] = fleet.KeyQuota{}
		trusttest.AddKey(&r, fleet.TrustRoleRoot, rootKey)
		if edit != nil {
			edit(&r)
		}
		return r
	}
	expired := func(r *fleet.Root) { r.Expires = trusttest.Now }
	two := func(r *fleet.Root) {
		trusttest.AddKey(r, fleet.TrustRoleRoot, "new-2")
		r.Roles["root"] = fleet.KeyQuota{Keys: r.Roles["root"].Keys, Threshold: 2}
	}
	v2 := signRoot(t, f, next(2, "new-1", nil), "acme-root", "new-1")
	v2old := signRoot(t, f, next(2, "new-1", expired), "acme-root", "new-1")
	v3 := signRoot(t, f, next(3, "newer-1", nil), "new-1", "newer-1")
	for name, tc := range map[string]struct {
		chain   [][]byte
		version uint64
		want    fleet.Reason
	}{
		"nothing new":                     {nil, 1, ""},
		"one step":                        {[][]byte{v2}, 2, ""},
		"two steps":                       {[][]byte{v2, v3}, 3, ""},
		"two steps, the first expired":    {[][]byte{v2old, v3}, 3, ""},
		"the last expired":                {[][]byte{v2old}, 1, "expired"},
		"a version left out":              {[][]byte{v3}, 1, "root-chain"},
		"a version left out, by old keys": {[][]byte{signRoot(t, f, next(3, "new-1", nil), "acme-root", "new-1")}, 1, "root-chain"},
		"the wrong order":                 {[][]byte{v3, v2}, 1, "root-chain"},
		"the same version":                {[][]byte{f.RootEnvelope}, 1, "root-chain"},
		"signed by the new alone":         {[][]byte{signRoot(t, f, next(2, "new-1", nil), "new-1")}, 1, "root-chain"},
		"signed by the old alone":         {[][]byte{signRoot(t, f, next(2, "new-1", nil), "acme-root")}, 1, "root-chain"},
		"signed by a release key":         {[][]byte{signRoot(t, f, next(2, "new-1", nil), "acme-release", "new-1")}, 1, "root-chain"},
		"one of the new two":              {[][]byte{signRoot(t, f, next(2, "new-1", two), "acme-root", "new-1")}, 1, "root-chain"},
		"both of the new two":             {[][]byte{signRoot(t, f, next(2, "new-1", two), "acme-root", "new-1", "new-2")}, 2, ""},
		"not signed":                      {[][]byte{signRoot(t, f, next(2, "new-1", nil))}, 1, "root-chain"},
		"another fleet": {[][]byte{signRoot(t, f, next(2, "new-1", func(r *fleet.Root) { r.FleetID = "evil" }), "acme-root", "new-1")},
			1, "wrong-fleet"},
		"not a root": {[][]byte{f.Sign(fleet.TypeRelease, []byte("{}"), "acme-root")}, 1, "wrong-type"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := trust.AdvanceRoot(f.Root, trusttest.Now, tc.chain...)
			if trust.ReasonOf(err) != tc.want || (err == nil) != (tc.want == "") || got.Version != tc.version {
				t.Errorf("got version %d, %v; want %d, %q", got.Version, err, tc.version, tc.want)
			}
		})
	}
}

// A stolen key must not leave anything that its successor cannot change. What was
// revoked stays revoked until the successor signs another list.
func TestLearn_NewKeysAreNotBoundByWhatOldOnesSigned(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	bad := fleet.SHA256([]byte("bad"))
	grant := fleet.Grant{Machines: []fleet.MachineID{"web-01"}, Digest: bad, Kind: "stale", SignedAt: trusttest.Now, Expires: trusttest.Now + 1}
	s, errs := f.State("web-01").Learn(trusttest.Now, trust.Documents{
		Timestamp:   f.Timestamp(fleet.Timestamp{Version: 1 << 60, SignedAt: trusttest.Now, Expires: trusttest.Now + trusttest.Day}),
		Revocations: f.Revocations(fleet.Revocations{Version: 1 << 60, SignedAt: trusttest.Now, Releases: []fleet.Digest{bad}}),
		Grants:      [][]byte{f.Grant(grant)},
	})
	if len(errs) != 0 || len(s.Grants) != 1 {
		t.Fatalf("grants %v, %v", s.Grants, errs)
	}
	r := copyRoot(f.Root)
	r.Version = 2
	for _, role := range []fleet.TrustRole{fleet.TrustRoleTimestamp, fleet.TrustRoleRevoker, fleet.TrustRoleOperator} {
		r.Roles[role] = fleet.KeyQuota{}
		trusttest.AddKey(&r, role, "new-"+string(role))
	}
	s, errs = s.Learn(trusttest.Now, trust.Documents{Roots: [][]byte{signRoot(t, f, r, "acme-root")}})
	if len(errs) != 0 || s.Root.Version != 2 {
		t.Fatalf("root version %d, %v", s.Root.Version, errs)
	}
	if s.Timestamp != nil || s.Grants != nil || !trust.Revoked(*s.Revocations, trust.Mark{Line: "main", Sequence: 1, Digest: bad}) {
		t.Fatalf("timestamp %v, grants %v, revocations %v", s.Timestamp, s.Grants, s.Revocations)
	}
	payload, err := json.Marshal(fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: trusttest.Now})
	if err != nil {
		t.Fatal(err)
	}
	s, errs = s.Learn(trusttest.Now, trust.Documents{Revocations: f.Sign(fleet.TypeRevocations, payload, "new-revoker")})
	if len(errs) != 0 || s.Revocations.Version != 1 || len(s.Revocations.Releases) != 0 {
		t.Fatalf("revocations %v, %v", s.Revocations, errs)
	}
}

// An expired root still leads to the next one.
func TestLearn_FollowsTheChainFromAnExpiredRoot(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	now := f.Root.Expires + 1
	s, errs := f.State("web-01").Learn(now, trust.Documents{})
	if len(errs) != 0 {
		t.Fatalf("nothing to learn: %v", errs)
	}
	r := copyRoot(f.Root)
	r.Version, r.Expires = 2, now+trusttest.Day
	s, errs = s.Learn(now, trust.Documents{Roots: [][]byte{signRoot(t, f, r, "acme-root")}})
	if len(errs) != 0 || s.Root.Version != 2 {
		t.Fatalf("root version %d, %v", s.Root.Version, errs)
	}
	if _, errs := (trust.State{}).Learn(now, trust.Documents{Roots: [][]byte{f.RootEnvelope}}); len(errs) != 1 || trust.ReasonOf(errs[0]) != fleet.ReasonNoRoot {
		t.Errorf("without a root: %v", errs)
	}
}

// Each signed time raises the time below which the machine's clock is not used.
func TestLearn_RemembersTheHighestSignedTime(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	s := f.State("web-01")
	for i, d := range []trust.Documents{
		{Timestamp: f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: trusttest.Now + 1, Expires: trusttest.Now + trusttest.Day})},
		{Revocations: f.Revocations(fleet.Revocations{Version: 1, SignedAt: trusttest.Now + 2})},
		{Grants: [][]byte{f.Grant(fleet.Grant{Machines: []fleet.MachineID{"web-01"}, Digest: fleet.SHA256(nil), Kind: "stale",
			SignedAt: trusttest.Now + 3, Expires: trusttest.Now + trusttest.Day})}},
	} {
		var errs []error
		if s, errs = s.Learn(trusttest.Now, d); len(errs) > 0 || s.HighestSignedTime != trusttest.Now+int64(i)+1 {
			t.Errorf("document %d: %d, %v", i, s.HighestSignedTime-trusttest.Now, errs)
		}
	}
}
