// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

func TestCreateRelease_TakesWhatItsSignersSignedInTheOrderOfItsLine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		first := w.newRelease("web-01")
		_, err := w.plane().CreateRelease(ctx, alice, first)
		wantCode(t, err, fleet.Conflict) // no root yet
		w.pin()
		one := must[fleet.Release](t)(w.plane().CreateRelease(ctx, alice, first))
		rest(time.Second)
		again := must[fleet.Release](t)(w.plane().CreateRelease(ctx, alice, first))
		if d := cmp.Diff(one, again); d != "" {
			t.Errorf("the same release again (-first +again):\n%s", d)
		}
		second := w.newRelease("web-01")
		third := w.newRelease("web-01")
		_, err = w.plane().CreateRelease(ctx, alice, third)
		wantCode(t, err, fleet.Conflict) // its predecessor is missing
		must[fleet.Release](t)(w.plane().CreateRelease(ctx, alice, second))
		w.sequence["main"], w.heads["main"] = 1, one.Digest
		_, err = w.plane().CreateRelease(ctx, alice, w.newRelease("web-02"))
		wantCode(t, err, fleet.Conflict) // E03: sequence 2 is given
		rest(time.Second)
		must[fleet.Release](t)(w.plane().CreateRelease(ctx, alice, third))

		page := must[api.Page[fleet.Release]](t)(w.plane().Releases(ctx, alice, fleet.ReleaseFilter{}, fleet.PageRequest{Limit: 2}))
		rest := must[api.Page[fleet.Release]](t)(w.plane().Releases(ctx, alice, fleet.ReleaseFilter{}, fleet.PageRequest{Limit: 2, Cursor: page.Next}))
		var sequences []uint64
		for _, r := range append(page.Items, rest.Items...) {
			sequences = append(sequences, r.Header.Sequence)
		}
		if !slices.Equal(sequences, []uint64{3, 2, 1}) || rest.Next != "" {
			t.Errorf("sequences %v, next %q", sequences, rest.Next)
		}
		detail := must[api.ReleaseDetail](t)(w.plane().Release(ctx, alice, one.Digest))
		if d := cmp.Diff(first, api.ReleaseRequest{Envelope: detail.Envelope, Entries: detail.Entries}); d != "" {
			t.Errorf("the bytes that were signed changed (-signed +kept):\n%s", d)
		}
	})
}

// E01, E02: what the signers did not sign is refused when it is registered.
func TestCreateRelease_RefusesForgeries(t *testing.T) {
	w := newWorld(t)
	w.pin()
	good := w.newRelease("db-01", "web-01")
	e := must[trust.Envelope](t)(trust.ParseEnvelope(good.Envelope, fleet.TypeRelease))
	for name, tc := range map[string]struct {
		in   api.ReleaseRequest
		want fleet.Reason
	}{
		"swapped path":  {api.ReleaseRequest{Envelope: good.Envelope, Entries: [][]byte{good.Entries[0], []byte(strings.Replace(string(good.Entries[1]), "1-web-01", "2-web-01", 1))}}, fleet.ReasonProofMismatch},
		"missing entry": {api.ReleaseRequest{Envelope: good.Envelope, Entries: good.Entries[:1]}, fleet.ReasonProofMismatch},
		"unsigned":      {api.ReleaseRequest{Envelope: trust.Envelope{PayloadType: e.PayloadType, Payload: e.Payload}.Encode(), Entries: good.Entries}, fleet.ReasonNotSigned},
		"another key":   {api.ReleaseRequest{Envelope: w.sign(fleet.TypeRelease, e.Payload, generate(t, "mallory")), Entries: good.Entries}, fleet.ReasonUnknownKey},
	} {
		_, err := w.plane().CreateRelease(t.Context(), alice, tc.in)
		wantCode(t, err, fleet.Refused)
		if got := trust.ReasonOf(err); got != tc.want {
			t.Errorf("%s: reason %q, want %q (%v)", name, got, tc.want, err)
		}
	}
	if page := must[api.Page[fleet.Release]](t)(w.plane().Releases(t.Context(), alice, fleet.ReleaseFilter{}, fleet.PageRequest{})); len(page.Items) != 0 {
		t.Errorf("a refused release was kept: %+v", page.Items)
	}
	// O12: one that nothing uses goes, and its sequence is not given again.
	digest := must[fleet.Release](t)(w.plane().CreateRelease(t.Context(), alice, good)).Digest
	must[fleet.Release](t)(w.plane().DeleteRelease(t.Context(), alice, digest))
	_, err := w.plane().BundleFor(t.Context(), "web-01", digest)
	wantCode(t, err, fleet.NotFound)
	w.sequence["main"], w.heads["main"] = 0, ""
	_, err = w.plane().CreateRelease(t.Context(), alice, w.newRelease("web-01"))
	wantCode(t, err, fleet.Conflict)
}

func TestTrustDocuments_OnlyMoveForwardAndReachTheAgents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.pin() // the same again changes nothing
		w.fleetOf("web-01")
		digest := w.register("web-01")
		in := quiet(w, "web-01").checkIn()
		in.WaitMs = 0
		o := must[api.Orders](t)(w.plane().CheckIn(ctx, "web-01", in))

		_, err := w.plane().Documents.PutRoot(ctx, alice, api.Document{Envelope: w.rootDocument(3, w.root)})
		wantCode(t, err, fleet.Refused) // version 2 is missing
		_, err = w.plane().Documents.PutRoot(ctx, alice, api.Document{Envelope: w.rootDocument(2, generate(t, "mallory"))})
		wantCode(t, err, fleet.Refused)
		must[api.Document](t)(w.plane().Documents.PutRoot(ctx, alice, api.Document{Envelope: w.rootDocument(2, w.root)}))
		for version := range uint64(3) {
			_, err = w.plane().Documents.RootVersion(ctx, version)
			if (version == 0) != (err != nil) {
				t.Errorf("root version %d: %v", version, err)
			}
		}
		// A held check-in hears of it.
		in.Have, in.WaitMs = o.Etag, 50_000
		start := time.Now()
		o = must[api.Orders](t)(w.plane().CheckIn(ctx, "web-01", in))
		if time.Since(start) != 0 || o.Documents.Root == "" {
			t.Errorf("the new root reached the agent after %s: %+v", time.Since(start), o.Documents)
		}
		must[[]byte](t)(w.plane().Documents.ByDigest(ctx, o.Documents.Root))

		revoke := func(version uint64, releases ...fleet.Digest) []byte {
			return w.sign(fleet.TypeRevocations, trusttest.Payload(t, fleet.Revocations{
				FleetID: "acme", Version: version, SignedAt: time.Now().UnixMilli(), Releases: releases, Certificates: []string{"0a"},
			}), w.root)
		}
		must[api.Document](t)(w.plane().Documents.PutRevocations(ctx, alice, api.Document{Envelope: revoke(2, digest)}))
		_, err = w.plane().Documents.PutRevocations(ctx, alice, api.Document{Envelope: revoke(1)})
		wantCode(t, err, fleet.Conflict)
		w.restart()
		_, err = w.plane().CreateRollout(ctx, alice, api.RolloutRequest{Spec: spec(digest)})
		wantCode(t, err, fleet.Refused) // H18: the agents would refuse it
		listed := enrolment.Certificate{Machine: "web-02", Serial: "0a", Key: fleet.SHA256([]byte("key"))}
		wantCode(t, w.plane().Enrolment.Accept(ctx, listed), fleet.Forbidden)
		listed.Serial = "0b"
		if err = w.plane().Enrolment.Accept(ctx, listed); err != nil {
			t.Errorf("a certificate that is not listed: %v", err)
		}
		tok := must[api.Token](t)(w.plane().Enrolment.CreateToken(ctx, alice, "web-03", api.TokenRequest{}, api.CAHash(nil)))
		serial := "0a"
		issue := func(fleet.MachineID) (string, []byte, int64, error) {
			return serial, []byte(serial), time.Now().Add(time.Hour).UnixMilli(), nil
		}
		if _, _, err = w.plane().Enrolment.RedeemToken(ctx, tok.Token, enrolment.Keys{Certificate: listed.Key}, issue); err != nil {
			t.Fatal(err)
		}
		serial = "0c"
		if next := must[[]byte](t)(w.plane().Enrolment.Renew(ctx, enrolment.Certificate{Machine: "web-03", Key: listed.Key}, enrolment.Keys{Certificate: listed.Key}, issue)); string(next) != "0c" {
			t.Errorf("a renewal repeated certificate %s, which is revoked", next)
		}
		stamp := func(version uint64, revocations fleet.Digest) []byte {
			return w.sign(fleet.TypeTimestamp, trusttest.Payload(t, fleet.Timestamp{
				FleetID: "acme", Version: version, SignedAt: time.Now().UnixMilli(), Expires: time.Now().Add(time.Hour).UnixMilli(), Revocations: revocations,
			}), w.root)
		}
		_, err = w.plane().Documents.PutTimestamp(ctx, alice, api.Document{Envelope: stamp(1, digest)})
		wantCode(t, err, fleet.Conflict) // names a list that is not there
		must[api.Document](t)(w.plane().Documents.PutTimestamp(ctx, alice, api.Document{Envelope: stamp(1, "")}))
		in.WaitMs = 0
		if o = must[api.Orders](t)(w.plane().CheckIn(ctx, "web-01", in)); o.Documents.Timestamp == "" || o.Documents.Revocations == "" {
			t.Errorf("documents %+v", o.Documents)
		}
	})
}

// E09: keys that are unknown, expired or revoked; and what a key may hand on.
func TestKeys_EndWhenTheyAreToldTo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		if err := w.plane().Keys.SetBootstrapSecret(ctx, "a secret of some length"); err != nil {
			t.Fatal(err)
		}
		boot := func(secret string) (api.NewKey, error) {
			return w.plane().Keys.Bootstrap(ctx, api.BootstrapRequest{Secret: secret, Owner: "root@example.org"})
		}
		_, err := boot("another secret of a length")
		wantCode(t, err, fleet.Unauthenticated)
		first := must[api.NewKey](t)(boot("a secret of some length"))
		_, err = boot("a secret of some length")
		wantCode(t, err, fleet.Unauthenticated)
		w.restart()
		if err = w.plane().Keys.SetBootstrapSecret(ctx, "a secret of some length"); err != nil {
			t.Fatal(err)
		}
		_, err = boot("a secret of some length")
		wantCode(t, err, fleet.Unauthenticated) // also not after a restart
		admin := must[access.Caller](t)(w.plane().Keys.Authenticate(ctx, first.Secret))
		if admin.Role != fleet.RoleAdmin || admin.Owner != "root@example.org" {
			t.Fatalf("caller %+v", admin)
		}
		_, err = w.plane().Keys.Revoke(ctx, admin, first.Key.ID)
		wantCode(t, err, fleet.Conflict) // the last admin key

		short := must[api.NewKey](t)(w.plane().Keys.Create(ctx, admin, api.KeyRequest{Owner: "bob", Role: fleet.RoleDeploy, ExpiresAt: time.Now().Add(time.Hour).UnixMilli()}))
		must[access.Caller](t)(w.plane().Keys.Authenticate(ctx, short.Secret))
		rotated := must[api.NewKey](t)(w.plane().Keys.Rotate(ctx, admin, short.Key.ID))
		_, err = w.plane().Keys.Authenticate(ctx, short.Secret)
		wantCode(t, err, fleet.Unauthenticated)
		must[access.Caller](t)(w.plane().Keys.Authenticate(ctx, rotated.Secret))
		rest(2 * time.Hour)
		_, err = w.plane().Keys.Authenticate(ctx, rotated.Secret)
		wantCode(t, err, fleet.Unauthenticated)

		long := must[api.NewKey](t)(w.plane().Keys.Create(ctx, admin, api.KeyRequest{Owner: "carol", Role: fleet.RoleReadonly}))
		must[fleet.Key](t)(w.plane().Keys.Revoke(ctx, admin, long.Key.ID))
		_, err = w.plane().Keys.Authenticate(ctx, long.Secret)
		wantCode(t, err, fleet.Unauthenticated)
		_, err = w.plane().Keys.Authenticate(ctx, fleet.KeyPrefix+"guess")
		wantCode(t, err, fleet.Unauthenticated)
		b, err := w.store.AllKeys(ctx)
		if err != nil || len(b) != 3 || b[0].LastUsed == 0 {
			t.Errorf("keys %+v %v: want three, and when the first was used", b, err)
		}
		w.verifyAudit()
	})
}

// A key with tags touches machines that have one of them, and no others.
func TestCaller_WithTagsTouchesTheirMachinesOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.pin()
	w.fleetOf("web-01", "db-01")
	must[fleet.Machine](t)(w.plane().SetTags(ctx, alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
	digest := w.register("web-01", "db-01", "db-02")
	bob := access.Caller{Owner: "bob", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
	for name, do := range map[string]func() error{
		"lifecycle": func() error {
			_, err := w.plane().SetLifecycle(ctx, bob, "db-01", api.LifecycleRequest{Lifecycle: fleet.Maintenance})
			return err
		},
		"take it by a tag": func() error {
			_, err := w.plane().SetTags(ctx, bob, "db-01", api.TagsRequest{Tags: []fleet.Tag{"web"}})
			return err
		},
		"put its machine under another team": func() error {
			_, err := w.plane().SetTags(ctx, bob, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web", "db"}})
			return err
		},
		"register a name that is signed for others": func() error {
			_, err := w.plane().RegisterMachine(ctx, bob, api.MachineRequest{ID: "db-02", Tags: []fleet.Tag{"web"}})
			return err
		},
		"token": func() error {
			_, err := w.plane().Enrolment.CreateToken(ctx, bob, "db-01", api.TokenRequest{}, api.CAHash(nil))
			return err
		},
		"key without tags": func() error {
			_, err := w.plane().Keys.Create(ctx, bob, api.KeyRequest{Owner: "eve", Role: fleet.RoleAdmin})
			return err
		},
	} {
		if err := do(); fleet.ErrorCode(err) != fleet.Forbidden {
			t.Errorf("%s: %v, want forbidden", name, err)
		}
	}
	// It rolls out to its machines, as if the release had no others.
	for _, dry := range []bool{true, false} {
		d := must[api.RolloutDetail](t)(w.plane().CreateRollout(ctx, bob, api.RolloutRequest{Spec: spec(digest), DryRun: dry}))
		if want := [][]fleet.MachineID{{"web-01"}}; !cmp.Equal(d.Plan.Batches, want) || len(d.Plan.LeftOut) > 0 {
			t.Errorf("dry run %t: the plan is %+v", dry, d.Plan)
		}
	}
}

// E10: doctor names the first audit entry that someone edited.
func TestDoctor_FindsAnAlteredAudit(t *testing.T) {
	w := newWorld(t)
	w.fleetOf("web-01", "web-02")
	if found := must[[]health.Finding](t)(w.plane().Health.Doctor(t.Context())); len(found) != 1 || found[0].Subject != "trust" {
		t.Fatalf("a new control plane has findings other than its missing root: %+v", found)
	}
	w.stop()
	file := must[[]byte](t)(os.ReadFile(w.path))
	edited := bytes.ReplaceAll(file, []byte(`"actor":"key:alice","action":"machine.register"`), []byte(`"actor":"key:bobby","action":"machine.register"`))
	if bytes.Equal(file, edited) {
		t.Fatal("the file has no such text")
	}
	if err := os.WriteFile(w.path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	found := must[[]health.Finding](t)(w.plane().Health.Doctor(t.Context()))
	if !slices.ContainsFunc(found, func(f health.Finding) bool { return f.Subject == "audit" && strings.Contains(f.Message, "entry 2 ") }) {
		t.Errorf("findings %+v do not name entry 2", found)
	}
}

func TestMetrics_CountTheFleet(t *testing.T) {
	w := newWorld(t)
	w.pin()
	w.fleetOf(three...)
	w.rollOut(w.register(three...))
	must[fleet.Machine](t)(w.plane().RegisterMachine(t.Context(), alice, api.MachineRequest{ID: "new-01"}))
	in := quiet(w, "web-01").checkIn()
	in.WaitMs, in.Drift = 0, true
	must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in))
	m := must[health.Metrics](t)(w.plane().Health.Metrics(t.Context()))
	if m.Machines[fleet.Active] != 3 || m.Machines[fleet.Pending] != 1 || m.Online != 1 || m.Drift != 1 ||
		m.Health[fleet.Healthy] != 1 || m.Rollouts[fleet.RolloutRunning] != 1 || m.AuditEntries == 0 {
		t.Errorf("metrics %+v", m)
	}
}
