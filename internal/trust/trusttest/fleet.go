// SPDX-License-Identifier: MIT

// Package trusttest makes the keys and signed documents of a fleet for tests.
// They come from labels and are the same in every run, so that no file holds a
// secret.
//
// It is never linked into a program.
package trusttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Times of the documents here, Unix milliseconds.
const (
	Hour = 3600 * 1000
	Day  = 24 * Hour
	Now  = 1_800_000_000_000
)

// Key returns the key of a label.
func Key(label string) trust.SecretKey {
	seed := sha256.Sum256([]byte("nixfleet test key " + label))
	k, err := trust.Generate(bytes.NewReader(seed[:]), label)
	if err != nil {
		panic(err) // the label is not a valid key name: fix the test
	}
	return k
}

// Fleet is a fleet's root with the keys of its roles.
type Fleet struct {
	tb           testing.TB
	Root         fleet.Root
	RootEnvelope []byte
}

// New makes a fleet whose root gives each role one key, labelled id-role; the
// release role has the two keys id-release and id-release2. edit, if not nil,
// changes the root before it is signed.
func New(tb testing.TB, id string, edit func(*fleet.Root)) *Fleet {
	tb.Helper()
	root := fleet.Root{
		FleetID: id, Version: 1, Expires: Now + 365*Day,
		Keys: map[string]fleet.TrustKey{}, Roles: map[fleet.TrustRole]fleet.KeyQuota{},
	}
	for _, role := range []fleet.TrustRole{fleet.TrustRoleRoot, fleet.TrustRoleRelease, fleet.TrustRoleRevoker, fleet.TrustRoleOperator} {
		AddKey(&root, role, id+"-"+string(role))
	}
	AddKey(&root, fleet.TrustRoleRelease, id+"-release2")
	if edit != nil {
		edit(&root)
	}
	f := &Fleet{tb: tb, Root: root}
	payload, err := trust.NewRoot(root)
	f.must(err)
	f.RootEnvelope = f.Sign(fleet.TypeRoot, payload, id+"-root")
	return f
}

// AddKey adds the key of a label to a role of root, whose threshold becomes 1.
func AddKey(root *fleet.Root, role fleet.TrustRole, label string) {
	k := Key(label)
	id := trust.KeyID(k.Public())
	root.Keys[id] = k.PublicKey().Trust()
	root.Roles[role] = fleet.KeyQuota{Keys: append(root.Roles[role].Keys, id), Threshold: 1}
}

// Sign returns an envelope over payload, signed by the keys of labels.
func (f *Fleet) Sign(payloadType string, payload []byte, labels ...string) []byte {
	f.tb.Helper()
	signers := make([]trust.Signer, len(labels))
	for i, l := range labels {
		signers[i] = Key(l)
	}
	e, err := trust.Sign(payloadType, payload, signers...)
	f.must(err)
	return e.Encode()
}

// Header returns a header of line main that is valid once it has entries.
func (f *Fleet) Header(sequence uint64) fleet.Header {
	return fleet.Header{
		FleetID: f.Root.FleetID, Line: "main", Sequence: sequence, CreatedAt: Now - Hour, Expires: Now + 30*Day,
		Source: fleet.Source{Flake: "git+https://example.org/fleet", Revision: strings.Repeat("ab", 20)},
		Caches: []fleet.Cache{{URL: "https://cache.example.org", PublicKeys: []string{Key("cache.example.org-1").PublicKey().String()}}},
		Policy: fleet.Policy{ConfirmWindowMs: 120_000, RevertWindowMs: 7 * Day},
	}
}

// Entry returns a valid entry whose store path depends on the machine and on
// system, any text.
func Entry(id fleet.MachineID, system string) fleet.Entry {
	hash := func(n int) string {
		const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
		sum := sha256.Sum256([]byte(string(id) + " " + system))
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[sum[i%len(sum)]%32]
		}
		return string(b)
	}
	return fleet.Entry{
		ID: id, System: "x86_64-linux",
		StorePath:     fleet.StorePath("/nix/store/" + hash(32) + "-nixos-system-" + string(id) + "-26.05"),
		NarHash:       fleet.NarHash("sha256:" + hash(52)),
		ClosureSize:   1 << 30,
		ClosureDigest: fleet.SHA256([]byte("closure " + string(id) + " " + system)),
		Tags:          []fleet.Tag{"prod", "web"},
		Fingerprints:  fleet.Fingerprints{Kernel: "6.12.1", Inhibitors: map[string]string{"dbus": "1.14"}},
	}
}

// Release signs a release of the header and entries with the first release
// key, and checks it as the control plane would.
func (f *Fleet) Release(h fleet.Header, entries ...fleet.Entry) *trust.Release {
	f.tb.Helper()
	envelope, raw := f.Unchecked(h, entries, f.Root.FleetID+"-release")
	r, err := trust.CheckRelease(envelope, raw, &f.Root, Now)
	f.must(err)
	return r
}

// Unchecked signs a release with the keys of labels and does not check it.
func (f *Fleet) Unchecked(h fleet.Header, entries []fleet.Entry, labels ...string) (envelope []byte, raw [][]byte) {
	f.tb.Helper()
	payload, raw, err := trust.NewRelease(h, entries)
	f.must(err)
	return f.Sign(fleet.TypeRelease, payload, labels...), raw
}

// Timestamp signs a timestamp with the key id-timestamp, for the fleet.
func (f *Fleet) Timestamp(t fleet.Timestamp) []byte {
	f.tb.Helper()
	t.FleetID = f.Root.FleetID
	return f.Sign(fleet.TypeTimestamp, Payload(f.tb, t), t.FleetID+"-timestamp")
}

// Revocations signs a revocation list with the key id-revoker, for the fleet.
func (f *Fleet) Revocations(r fleet.Revocations) []byte {
	f.tb.Helper()
	r.FleetID = f.Root.FleetID
	return f.Sign(fleet.TypeRevocations, Payload(f.tb, r), r.FleetID+"-revoker")
}

// Grant signs a grant with the key id-operator, for the fleet.
func (f *Fleet) Grant(g fleet.Grant) []byte {
	f.tb.Helper()
	g.FleetID = f.Root.FleetID
	return f.Sign(fleet.TypeGrant, Payload(f.tb, g), g.FleetID+"-operator")
}

// Payload encodes a timestamp, a revocation list or a grant to sign; an invalid
// one too, as a faulty signer would.
func Payload(tb testing.TB, document any) []byte {
	tb.Helper()
	var b []byte
	var err error
	switch d := document.(type) {
	case fleet.Timestamp:
		b, err = trust.NewTimestamp(d)
	case fleet.Revocations:
		b, err = trust.NewRevocations(d)
	case fleet.Grant:
		b, err = trust.NewGrant(d)
	}
	if b == nil || err != nil {
		b, err = json.Marshal(document)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// State returns the state of a machine that has pinned the root and knows nothing
// else: an empty floor, line main.
func (f *Fleet) State(id fleet.MachineID) trust.State {
	root := f.Root
	return trust.State{Machine: id, System: "x86_64-linux", Line: "main", Root: &root, Floor: &trust.Floor{}}
}

// Bundle returns the part of a release for a machine.
func (f *Fleet) Bundle(r *trust.Release, id fleet.MachineID) trust.Bundle {
	f.tb.Helper()
	b, ok := r.Bundle(id)
	if !ok {
		f.tb.Fatalf("release %s has no entry for %s", r.Digest.Short(), id)
	}
	return b
}

func (f *Fleet) must(err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}
