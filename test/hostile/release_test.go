// SPDX-License-Identifier: MIT

package hostile

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// scene is a machine on release 5 of fleet acme, and what its attacker has: every
// release that was ever signed, and the keys of another fleet.
type scene struct {
	t        testing.TB
	acme     *tt.Fleet
	evil     *tt.Fleet
	releases map[uint64]*trust.Release
	state    trust.State // that of web-01
}

func newScene(t testing.TB) *scene {
	s := &scene{t: t, acme: tt.New(t, "acme", nil), evil: tt.New(t, "evil", nil), releases: map[uint64]*trust.Release{}}
	for seq := uint64(1); seq <= 6; seq++ {
		s.releases[seq] = s.release(seq, nil, nil)
	}
	s.state = s.acme.State("web-01")
	s.state.Floor = &trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 5, Digest: s.releases[5].Digest}}}
	return s
}

// release signs release seq for three machines, changed by the edits.
func (s *scene) release(seq uint64, header func(*fleet.Header), web01 func(*fleet.Entry)) *trust.Release {
	h := s.acme.Header(seq)
	if header != nil {
		header(&h)
	}
	system := "release " + string(rune('0'+seq))
	e := tt.Entry("web-01", system)
	if web01 != nil {
		web01(&e)
	}
	return s.acme.Release(h, e, tt.Entry("web-02", system), tt.Entry("db-01", system))
}

// offer returns what a control plane would send of release 6, changed by the
// attacker.
func (s *scene) offer(edit func(*trust.Bundle)) trust.Bundle {
	b := s.acme.Bundle(s.releases[6], "web-01")
	b.Proof.Hashes = append([]fleet.Digest{}, b.Proof.Hashes...)
	if edit != nil {
		edit(&b)
	}
	return b
}

func (s *scene) envelope(data []byte, edit func(*trust.Envelope)) []byte {
	e, err := trust.ParseEnvelope(data, fleet.TypeRelease)
	if err != nil {
		s.t.Fatal(err)
	}
	edit(&e)
	return e.Encode()
}

// rewrite alters the signed payload as text and keeps the signatures.
func (s *scene) rewrite(text, by string) func(*trust.Bundle) {
	return func(b *trust.Bundle) {
		b.Envelope = s.envelope(b.Envelope, func(e *trust.Envelope) {
			changed := bytes.Replace(e.Payload, []byte(text), []byte(by), 1)
			if bytes.Equal(changed, e.Payload) {
				s.t.Fatalf("the payload has no %s", text)
			}
			e.Payload = changed
		})
	}
}

// signed is a release of a single entry whose payload the release key signed
// unchecked, as a signer's faulty or newer tool might.
func (s *scene) signed(entry string, payload func(header string) string) trust.Bundle {
	tree := trust.NewTree([][]byte{[]byte(entry)})
	h := s.acme.Header(6)
	h.Entries = fleet.EntriesRef{Count: 1, Root: tree.Root()}
	text, err := json.Marshal(h)
	if err != nil {
		s.t.Fatal(err)
	}
	if payload != nil {
		text = []byte(payload(string(text)))
	}
	return trust.Bundle{Envelope: s.acme.Sign(fleet.TypeRelease, text, "acme-release"), Entry: []byte(entry), Proof: tree.Prove(0)}
}

func entryText(t testing.TB, edit func(string) string) string {
	b, err := json.Marshal(tt.Entry("web-01", "release 6"))
	if err != nil {
		t.Fatal(err)
	}
	return edit(string(b))
}

func replaced(text, by string) func(string) string {
	return func(s string) string { return strings.Replace(s, text, by, 1) }
}

func same(s string) string { return s }

// offered is one row: what the machine is offered and what it must answer.
type offered struct {
	bundle trust.Bundle
	state  func(*trust.State)
	now    int64 // relative to tt.Now
	want   fleet.Reason
}

func run(t *testing.T, s *scene, rows map[string]offered) {
	for name, a := range rows {
		t.Run(name, func(t *testing.T) {
			state := s.state
			if a.state != nil {
				a.state(&state)
			}
			before, _ := json.Marshal(state)
			got, refusal := trust.Accept(state, tt.Now+a.now, a.bundle)
			after, _ := json.Marshal(state)
			if !bytes.Equal(before, after) {
				t.Errorf("the state changed:\n%s\n%s", before, after)
			}
			switch {
			case a.want == "" && refusal != nil:
				t.Errorf("refused: %v", refusal)
			case a.want != "" && refusal == nil:
				t.Errorf("accepted %s, want %s", got.Entry.StorePath, a.want)
			case a.want != "" && (refusal.Reason != a.want || !refusal.Reason.Valid() || refusal.Detail == ""):
				t.Errorf("got %v, want %s", refusal, a.want)
			}
		})
	}
}

// E01: swapped store path; another machine's path; another fleet's release.
func TestSwappedSystemsAreRefused(t *testing.T) {
	s := newScene(t)
	web02 := s.acme.Bundle(s.releases[6], "web-02")
	evil := s.evil.Release(s.evil.Header(6), tt.Entry("web-01", "evil"))
	posing := s.evil.Header(6)
	posing.FleetID = "acme"
	posingEnvelope, posingRaw := s.evil.Unchecked(posing, []fleet.Entry{tt.Entry("web-01", "evil")}, "evil-release")
	foreign := s.acme.Header(6)
	foreign.FleetID = "evil"
	foreignEnvelope, foreignRaw := s.acme.Unchecked(foreign, []fleet.Entry{tt.Entry("web-01", "x")}, "acme-release")
	one := trust.NewTree(foreignRaw).Prove(0)
	moved := s.release(6, func(h *fleet.Header) { h.Line = "staging" }, nil)
	arm := s.release(6, nil, func(e *fleet.Entry) { e.System = "aarch64-linux" })
	run(t, s, map[string]offered{
		"as signed": {bundle: s.offer(nil)},
		"store path swapped": {bundle: s.offer(func(b *trust.Bundle) {
			b.Entry = bytes.Replace(b.Entry, []byte("/nix/store/"), []byte("/nix/store/0"), 1)
		}), want: "proof-mismatch"},
		"the path of an older release": {bundle: s.offer(func(b *trust.Bundle) {
			b.Entry = s.acme.Bundle(s.releases[2], "web-01").Entry
		}), want: "proof-mismatch"},
		"another machine's entry and proof":             {bundle: web02, want: "wrong-machine"},
		"another machine's entry with this one's proof": {bundle: s.offer(func(b *trust.Bundle) { b.Entry = web02.Entry }), want: "proof-mismatch"},
		"another machine's entry renamed": {bundle: func() trust.Bundle {
			b := web02
			b.Entry = bytes.ReplaceAll(b.Entry, []byte("web-02"), []byte("web-01"))
			return b
		}(), want: "proof-mismatch"},
		"header of one release, entry of another": {bundle: s.offer(func(b *trust.Bundle) {
			b.Envelope = s.releases[5].Envelope
		}), want: "proof-mismatch"},
		"count of another tree":                    {bundle: s.offer(func(b *trust.Bundle) { b.Proof.Count = 4 }), want: "proof-mismatch"},
		"no proof":                                 {bundle: s.offer(func(b *trust.Bundle) { b.Proof = trust.Proof{} }), want: "proof-mismatch"},
		"an endless proof":                         {bundle: s.offer(func(b *trust.Bundle) { b.Proof.Hashes = make([]fleet.Digest, 1e6) }), want: "proof-mismatch"},
		"another fleet's release":                  {bundle: s.evil.Bundle(evil, "web-01"), want: "unknown-key"},
		"another fleet's, under our name":          {bundle: trust.Bundle{Envelope: posingEnvelope, Entry: posingRaw[0], Proof: one}, want: "unknown-key"},
		"another fleet's, signed by a key of both": {bundle: trust.Bundle{Envelope: foreignEnvelope, Entry: foreignRaw[0], Proof: one}, want: "wrong-fleet"},
		"another line's release":                   {bundle: s.acme.Bundle(moved, "web-01"), want: "wrong-line"},
		"a system for another platform":            {bundle: s.acme.Bundle(arm, "web-01"), want: "wrong-system"},
	})
}

// E02: unsigned; wrong payload type; one of two required signatures; the same
// key twice; unknown or revoked key.
func TestBadSignaturesAreRefused(t *testing.T) {
	s := newScene(t)
	e := []fleet.Entry{tt.Entry("web-01", "x")}
	by := func(labels ...string) trust.Bundle {
		envelope, raw := s.acme.Unchecked(s.acme.Header(6), e, labels...)
		return trust.Bundle{Envelope: envelope, Entry: raw[0], Proof: trust.NewTree(raw).Prove(0)}
	}
	asType := func(kind string) trust.Bundle {
		payload, raw, err := trust.NewRelease(s.acme.Header(6), e)
		if err != nil {
			t.Fatal(err)
		}
		return trust.Bundle{Envelope: s.acme.Sign(kind, payload, "acme-release"), Entry: raw[0], Proof: trust.NewTree(raw).Prove(0)}
	}
	edit := func(b trust.Bundle, f func(*trust.Envelope)) trust.Bundle {
		b.Envelope = s.envelope(b.Envelope, f)
		return b
	}
	two := func(st *trust.State) {
		root := *st.Root
		root.Roles = map[fleet.TrustRole]fleet.KeyQuota{
			"root": root.Roles["root"], "release": {Keys: root.Roles["release"].Keys, Threshold: 2},
		}
		st.Root = &root
	}
	rotated := func(st *trust.State) {
		root := *st.Root
		root.Roles = map[fleet.TrustRole]fleet.KeyQuota{
			"root": root.Roles["root"], "release": {Keys: root.Roles["release"].Keys[1:], Threshold: 1},
		}
		st.Root = &root
	}
	run(t, s, map[string]offered{
		"one needed, one signed":      {bundle: by("acme-release")},
		"two needed, two signed":      {bundle: by("acme-release", "acme-release2"), state: two},
		"two needed, one signed":      {bundle: by("acme-release"), state: two, want: "threshold-not-met"},
		"two needed, one and a stray": {bundle: by("acme-release", "evil-release"), state: two, want: "threshold-not-met"},
		"two needed, one key twice": {bundle: edit(by("acme-release"), func(e *trust.Envelope) {
			e.Signatures = append(e.Signatures, trust.Signature{KeyID: trust.KeyID(tt.Key("acme-release2").Public()), Sig: e.Signatures[0].Sig})
		}), state: two, want: "threshold-not-met"},
		"unsigned":                 {bundle: by(), want: "not-signed"},
		"an unknown key":           {bundle: by("evil-release"), want: "unknown-key"},
		"a key rotated out":        {bundle: by("acme-release"), state: rotated, want: "unknown-key"},
		"the root's key":           {bundle: by("acme-root"), want: "unknown-key"},
		"the revoker's key":        {bundle: by("acme-revoker"), want: "unknown-key"},
		"the operators' key":       {bundle: by("acme-operator"), want: "unknown-key"},
		"an unknown key, our hint": {bundle: edit(by("evil-release"), func(e *trust.Envelope) { e.Signatures[0].KeyID = trust.KeyID(tt.Key("acme-release").Public()) }), want: "bad-signature"},
		"a signature of something else": {bundle: edit(by("acme-release"), func(e *trust.Envelope) {
			f, err := trust.ParseEnvelope(s.releases[5].Envelope, fleet.TypeRelease)
			if err != nil {
				t.Fatal(err)
			}
			e.Signatures = f.Signatures
		}), want: "bad-signature"},
		"signed as another kind": {bundle: asType(fleet.TypeEvidence), want: "wrong-type"},
		"signed as a root":       {bundle: asType(fleet.TypeRoot), want: "wrong-type"},
		"another kind, type rewritten": {bundle: func() trust.Bundle {
			b := asType(fleet.TypeRoot)
			b.Envelope = bytes.Replace(b.Envelope, []byte(fleet.TypeRoot), []byte(fleet.TypeRelease), 1)
			return b
		}(), want: "bad-signature"},
		"17 signatures": {bundle: edit(by("acme-release"), func(e *trust.Envelope) {
			for len(e.Signatures) < 17 {
				e.Signatures = append(e.Signatures, e.Signatures[0])
			}
		}), want: "too-large"},
		"no root pinned": {bundle: by("acme-release"), state: func(st *trust.State) { st.Root = nil }, want: "no-root"},
		"the root has expired": {bundle: by("acme-release"), state: func(st *trust.State) {
			root := *st.Root
			root.Expires = tt.Now
			st.Root = &root
		}, want: "expired"},
		"unsigned mode after a root was pinned": {bundle: by(), state: func(st *trust.State) { st.Unsigned = true }, want: "unsigned-mode"},
		"unsigned mode without a root":          {bundle: by(), state: func(st *trust.State) { st.Unsigned, st.Root = true, nil }},
	})
}

// E03: an older release; a replayed one; an expired one.
func TestOldReleasesAreRefused(t *testing.T) {
	s := newScene(t)
	of := func(seq uint64) trust.Bundle { return s.acme.Bundle(s.releases[seq], "web-01") }
	other5 := s.release(5, func(h *fleet.Header) { h.Name = "another fifth" }, nil)
	revoke := func(r fleet.Revocations) func(*trust.State) {
		return func(st *trust.State) { st.Revocations = &r }
	}
	pending := func(st *trust.State) {
		f := st.Floor.Begin(trust.Mark{Line: "main", Sequence: 6, Digest: s.releases[6].Digest}, 7*tt.Day, tt.Now).Activated(tt.Now)
		st.Floor = &f
	}
	other6 := s.release(6, func(h *fleet.Header) { h.Name = "another sixth" }, nil)
	run(t, s, map[string]offered{
		"the next":                            {bundle: of(6)},
		"the one of the floor":                {bundle: of(5)},
		"below the floor":                     {bundle: of(4), want: "below-floor"},
		"the first ever":                      {bundle: of(1), want: "below-floor"},
		"another with the floor's number":     {bundle: s.acme.Bundle(other5, "web-01"), want: "sequence-conflict"},
		"another with the pending's number":   {bundle: s.acme.Bundle(other6, "web-01"), state: pending, want: "sequence-conflict"},
		"the last good, within the window":    {bundle: of(5), state: pending, now: 7*tt.Day - 1},
		"the last good, window over":          {bundle: of(5), state: pending, now: 7 * tt.Day, want: "below-floor"},
		"expired":                             {bundle: of(6), now: 30 * tt.Day, want: "expired"},
		"expired by the time seen":            {bundle: of(6), state: func(st *trust.State) { st.HighestSignedTime = tt.Now + 30*tt.Day }, now: 30*tt.Day - tt.Hour/60, want: "expired"},
		"clock set back to before the expiry": {bundle: of(6), state: func(st *trust.State) { st.HighestSignedTime = tt.Now + 31*tt.Day }, want: "clock-behind"},
		"clock set back a little":             {bundle: of(6), state: func(st *trust.State) { st.HighestSignedTime = tt.Now + trust.MaxClockSkewMs }},
		"clock never set":                     {bundle: of(6), now: -tt.Now + 1000, want: "clock-behind"},
		"revoked by digest":                   {bundle: of(6), state: revoke(fleet.Revocations{Releases: []fleet.Digest{s.releases[6].Digest}}), want: "revoked"},
		"revoked by its line's minimum":       {bundle: of(6), state: revoke(fleet.Revocations{MinSequence: map[fleet.Line]uint64{"main": 7}}), want: "revoked"},
		"another line's minimum":              {bundle: of(6), state: revoke(fleet.Revocations{MinSequence: map[fleet.Line]uint64{"staging": 7}})},
		"tried again after a revert": {bundle: of(6), state: func(st *trust.State) {
			*st = st.Left(s.releases[6].Digest, tt.Now)
		}},
		// A17: state lost.
		"state lost, not what runs": {bundle: of(6), state: func(st *trust.State) { st.Floor = nil }, want: "floor-unknown"},
		"state lost, what runs": {bundle: of(5), state: func(st *trust.State) {
			st.Floor, st.Running = nil, tt.Entry("web-01", "release 5").StorePath
		}},
	})
}

// E05: health checks or policy weakened by the control plane. Checks are part
// of the system; the policy is part of the signed header.
func TestWeakenedPolicyIsRefused(t *testing.T) {
	s := newScene(t)
	run(t, s, map[string]offered{
		"longer confirm window":   {bundle: s.offer(s.rewrite(`"confirmWindowMs":120000`, `"confirmWindowMs":86400000`)), want: "bad-signature"},
		"shorter revert window":   {bundle: s.offer(s.rewrite(`"revertWindowMs":604800000`, `"revertWindowMs":0`)), want: "bad-signature"},
		"a cache of the attacker": {bundle: s.offer(s.rewrite(`https://cache.example.org`, `https://cache.example.com`)), want: "bad-signature"},
		"a later expiry":          {bundle: s.offer(s.rewrite(`"expires":1802592000000`, `"expires":1902592000000`)), want: "bad-signature"},
		"a higher sequence":       {bundle: s.offer(s.rewrite(`"sequence":6`, `"sequence":9`)), want: "bad-signature"},
		"a detached system": {bundle: s.offer(func(b *trust.Bundle) {
			b.Entry = bytes.Replace(b.Entry, []byte(`{"id"`), []byte(`{"detach":true,"id"`), 1)
		}), want: "proof-mismatch"},
	})
}

// E06: path traversal, not a system path, oversized, truncated or duplicate-key
// JSON, unknown critical fields: refused although the release key signed it.
func TestMalformedReleasesAreRefused(t *testing.T) {
	s := newScene(t)
	path := string(tt.Entry("web-01", "release 6").StorePath)
	entry := func(text, by string) trust.Bundle { return s.signed(entryText(t, replaced(text, by)), nil) }
	header := func(text, by string) trust.Bundle { return s.signed(entryText(t, same), replaced(text, by)) }
	run(t, s, map[string]offered{
		"well formed":                  {bundle: s.signed(entryText(t, same), nil)},
		"unknown field in the entry":   {bundle: entry(`{"id"`, `{"future":{"x":[1]},"id"`)},
		"unknown field in the header":  {bundle: header(`{"fleetId"`, `{"future":1,"fleetId"`)},
		"path traversal":               {bundle: entry(path, path+"/../../../tmp/evil"), want: "bad-store-path"},
		"path above the store":         {bundle: entry(path, "/nix/store/.."), want: "bad-store-path"},
		"path in a path":               {bundle: entry(path, path+"/bin/sh"), want: "bad-store-path"},
		"path outside the store":       {bundle: entry(path, "/tmp/system"), want: "bad-store-path"},
		"path with a line break":       {bundle: entry(path, path+`\n`), want: "bad-store-path"},
		"path with a NUL":              {bundle: entry(path, path+`\u0000`), want: "bad-store-path"},
		"an option for a path":         {bundle: entry(path, "--option"), want: "bad-store-path"},
		"no path":                      {bundle: entry(`"storePath"`, `"otherPath"`), want: "bad-store-path"},
		"two paths":                    {bundle: entry(`"storePath"`, `"storePath":"`+path+`","storePath"`), want: "malformed"},
		"a second path in other case":  {bundle: entry(`"storePath"`, `"StorePath":"`+path+`","storePath"`), want: "malformed"},
		"a path by an escaped name":    {bundle: entry(`"storePath"`, `"storeP\u0061th":"`+path+`","storePath"`), want: "malformed"},
		"two ids":                      {bundle: entry(`"id":"web-01"`, `"id":"web-01","id":"web-02"`), want: "malformed"},
		"id of another machine":        {bundle: entry(`"web-01"`, `"web-02"`), want: "wrong-machine"},
		"no machine id":                {bundle: entry(`"id":"web-01"`, `"id":"../web"`), want: "malformed"},
		"bad UTF-8":                    {bundle: entry(`"web-01"`, "\"web-01\",\"x\":\"\xff\""), want: "malformed"},
		"truncated entry":              {bundle: s.signed(entryText(t, func(s string) string { return s[:len(s)-1] }), nil), want: "malformed"},
		"two entries in one":           {bundle: s.signed(entryText(t, func(s string) string { return s + s }), nil), want: "malformed"},
		"oversized entry":              {bundle: entry(`{"id"`, `{"x":"`+strings.Repeat("x", fleet.MaxEntryBytes)+`","id"`), want: "too-large"},
		"deep entry":                   {bundle: entry(`{"id"`, `{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,"id"`), want: "malformed"},
		"critical field in the entry":  {bundle: entry(`{"id"`, `{"crit":["sandbox"],"sandbox":true,"id"`), want: "critical-field"},
		"critical field in the header": {bundle: header(`{"fleetId"`, `{"crit":["quorum"],"quorum":2,"fleetId"`), want: "critical-field"},
		"two fleet ids":                {bundle: header(`"fleetId":"acme"`, `"fleetId":"acme","fleetId":"evil"`), want: "malformed"},
		"no line":                      {bundle: header(`"line":"main"`, `"line":""`), want: "malformed"},
		"sequence 0":                   {bundle: header(`"sequence":6`, `"sequence":0`), want: "malformed"},
		"negative sequence":            {bundle: header(`"sequence":6`, `"sequence":-1`), want: "malformed"},
		"null policy":                  {bundle: header(`"policy":{`, `"policy":null,"x":{`), want: "malformed"},
		"text for a number":            {bundle: header(`"sequence":6`, `"sequence":"6"`), want: "malformed"},
		"truncated header":             {bundle: s.signed(entryText(t, same), func(h string) string { return h[:len(h)-1] }), want: "malformed"},
		"something after the header":   {bundle: s.signed(entryText(t, same), func(h string) string { return h + "{}" }), want: "malformed"},
		"oversized envelope": {bundle: s.offer(func(b *trust.Bundle) {
			b.Envelope = bytes.Repeat([]byte(" "), trust.EnvelopeLimit(fleet.TypeRelease)+1)
		}), want: "too-large"},
		"truncated envelope": {bundle: s.offer(func(b *trust.Bundle) { b.Envelope = b.Envelope[:len(b.Envelope)-1] }), want: "malformed"},
		"two payloads": {bundle: s.offer(func(b *trust.Bundle) {
			b.Envelope = bytes.Replace(b.Envelope, []byte(`"payload":`), []byte(`"payload":"e30=","payload":`), 1)
		}), want: "malformed"},
		"no envelope": {bundle: trust.Bundle{}, want: "malformed"},
	})
}

// Whatever single byte an attacker changes, the machine refuses, or accepts
// exactly what was signed.
func TestAnyByteOfABundleChanged(t *testing.T) {
	s := newScene(t)
	text, err := json.Marshal(s.offer(nil))
	if err != nil {
		t.Fatal(err)
	}
	b, err := trust.ParseBundle(text)
	if err != nil {
		t.Fatal(err)
	}
	want, refusal := trust.Accept(s.state, tt.Now, b)
	if refusal != nil {
		t.Fatal(refusal)
	}
	check := func(t *rapid.T, b trust.Bundle) {
		got, refusal := trust.Accept(s.state, tt.Now, b)
		if refusal != nil {
			if !refusal.Reason.Valid() {
				t.Fatalf("reason %q", refusal.Reason)
			}
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("accepted something else (-signed +accepted):\n%s", diff)
		}
	}
	for i := range text {
		flipped := bytes.Clone(text)
		flipped[i] ^= 1 << (i % 8)
		m, err := trust.ParseBundle(flipped)
		if err != nil {
			continue
		}
		if got, refusal := trust.Accept(s.state, tt.Now, m); refusal == nil && !cmp.Equal(want, got) {
			t.Fatalf("byte %d flipped: accepted something else: %s", i, cmp.Diff(want, got))
		}
	}
	mutate := func(t *rapid.T, data []byte) []byte {
		i := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		c := rapid.Byte().Draw(t, "byte")
		switch rapid.SampledFrom([]string{"set", "insert", "delete", "cut"}).Draw(t, "how") {
		case "set":
			data = bytes.Clone(data)
			data[i] = c
		case "insert":
			data = append(append(bytes.Clone(data[:i]), c), data[i:]...)
		case "delete":
			data = append(bytes.Clone(data[:i]), data[i+1:]...)
		case "cut":
			data = data[:i]
		}
		return data
	}
	rapid.Check(t, func(t *rapid.T) {
		switch rapid.SampledFrom([]string{"wire", "envelope", "payload", "entry"}).Draw(t, "where") {
		case "wire":
			m, err := trust.ParseBundle(mutate(t, text))
			if err != nil {
				if !trust.ReasonOf(err).Valid() {
					t.Fatalf("no reason: %v", err)
				}
				return
			}
			check(t, m)
		case "envelope":
			m := b
			m.Envelope = mutate(t, b.Envelope)
			check(t, m)
		case "payload":
			m := b
			m.Envelope = s.envelope(b.Envelope, func(e *trust.Envelope) { e.Payload = mutate(t, e.Payload) })
			check(t, m)
		case "entry":
			m := b
			m.Entry = mutate(t, b.Entry)
			check(t, m)
		}
	})
}

// FuzzBundle parses any text as a bundle: only a signed system is ever accepted.
func FuzzBundle(f *testing.F) {
	s := newScene(f)
	signed := map[fleet.StorePath]bool{}
	for seq, r := range s.releases {
		text, err := json.Marshal(s.acme.Bundle(r, "web-01"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		signed[tt.Entry("web-01", "release "+string(rune('0'+seq))).StorePath] = seq >= 5
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := trust.ParseBundle(data)
		if err != nil {
			return
		}
		if got, refusal := trust.Accept(s.state, tt.Now, b); refusal == nil && !signed[got.Entry.StorePath] {
			t.Fatalf("accepted %s", got.Entry.StorePath)
		}
	})
}
