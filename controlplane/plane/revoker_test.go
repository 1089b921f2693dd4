// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"bytes"
	"database/sql"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E09, E12: what was revoked stays so when the revoker's key changes, also after a
// restart, until the new key has signed a list; a list that is damaged is not read
// as none.
func TestRevocations_StayInForceWhenTheRevokerChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.fleetOf("web-01")
		digest := w.register("web-01")
		next := generate(t, "revoker-2")
		list := func(version uint64, key trust.Signer, certificates ...string) api.Document {
			return api.Document{Envelope: w.sign(fleet.TypeRevocations, trusttest.Payload(t, fleet.Revocations{
				FleetID: "acme", Version: version, SignedAt: time.Now().UnixMilli(), Releases: []fleet.Digest{digest}, Certificates: certificates,
			}), key)}
		}
		must[api.Document](t)(w.plane().Documents.PutRevocations(ctx, alice, list(3, w.root, "0a")))
		must[api.Document](t)(w.plane().Documents.PutRoot(ctx, alice, api.Document{Envelope: w.rootWith(2, func(r *fleet.Root) {
			r.Keys["n"] = next.PublicKey().Trust()
			r.Roles[fleet.TrustRoleRevoker] = fleet.KeyQuota{Keys: []string{"n"}, Threshold: 1}
		}, w.root)}))
		accept := func(serial string) fleet.Code {
			return fleet.ErrorCode(w.plane().Enrolment.Accept(ctx, enrolment.Certificate{Machine: "web-02", Serial: serial, Key: fleet.SHA256([]byte("key"))}))
		}
		for _, when := range []string{"at once", "after a restart"} {
			if got := accept("0a"); got != fleet.Forbidden {
				t.Errorf("%s: the revoked certificate: %q", when, got)
			}
			if got := accept("0b"); got == fleet.Forbidden {
				t.Errorf("%s: another certificate is refused", when)
			}
			_, err := w.plane().CreateRollout(ctx, alice, api.RolloutRequest{Spec: spec(digest)})
			wantCode(t, err, fleet.Refused)
			if c := w.plane().Documents.Current(); c.Revocations != nil || c.Digests.Revocations != "" {
				t.Errorf("%s: agents are given a list that their root does not vouch for", when)
			}
			w.restart()
		}
		must[api.Document](t)(w.plane().Documents.PutRevocations(ctx, alice, list(1, next, "0b")))
		if a, b := accept("0a"), accept("0b"); a == fleet.Forbidden || b != fleet.Forbidden {
			t.Errorf("after the new key's list: %q, %q", a, b)
		}
	})
}

func TestRevocations_ThatAreDamagedAreNotNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		payload := trusttest.Payload(t, fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: time.Now().UnixMilli(), Certificates: []string{"0a"}})
		envelope := w.sign(fleet.TypeRevocations, payload, w.root)
		must[api.Document](t)(w.plane().Documents.PutRevocations(t.Context(), alice, api.Document{Envelope: envelope}))
		db, err := sql.Open("sqlite", w.path)
		if err != nil {
			t.Fatal(err)
		}
		w.stop()
		forged := bytes.Replace(envelope, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
		if _, err = db.ExecContext(t.Context(), `UPDATE document SET envelope = ? WHERE kind = 'revocations'`, string(forged)); err != nil {
			t.Fatal(err)
		}
		if err = db.Close(); err != nil {
			t.Fatal(err)
		}
		st := must[*store.Store](t)(store.Open(t.Context(), store.Options{Path: w.path}))
		_, err = plane.Open(t.Context(), plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: w.now, Version: "test", EpochKey: w.epochKey})
		if err == nil || !strings.Contains(err.Error(), "revocations version 1") {
			t.Errorf("with a damaged list it starts: %v", err)
		}
		if err = st.Close(); err != nil {
			t.Error(err)
		}
	})
}
