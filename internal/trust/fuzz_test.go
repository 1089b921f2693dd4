// SPDX-License-Identifier: MIT

package trust_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// FuzzParseBundle reads any text as a bundle: what is taken has one meaning, and
// says nothing more when it is written and read again.
func FuzzParseBundle(f *testing.F) {
	acme := tt.New(f, "acme", nil)
	b := acme.Bundle(acme.Release(acme.Header(1), tt.Entry("web-01", "a"), tt.Entry("web-02", "a")), "web-01")
	text, err := json.Marshal(b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"envelope":"e30=","entry":"e30=","proof":{"index":-1,"count":9223372036854775807,"hashes":["sha256:"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := trust.ParseBundle(data)
		if err != nil {
			wantReason(t, err)
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		back, err := trust.ParseBundle(text)
		if again, _ := json.Marshal(back); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%s became %s, %v", text, again, err)
		}
		err = got.Proof.Verify(b.Proof.Hashes[0], got.Entry)
		if err == nil && got.Proof.Count > 1 { // the root of two leaves is no leaf
			t.Fatalf("%s proves its entry", data)
		}
	})
}

// wantReason fails unless a refusal has a reason, and a text that is short and fit
// for a terminal: it is reported.
func wantReason(t *testing.T, err error) {
	t.Helper()
	if !trust.ReasonOf(err).Valid() || len(err.Error()) > 1000 {
		t.Fatalf("refused by %q (%d bytes), reason %q", err, len(err.Error()), trust.ReasonOf(err))
	}
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Fatalf("refused by %q, which has control characters", err)
	}
}

// FuzzSignedDocument gives a machine documents whose signatures are good, with any
// payload: what the signers' programs should never write. A refused one changes
// nothing; what was learned is valid, of this fleet, and within its limits.
func FuzzSignedDocument(f *testing.F) {
	acme := tt.New(f, "acme", func(r *fleet.Root) { tt.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	next := acme.Root
	next.Version = 2
	payload, err := trust.NewRoot(next)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, payload)
	f.Add(1, tt.Payload(f, fleet.Timestamp{FleetID: "acme", Version: 1, SignedAt: tt.Now, Expires: tt.Now + tt.Day, Lines: map[fleet.Line]fleet.Sequence{"main": 3}}))
	f.Add(2, tt.Payload(f, fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: tt.Now, Certificates: []string{"ab"}}))
	f.Add(3, tt.Payload(f, fleet.Grant{FleetID: "acme", Kind: fleet.GrantStale, Digest: fleet.SHA256(nil), Machines: []fleet.MachineID{"web-01"}, SignedAt: tt.Now, Expires: tt.Now + tt.Day}))
	f.Add(1, []byte(`{"fleetId":"acme","version":1,"signedAt":1,"expires":2,"lines":{"a\u001b":1},"crit":["mood"]}`))
	f.Fuzz(func(t *testing.T, kind int, payload []byte) {
		kinds := []struct{ payloadType, label string }{
			{fleet.TypeRoot, "acme-root"}, {fleet.TypeTimestamp, "acme-timestamp"}, {fleet.TypeRevocations, "acme-revoker"}, {fleet.TypeGrant, "acme-operator"},
		}
		k := kinds[uint(kind)%4]
		e, err := trust.Sign(k.payloadType, payload, tt.Key(k.label))
		if err != nil {
			return // too large
		}
		offered := []trust.Documents{{Roots: [][]byte{e.Encode()}}, {Timestamp: e.Encode()}, {Revocations: e.Encode()}, {Grants: [][]byte{e.Encode()}}}[uint(kind)%4]
		before := acme.State("web-01")
		after, refused := before.Learn(tt.Now, offered)
		if len(refused) > 0 {
			wantReason(t, refused[0])
			if !reflect.DeepEqual(after, before) {
				t.Fatalf("%s was refused (%v), and changed the state", payload, refused)
			}
			return
		}
		if !bytes.Contains(payload, []byte("acme")) && !bytes.Contains(payload, []byte(`\u`)) {
			t.Fatalf("%s was learned, and is of another fleet", payload)
		}
		checkLearned(t, after)
		// What a machine keeps on its disk it must read again as it was.
		kept, err := json.Marshal(after)
		if err != nil {
			t.Fatal(err)
		}
		var back trust.State
		if err := json.Unmarshal(kept, &back); err != nil {
			t.Fatal(err)
		}
		if again, _ := json.Marshal(back); !bytes.Equal(again, kept) {
			t.Fatalf("%s became %s", kept, again)
		}
	})
}

func checkLearned(t *testing.T, s trust.State) {
	t.Helper()
	if err := trust.ValidateRoot(*s.Root); err != nil {
		t.Fatal(err)
	}
	if s.HighestSignedTime > tt.Now+trust.MaxClockSkewMs {
		t.Fatalf("time %d was learned, now is %d", s.HighestSignedTime, int64(tt.Now))
	}
	if s.Timestamp != nil {
		for l := range s.Timestamp.Lines {
			if !l.Valid() {
				t.Fatalf("line %q was learned", l)
			}
		}
	}
	if s.Revocations != nil && slices.ContainsFunc(s.Revocations.Releases, func(d fleet.Digest) bool { return !d.Valid() }) {
		t.Fatalf("%+v was learned", s.Revocations)
	}
	for _, g := range s.Grants {
		if g.Expires-g.SignedAt > trust.MaxGrantLifeMs || !g.Kind.Valid() || !slices.Equal(g.Machines, []fleet.MachineID{"web-01"}) {
			t.Fatalf("%+v was learned", g)
		}
	}
}

// FuzzSignedRelease gives control plane, CLI and machine a release whose signature
// and tree are good, with any header and any entry. What all three take is valid,
// of this fleet, and has one meaning.
func FuzzSignedRelease(f *testing.F) {
	acme := tt.New(f, "acme", nil)
	payload, raw, err := trust.NewRelease(acme.Header(1), []fleet.Entry{tt.Entry("web-01", "a")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload, raw[0])
	f.Add(bytes.Replace(payload, []byte(`"line"`), []byte(`"crit":["mood"],"line"`), 1), raw[0])
	f.Add(payload, bytes.Replace(raw[0], []byte(`/nix/store/`), []byte(`/nix/store/../`), 1))
	f.Fuzz(func(t *testing.T, payload, entry []byte) {
		// The header names the root of a tree; put the one of this entry there.
		root := trust.NewTree([][]byte{entry}).Root()
		if at := bytes.Index(payload, []byte(`"root":"sha256:`)); at >= 0 && len(payload) > at+8+len(root) {
			payload = slices.Concat(payload[:at+8], []byte(root), payload[at+8+len(root):])
		}
		e, err := trust.Sign(fleet.TypeRelease, payload, tt.Key("acme-release"))
		if err != nil {
			return
		}
		r, err := trust.CheckRelease(e.Encode(), [][]byte{entry}, &acme.Root, tt.Now)
		if err != nil {
			wantReason(t, err)
			return
		}
		if err := r.Header.Validate(); err != nil || r.Header.FleetID != "acme" || !r.Entries[0].StorePath.Valid() {
			t.Fatalf("%s with %s was taken: %v", payload, entry, err)
		}
		checkHeader(t, r.Header)
		b, ok := r.Bundle(r.Entries[0].ID)
		if !ok {
			t.Fatalf("no bundle for %s", r.Entries[0].ID)
		}
		s := acme.State(r.Entries[0].ID)
		s.Line, s.System = r.Header.Line, r.Entries[0].System
		got, refusal := trust.Accept(s, tt.Now, b)
		if refusal != nil {
			wantReason(t, refusal)
			return
		}
		if got.Entry.StorePath != r.Entries[0].StorePath || got.Mark() != (trust.Mark{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest}) {
			t.Fatalf("the machine read %+v, the control plane %+v", got, r)
		}
	})
}

// checkHeader fails if a header has control characters anywhere: it is shown, and
// its caches are arguments of Nix.
func checkHeader(t *testing.T, h fleet.Header) {
	t.Helper()
	said := []string{h.Source.Flake, h.Source.Revision, h.Source.NixpkgsDate, string(h.Line)}
	for _, c := range h.Caches {
		said = append(append(said, c.URL), c.PublicKeys...)
	}
	for _, s := range said {
		if strings.ContainsFunc(s, unicode.IsControl) {
			t.Fatalf("%q came through in %+v", s, h)
		}
	}
}

// FuzzPinRoot reads the root document that a machine or a person starts from: its
// bytes are trusted, their form is not.
func FuzzPinRoot(f *testing.F) {
	acme := tt.New(f, "acme", nil)
	f.Add(acme.RootEnvelope)
	f.Add([]byte(`{"payloadType":"` + fleet.TypeRoot + `","payload":"e30=","signatures":[{"sig":""}]}`))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		r, err := trust.PinRoot(envelope)
		if err != nil {
			wantReason(t, err)
			return
		}
		if err := trust.ValidateRoot(r); err != nil {
			t.Fatal(err)
		}
		if _, err := trust.AdvanceRoot(r, tt.Now, envelope); err == nil {
			t.Fatal("a root follows itself")
		}
	})
}

// FuzzSecretKey reads a key file: what is taken is written again as it was, and no
// error tells of a secret.
func FuzzSecretKey(f *testing.F) {
	k := tt.Key("a-1").Encode()
	f.Add(k)
	f.Add("a:" + strings.Repeat("A", 88))
	f.Add(strings.Replace(k, "a-1", "a 1", 1))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := trust.ParseSecretKey(text)
		if err == nil && got.Encode() != strings.TrimSpace(text) {
			t.Fatalf("%q became %q", text, got.Encode())
		}
		if err != nil && (fleet.ErrorCode(err) != fleet.Invalid || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
			t.Fatalf("%q: %q", text, err)
		}
		if _, secret, ok := strings.Cut(text, ":"); err != nil && ok && len(secret) > 32 && strings.Contains(err.Error(), secret[:32]) {
			t.Fatalf("the error tells of the secret: %v", err)
		}
	})
}

// FuzzCheckAgain gives the CLI a release as a control plane that was taken over may
// send it. What --from would sign again is what was signed before, all of it.
func FuzzCheckAgain(f *testing.F) {
	acme := tt.New(f, "acme", nil)
	r := acme.Release(acme.Header(1), tt.Entry("web-01", "a"), tt.Entry("web-02", "a"))
	other := acme.Release(acme.Header(2), tt.Entry("web-01", "b"), tt.Entry("web-02", "b"))
	forged, raw := tt.New(f, "evil", nil).Unchecked(acme.Header(1), r.Entries, "evil-release")
	f.Add(r.Envelope, r.Raw[0], r.Raw[1])
	f.Add(r.Envelope, other.Raw[0], r.Raw[1])
	f.Add(r.Envelope, r.Raw[1], r.Raw[0])
	f.Add(other.Envelope, other.Raw[0], other.Raw[1])
	f.Add(forged, raw[0], raw[1])
	f.Fuzz(func(t *testing.T, envelope, first, second []byte) {
		got, err := trust.CheckAgain(envelope, [][]byte{first, second}, acme.Root, r.Digest)
		if err != nil {
			wantReason(t, err)
			return
		}
		if got.Digest != r.Digest || got.Entries[0].StorePath != r.Entries[0].StorePath || got.Entries[1].StorePath != r.Entries[1].StorePath {
			t.Fatalf("%s and %s would be signed", first, second)
		}
	})
}

// FuzzParseDraft reads a document that somebody sends to be signed: what is taken is
// of one kind, keeps its bytes, and counts no signature but those of the keys that
// may sign it.
func FuzzParseDraft(f *testing.F) {
	acme := tt.New(f, "acme", nil)
	grant := tt.Payload(f, fleet.Grant{FleetID: "acme", Kind: fleet.GrantStale, Digest: fleet.SHA256(nil), Machines: []fleet.MachineID{"web-01"}, SignedAt: tt.Now, Expires: tt.Now + tt.Day})
	f.Add(acme.RootEnvelope)
	f.Add(acme.Release(acme.Header(1), tt.Entry("web-01", "a")).Envelope)
	f.Add(acme.Sign(fleet.TypeGrant, grant, "acme-operator"))
	f.Add(acme.Sign(fleet.TypeGrant, grant, "stranger"))
	f.Add(trust.Envelope{PayloadType: fleet.TypeGrant, Payload: grant}.Encode())
	f.Add([]byte(`{"payloadType":"text/plain","payload":"e30=","signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := trust.ParseDraft(data)
		if err != nil {
			wantReason(t, err)
			return
		}
		kinds := 0
		for _, set := range []bool{d.Root != nil, d.Timestamp != nil, d.Revocations != nil, d.Grant != nil, d.Header != nil} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			t.Fatalf("%s is of %d kinds", data, kinds)
		}
		back, err := trust.ParseDraft(d.Envelope.Encode())
		if err != nil || !reflect.DeepEqual(back, d) {
			t.Fatalf("%+v became %+v, %v", d, back, err)
		}
		quorums, err := d.Quorums(&acme.Root)
		if err != nil {
			wantReason(t, err)
			return
		}
		for _, q := range quorums {
			if q.Met() && len(d.Envelope.Signatures) < q.Need {
				t.Fatalf("%d signatures meet %+v", len(d.Envelope.Signatures), q)
			}
		}
		keys, need := trust.RoleKeys(acme.Root, d.Role())
		if err := d.Envelope.Verify(keys, need); d.Root == nil && quorums[0].Met() != (err == nil) {
			t.Fatalf("%s: quorum %+v, and Verify says %v", data, quorums[0], err)
		}
	})
}

// FuzzParsePublicKey reads a public key as others send it: what is taken is a key of
// 32 bytes, is written again with the same meaning, and fits a terminal.
func FuzzParsePublicKey(f *testing.F) {
	f.Add(tt.Key("release").PublicKey().String())
	f.Add("name:AAAA")
	f.Add("\x1b[2J:" + tt.Key("release").PublicKey().String())
	f.Fuzz(func(t *testing.T, text string) {
		k, err := trust.ParsePublicKey(text)
		if err != nil {
			return
		}
		if len(k.Key) != 32 || strings.ContainsFunc(k.String(), unicode.IsControl) {
			t.Fatalf("%q is %q", text, k)
		}
		if back, err := trust.ParsePublicKey(k.String()); err != nil || !reflect.DeepEqual(back, k) {
			t.Fatalf("%q became %q, %v", k, back, err)
		}
	})
}
