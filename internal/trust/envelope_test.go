// SPDX-License-Identifier: MIT

package trust_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// peer lets the reference implementation of DSSE use a key of ours.
type peer struct{ trust.SecretKey }

func (p peer) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(p.SecretKey.Public(), data, sig) {
		return errors.New("no")
	}
	return nil
}
func (p peer) Sign(_ context.Context, data []byte) ([]byte, error) { return p.SecretKey.Sign(data) }
func (p peer) KeyID() (string, error)                              { return trust.KeyID(p.SecretKey.Public()), nil }
func (p peer) Public() crypto.PublicKey                            { return p.SecretKey.Public() }

func TestEnvelope_MatchesTheReferenceImplementation(t *testing.T) {
	k := trusttest.Key("a-1")
	for _, payload := range []string{"", "{}", "hello world", "\x00\xff"} {
		if diff := cmp.Diff(dsse.PAE(fleet.TypeRoot, []byte(payload)), trust.PAE(fleet.TypeRoot, []byte(payload))); diff != "" {
			t.Fatalf("PAE of %q (-theirs +ours):\n%s", payload, diff)
		}
	}
	signer, err := dsse.NewEnvelopeSigner(peer{k})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := signer.SignPayload(t.Context(), fleet.TypeRoot, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := trust.Sign(fleet.TypeRoot, []byte("{}"), k)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":%q,"sig":%q}]}`,
		theirs.PayloadType, theirs.Payload, theirs.Signatures[0].KeyID, theirs.Signatures[0].Sig)
	if diff := cmp.Diff(text, string(ours.Encode())); diff != "" {
		t.Errorf("envelope (-theirs +ours):\n%s", diff)
	}
	verifier, err := dsse.NewEnvelopeVerifier(peer{k})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), theirs); err != nil {
		t.Errorf("the reference refuses: %v", err)
	}
}

// E02: one of two required signatures, the same key twice, unknown keys.
func TestEnvelope_CountsDistinctKeysAndTrustsNoHint(t *testing.T) {
	a, b, c := trusttest.Key("a-1"), trusttest.Key("b-1"), trusttest.Key("c-1")
	sign := func(keys ...trust.Signer) trust.Envelope {
		e, err := trust.Sign(fleet.TypeRoot, []byte("{}"), keys...)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	edit := func(e trust.Envelope, f func(*trust.Envelope)) trust.Envelope { f(&e); return e }
	ab := []ed25519.PublicKey{a.Public(), b.Public()}
	for name, tc := range map[string]struct {
		e         trust.Envelope
		keys      []ed25519.PublicKey
		threshold int
		want      fleet.Reason
	}{
		"one of one":         {sign(a), ab[:1], 1, ""},
		"one of two":         {sign(b), ab, 1, ""},
		"two of two":         {sign(b, a), ab, 2, ""},
		"two and a stray":    {sign(c, b, a), ab, 2, ""},
		"one, two needed":    {sign(a), ab, 2, "threshold-not-met"},
		"one and a stray":    {sign(a, c), ab, 2, "threshold-not-met"},
		"a key listed twice": {sign(a), []ed25519.PublicKey{a.Public(), a.Public()}, 2, "threshold-not-met"},
		"the same key twice": {edit(sign(a), func(e *trust.Envelope) {
			e.Signatures = append(e.Signatures, trust.Signature{KeyID: trust.KeyID(b.Public()), Sig: e.Signatures[0].Sig})
		}), ab, 2, "threshold-not-met"},
		"no hint":          {edit(sign(a), func(e *trust.Envelope) { e.Signatures[0].KeyID = "" }), ab, 1, ""},
		"misleading hint":  {edit(sign(a), func(e *trust.Envelope) { e.Signatures[0].KeyID = trust.KeyID(b.Public()) }), ab, 1, ""},
		"unknown key":      {sign(c), ab, 1, "unknown-key"},
		"unknown, as ours": {edit(sign(c), func(e *trust.Envelope) { e.Signatures[0].KeyID = trust.KeyID(a.Public()) }), ab, 1, "bad-signature"},
		"altered payload":  {edit(sign(a), func(e *trust.Envelope) { e.Payload = []byte("[]") }), ab, 1, "bad-signature"},
		"another type":     {edit(sign(a), func(e *trust.Envelope) { e.PayloadType = fleet.TypeRelease }), ab, 1, "bad-signature"},
		"short signature":  {edit(sign(a), func(e *trust.Envelope) { e.Signatures = []trust.Signature{{Sig: []byte{1}}} }), ab, 1, "unknown-key"},
		"no signature":     {edit(sign(a), func(e *trust.Envelope) { e.Signatures = nil }), ab, 1, "not-signed"},
		"no keys":          {sign(a), nil, 1, "unknown-key"},
		"a short key":      {sign(a), []ed25519.PublicKey{{1, 2}}, 1, "unknown-key"},
		"threshold of 0":   {sign(a), ab, 0, "threshold-not-met"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.e.Verify(tc.keys, tc.threshold)
			if got := trust.ReasonOf(err); got != tc.want || (err == nil) != (tc.want == "") {
				t.Errorf("got %v, want reason %q", err, tc.want)
			}
		})
	}
}

func TestParseEnvelope_ChecksKindAndSizeFirst(t *testing.T) {
	e, err := trust.Sign(fleet.TypeRoot, []byte("{}"), trusttest.Key("a-1"))
	if err != nil {
		t.Fatal(err)
	}
	many := e
	for len(many.Signatures) <= trust.MaxSignatures {
		many.Signatures = append(many.Signatures, e.Signatures[0])
	}
	long := e
	long.Payload = bytes.Repeat([]byte{' '}, trust.MaxRootBytes+1)
	for name, tc := range map[string]struct {
		data, kind string
		want       fleet.Reason
	}{
		"good":                {string(e.Encode()), fleet.TypeRoot, ""},
		"another kind":        {string(e.Encode()), fleet.TypeRelease, "wrong-type"},
		"no such kind":        {string(e.Encode()), "application/json", "wrong-type"},
		"kind in upper case":  {strings.Replace(string(e.Encode()), "vnd", "VND", 1), fleet.TypeRoot, "wrong-type"},
		"17 signatures":       {string(many.Encode()), fleet.TypeRoot, "too-large"},
		"payload too long":    {string(long.Encode()), fleet.TypeRoot, "too-large"},
		"not JSON, too long":  {strings.Repeat("x", trust.EnvelopeLimit(fleet.TypeRoot)+1), fleet.TypeRoot, "too-large"},
		"not JSON":            {"x", fleet.TypeRoot, "malformed"},
		"payload key twice":   {strings.Replace(string(e.Encode()), `"payload":`, `"payload":"","payload":`, 1), fleet.TypeRoot, "malformed"},
		"payload key in caps": {strings.Replace(string(e.Encode()), `"payload":`, `"Payload":`, 1), fleet.TypeRoot, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := trust.ParseEnvelope([]byte(tc.data), tc.kind)
			if got := trust.ReasonOf(err); got != tc.want || (err == nil) != (tc.want == "") {
				t.Errorf("got %v, want reason %q", err, tc.want)
			}
		})
	}
}

// wild signs another message, as a faulty command might.
type wild struct{ trust.SecretKey }

func (w wild) Sign([]byte) ([]byte, error) { return w.SecretKey.Sign([]byte("something else")) }

func TestSign_ChecksWhatSignersReturn(t *testing.T) {
	a, b := trusttest.Key("a-1"), trusttest.Key("b-1")
	if _, err := trust.Sign(fleet.TypeRoot, []byte("{}"), wild{a}); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("a wrong signature: got %v", err)
	}
	if _, err := trust.Sign("application/json", []byte("{}"), a); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("no kind of document: got %v", err)
	}
	if _, err := trust.Sign(fleet.TypeRoot, make([]byte, trust.MaxRootBytes+1), a); fleet.ErrorCode(err) != fleet.TooLarge {
		t.Errorf("too long: got %v", err)
	}
	e, err := trust.Sign(fleet.TypeRoot, []byte("{}"), a, a)
	if err != nil || len(e.Signatures) != 1 {
		t.Fatalf("the same signer twice: %d signatures, %v", len(e.Signatures), err)
	}
	both, err := trust.Cosign(e, b, a)
	if err != nil || len(both.Signatures) != 2 || len(e.Signatures) != 1 {
		t.Fatalf("cosign: %d signatures, %v", len(both.Signatures), err)
	}
	if err := both.Verify([]ed25519.PublicKey{a.Public(), b.Public()}, 2); err != nil {
		t.Error(err)
	}
}

func TestKeys_HaveTheFormatOfNix(t *testing.T) {
	k := trusttest.Key("cache.example.org-1")
	read, err := trust.ParseSecretKey(k.Encode() + "\n")
	if err != nil || !read.Public().Equal(k.Public()) || read.Name() != k.Name() {
		t.Fatalf("secret key: %v", err)
	}
	if want := k.Name() + ":" + base64.StdEncoding.EncodeToString(k.Public()); k.PublicKey().String() != want {
		t.Errorf("public key %s, want %s", k.PublicKey(), want)
	}
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %s %q", k, k, k, k), fmt.Sprint(&k), k.LogValue().String()} {
		if strings.Contains(shown, k.Encode()[len(k.Name())+1:][:20]) || !strings.Contains(shown, k.Name()) {
			t.Errorf("printed as %q", shown)
		}
	}
	swapped := trusttest.Key("b").Encode()
	for name, text := range map[string]string{
		"empty": "", "no name": ":" + k.Encode(), "no colon": "abc", "a space in the name": "a b:" + k.Encode()[len(k.Name())+1:],
		"public key": k.PublicKey().String(), "not base64": "a:***", "cut": k.Encode()[:60],
		"halves of two keys": "b:" + swapped[2:44] + k.Encode()[len(k.Name())+1+42:],
	} {
		_, err := trust.ParseSecretKey(text)
		if fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && len(text) > 60 && strings.Contains(err.Error(), text[len(text)-20:]) {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
	if _, err := trust.ParseSecretKey(k.PublicKey().String()); fleet.ErrorHint(err) == "" {
		t.Errorf("a public key as a secret one: got %v, want a hint", err)
	}
	if _, err := trust.Generate(strings.NewReader("short"), "a"); err == nil {
		t.Error("made a key from 5 random bytes")
	}
	if _, err := trust.Generate(strings.NewReader(strings.Repeat("x", 32)), "a:b"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Error("made a key whose name has a colon")
	}
}

func FuzzParseEnvelope(f *testing.F) {
	e, err := trust.Sign(fleet.TypeRoot, []byte("{}"), trusttest.Key("a-1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Encode())
	f.Add([]byte(`{"payloadType":"` + fleet.TypeRoot + `","payload":"","signatures":[{"sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := trust.ParseEnvelope(data, fleet.TypeRoot)
		if err != nil {
			if !trust.ReasonOf(err).Valid() {
				t.Fatalf("no reason: %v", err)
			}
			return
		}
		back, err := trust.ParseEnvelope(got.Encode(), fleet.TypeRoot)
		if err != nil || back.Digest() != got.Digest() || len(back.Signatures) != len(got.Signatures) {
			t.Fatalf("%s became %s: %v", data, got.Encode(), err)
		}
		if got.Verify([]ed25519.PublicKey{trusttest.Key("a-1").Public()}, 1) == nil && got.Digest() != e.Digest() {
			t.Fatalf("verified what was never signed: %s", data)
		}
	})
}
