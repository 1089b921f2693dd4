// SPDX-License-Identifier: MIT

package trust_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// refused wants an error with a reason.
func refused(t *testing.T, what string, err error, want fleet.Reason) {
	t.Helper()
	if got := trust.ReasonOf(err); err == nil || got != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

// E04: a revert that calls itself an apply is one: it is obeyed once for the release
// that it leaves. What leaves no release that runs is none.
func TestAccept_ARevertByAnotherNameIsObeyedOnce(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	release := func(seq uint64, line fleet.Line) *trust.Release {
		h := f.Header(seq)
		h.Line = line
		return f.Release(h, trusttest.Entry("web-01", fmt.Sprint(line, seq)))
	}
	mark := func(r *trust.Release) trust.Mark {
		return trust.Mark{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest}
	}
	left, good := release(7, "main"), release(5, "main")
	on := func(r *trust.Release, activated bool) trust.State {
		s := f.State("web-01")
		s.Floor = &trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": mark(good)}}
		fl := s.Floor.Begin(mark(r), 7*trusttest.Day, trusttest.Now)
		if activated {
			fl = fl.Activated(trusttest.Now)
		}
		s.Floor, s.Reverted = &fl, map[fleet.Digest]bool{r.Digest: true}
		return s
	}
	granted := on(left, true)
	granted.Grants = []fleet.Grant{{Kind: fleet.GrantDowngrade, Digest: good.Digest, Machines: []fleet.MachineID{"web-01"}, Expires: trusttest.Now + trusttest.Hour}}
	fresh := on(left, true)
	fresh.Reverted = nil
	for name, c := range map[string]struct {
		state trust.State
		offer *trust.Release
		want  fleet.Reason
	}{
		"an older one, after a revert":       {on(left, true), good, fleet.ReasonRevertRepeated},
		"an older one, for the first time":   {fresh, good, ""},
		"an older one, by a grant":           {granted, good, ""},
		"the same again":                     {on(left, true), left, ""},
		"a newer one":                        {on(left, true), release(8, "main"), ""},
		"an older one that was never left":   {on(left, false), good, ""},
		"leaving a release of another line":  {on(release(7, "staging"), true), good, ""},
		"an older one, after another revert": {on(release(6, "main"), true), good, fleet.ReasonRevertRepeated},
	} {
		a, r := trust.Accept(c.state, trusttest.Now, f.Bundle(c.offer, "web-01"))
		var got fleet.Reason
		if r != nil {
			got = r.Reason
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if name != "an older one, for the first time" {
			continue
		}
		if s := c.state.Record(a, trusttest.Now); !s.Reverted[left.Digest] {
			t.Error("the release that it leaves is not noted as reverted")
		}
	}
}

// A timestamp withholds nothing if it names no list, or the one that the machine
// has, however old that is.
func TestAccept_ATimestampMayBeNewerThanTheRevocationsItNames(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	list := f.Revocations(fleet.Revocations{Version: 1, SignedAt: trusttest.Now - trusttest.Hour})
	e, err := trust.ParseEnvelope(list, fleet.TypeRevocations)
	if err != nil {
		t.Fatal(err)
	}
	r := f.Release(f.Header(6), trusttest.Entry("web-01", "x"))
	for _, named := range []fleet.Digest{"", e.Digest()} {
		s := f.State("web-01")
		s.Floor = &trust.Floor{}
		s, errs := s.Learn(trusttest.Now, trust.Documents{Revocations: list, Timestamp: f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: trusttest.Now, Expires: trusttest.Now + trusttest.Day, Revocations: named})})
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		if _, refusal := trust.Accept(s, trusttest.Now, f.Bundle(r, "web-01")); refusal != nil {
			t.Errorf("a timestamp that names %q: %v", named, refusal)
		}
	}
}

// A timestamp from the future is refused and not remembered; one that no role may
// sign is refused by that.
func TestLearn_RefusesTimestampsOfOtherTimesAndRoles(t *testing.T) {
	with := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	ahead := with.Timestamp(fleet.Timestamp{Version: 1, SignedAt: trusttest.Now + trusttest.Day, Expires: trusttest.Now + 2*trusttest.Day})
	before := with.State("web-01")
	after, errs := before.Learn(trusttest.Now, trust.Documents{Timestamp: ahead})
	if len(errs) != 1 || trust.ReasonOf(errs[0]) != fleet.ReasonClockBehind || after.Timestamp != nil || after.HighestSignedTime != before.HighestSignedTime {
		t.Errorf("from the future: %v, %+v", errs, after.Timestamp)
	}
	_, err := trust.ParseTimestamp(ahead, trusttest.New(t, "acme", nil).Root)
	refused(t, "without the role", err, fleet.ReasonUnknownKey)
}

// E06: a proof has one form, and is for a place in a tree that exists.
func TestProof_HasOneForm(t *testing.T) {
	one := trust.NewTree(numbered(1))
	p := one.Prove(0)
	p.Index = 5
	refused(t, "a place that is not there", p.Verify(one.Root(), numbered(1)[0]), fleet.ReasonProofMismatch)

	two := trust.NewTree(numbered(2))
	p = two.Prove(0)
	p.Hashes[0] = "sha256:" + fleet.Digest(strings.ToUpper(strings.TrimPrefix(string(p.Hashes[0]), "sha256:")))
	refused(t, "capital digits", p.Verify(two.Root(), numbered(2)[0]), fleet.ReasonProofMismatch)

	// What is no digest is not read as 32 zeros either.
	leaf := sha256.Sum256(append([]byte{0}, "leaf"...))
	node := sha256.Sum256(append(append([]byte{1}, leaf[:]...), make([]byte, 32)...))
	p = trust.Proof{Index: 0, Count: 2, Hashes: []fleet.Digest{"nothing"}}
	refused(t, "no digest", p.Verify(fleet.Digest("sha256:"+hex.EncodeToString(node[:])), []byte("leaf")), fleet.ReasonProofMismatch)

	leaves := make([][]byte, fleet.MaxEntries+1)
	large := trust.NewTree(leaves)
	refused(t, "too many entries", large.Prove(0).Verify(large.Root(), nil), fleet.ReasonProofMismatch)
}

// E06: what is wrong with a bundle is told when it is read.
func TestParseBundle_RefusesWhatIsNotOne(t *testing.T) {
	for _, text := range []string{``, `[]`, `null`, `{"entry":"","entry":""}`, `{"entry":"a"}`, `{"proof":{"index":"0"}}`} {
		_, err := trust.ParseBundle([]byte(text))
		refused(t, text, err, fleet.ReasonMalformed)
	}
	_, err := trust.ParseBundle([]byte(strings.Repeat(" ", trust.MaxBundleBytes) + "{}"))
	refused(t, "a large one", err, fleet.ReasonTooLarge)
}

// E06: an entry that a signer signed although it is none makes no release, also if
// it is the only one.
func TestCheckRelease_RefusesASingleEntryThatIsNone(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	for text, want := range map[string]fleet.Reason{`{`: fleet.ReasonMalformed, `{"id":"web-01","storePath":"/tmp/x"}`: fleet.ReasonBadStorePath} {
		h := f.Header(1)
		h.Entries = fleet.EntriesRef{Count: 1, Root: trust.NewTree([][]byte{[]byte(text)}).Root()}
		payload, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		_, err = trust.CheckRelease(f.Sign(fleet.TypeRelease, payload, "acme-release"), [][]byte{[]byte(text)}, &f.Root, trusttest.Now)
		refused(t, text, err, want)
	}
}

// Nothing is made that would be refused: its maker is told.
func TestMakers_RefuseWhatIsTooLarge(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	large := f.Root
	large.Keys = map[string]fleet.TrustKey{}
	for id, k := range f.Root.Keys {
		k.Name = strings.Repeat("n", trust.MaxRootBytes/len(f.Root.Keys))
		large.Keys[id] = k
	}
	many := f.Root
	many.Keys, many.Roles = map[string]fleet.TrustKey{}, map[fleet.TrustRole]fleet.KeyQuota{"root": f.Root.Roles["root"]}
	for id, k := range f.Root.Keys {
		many.Keys[id] = k
	}
	var quota fleet.KeyQuota
	var signers []trust.Signer
	for i := range trust.MaxSignatures + 1 {
		k := trusttest.Key(fmt.Sprint("key-", i))
		signers = append(signers, k)
		many.Keys[fmt.Sprint(i)] = fleet.TrustKey{Public: trustKey(k)}
		quota.Keys = append(quota.Keys, fmt.Sprint(i))
	}
	quota.Threshold = trust.MaxSignatures + 1
	many.Roles[fleet.TrustRoleRelease] = quota
	header := f.Header(1)
	header.Caches[0].PublicKeys[0] = strings.Repeat("n", fleet.MaxHeaderBytes) + header.Caches[0].PublicKeys[0]
	entries := []fleet.Entry{trusttest.Entry("web-01", "x")}
	for what, try := range map[string]func() error{
		"a root of many bytes":            func() error { _, err := trust.NewRoot(large); return err },
		"a threshold that nothing meets":  func() error { return trust.ValidateRoot(many) },
		"a header of many bytes":          func() error { _, _, err := trust.NewRelease(header, entries); return err },
		"more signatures than one counts": func() error { _, err := trust.Sign(fleet.TypeRelease, []byte("{}"), signers...); return err },
		"a release of nothing":            func() error { _, _, err := trust.NewRelease(f.Header(1), nil); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("%s is made", what)
		}
	}
	e, err := trust.Sign(fleet.TypeRelease, []byte("{}"), signers[:trust.MaxSignatures]...)
	if err != nil {
		t.Fatal(err)
	}
	e.Signatures = append(e.Signatures, e.Signatures[0])
	refused(t, "17 signatures", e.Verify([]ed25519.PublicKey{signers[0].Public()}, 1), fleet.ReasonTooLarge)
}

func trustKey(k trust.SecretKey) string {
	return trust.PublicKey{Name: k.Name(), Key: k.Public()}.Trust().Public
}

// A key file is one line, and its mistake is named.
func TestParseSecretKey_NamesTheMistake(t *testing.T) {
	k := trusttest.Key("alice")
	name, b64, _ := strings.Cut(k.Encode(), ":")
	for text, want := range map[string]string{
		b64:                                     "name:base64",
		name:                                    "name:base64",
		name + ":" + b64[:20] + "*" + b64[21:]:  "not base64",
		name + ":" + b64[:20] + "\n" + b64[20:]: "not base64",
		name + ":" + b64[:20] + "\r" + b64[20:]: "not base64",
	} {
		if _, err := trust.ParseSecretKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
