// SPDX-License-Identifier: MIT

package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E06: nothing is shown to a signer as a document that is none.
func TestParseDraft_RefusesWhatIsNoDocument(t *testing.T) {
	f := trusttest.New(t, "acme", nil)
	header := f.Header(1)
	header.Sequence = 0
	root := copyRoot(f.Root)
	root.Version = 0
	for name, tc := range map[string]struct {
		data []byte
		want fleet.Reason
		says string
	}{
		"too large":             {trust.Envelope{PayloadType: fleet.TypeEvidence, Payload: bytes.Repeat([]byte(" "), trust.MaxRevocationsBytes*3/2)}.Encode(), fleet.ReasonTooLarge, "document: "},
		"no JSON":               {[]byte("-----BEGIN"), fleet.ReasonMalformed, "not a signed document"},
		"no envelope":           {[]byte(`{"payloadType":"` + fleet.TypeGrant + `","payload":7}`), fleet.ReasonMalformed, "envelope"},
		"evidence":              {f.Sign(fleet.TypeEvidence, []byte("{}"), "acme-release"), fleet.ReasonWrongType, ""},
		"no release":            {f.Sign(fleet.TypeRelease, trusttest.Payload(t, header), "acme-release"), fleet.ReasonMalformed, ""},
		"a release that is cut": {f.Sign(fleet.TypeRelease, []byte(`{"fleetId":`), "acme-release"), fleet.ReasonMalformed, ""},
		"no root document":      {f.Sign(fleet.TypeRoot, trusttest.Payload(t, root), "acme-root"), fleet.ReasonMalformed, "version"},
	} {
		_, err := trust.ParseDraft(tc.data)
		if trust.ReasonOf(err) != tc.want || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

// E01, E02: signatures are judged by a root document of the same fleet that has
// keys for them, and by no other.
func TestDraft_IsJudgedByItsOwnRoot(t *testing.T) {
	f, other := trusttest.New(t, "acme", nil), trusttest.New(t, "evil", nil)
	draft := func(envelope []byte) trust.Draft {
		t.Helper()
		d, err := trust.ParseDraft(envelope)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	release, _ := f.Unchecked(f.Header(1), []fleet.Entry{trusttest.Entry("web-01", "a")})
	later := copyRoot(f.Root)
	later.Version += 2
	keyless := copyRoot(f.Root)
	delete(keyless.Roles, fleet.TrustRoleOperator)
	grant := f.Grant(fleet.Grant{Machines: []fleet.MachineID{"web-01"}, Digest: fleet.SHA256(nil), Kind: fleet.GrantStale, SignedAt: trusttest.Now, Expires: trusttest.Now + 1})
	for name, tc := range map[string]struct {
		d    trust.Draft
		root *fleet.Root
		want fleet.Reason
	}{
		"no root document":  {draft(release), nil, fleet.ReasonNoRoot},
		"of another fleet":  {draft(release), &other.Root, fleet.ReasonWrongFleet},
		"a version between": {draft(f.Sign(fleet.TypeRoot, trusttest.Payload(t, later), "acme-root")), &f.Root, fleet.ReasonRootChain},
		"no key for it":     {draft(grant), &keyless, fleet.ReasonUnknownKey},
	} {
		if q, err := tc.d.Quorums(tc.root); trust.ReasonOf(err) != tc.want || q != nil {
			t.Errorf("%s: %+v, %v, want %s", name, q, err, tc.want)
		}
		if tc.want == fleet.ReasonUnknownKey {
			continue
		}
		if k, err := tc.d.Keys(tc.root); trust.ReasonOf(err) != tc.want || k != nil {
			t.Errorf("%s: keys %v, %v, want %s", name, k, err, tc.want)
		}
	}
	if q, err := draft(f.RootEnvelope).Quorums(nil); err != nil || len(q) != 1 || !q[0].Met() {
		t.Errorf("the first root document by itself: %+v, %v", q, err)
	}
}

func TestAttach_IsBounded(t *testing.T) {
	k := trusttest.Key("acme-release")
	e := trust.Envelope{PayloadType: fleet.TypeRelease, Payload: []byte("{}"), Signatures: make([]trust.Signature, trust.MaxSignatures)}
	sig, err := k.Sign(trust.PAE(e.PayloadType, e.Payload))
	if err != nil {
		t.Fatal(err)
	}
	keys := []ed25519.PublicKey{k.Public()}
	if got, _, err := trust.Attach(e, sig, keys); fleet.ErrorCode(err) != fleet.TooLarge || len(got.Signatures) != trust.MaxSignatures {
		t.Errorf("%d signatures, %v", len(got.Signatures), err)
	}
	e.Signatures = e.Signatures[1:]
	if got, _, err := trust.Attach(e, sig, keys); err != nil || len(got.Signatures) != trust.MaxSignatures {
		t.Errorf("%d signatures, %v", len(got.Signatures), err)
	}
}

func TestParsePublicKey_IsOneNameAndOneKey(t *testing.T) {
	k := trusttest.Key("acme-root").PublicKey()
	_, b64, _ := strings.Cut(k.String(), ":")
	for text, want := range map[string]string{
		k.String(): "", " " + k.String() + "\n": "", b64: "name:base64", ":" + b64: "name:base64", "a b:" + b64: "name:base64", "a:" + b64[:8]: "32 bytes",
	} {
		got, err := trust.ParsePublicKey(text)
		if want == "" && (err != nil || got.String() != k.String()) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if want != "" && (fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
