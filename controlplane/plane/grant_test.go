// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// A grant reaches the machines that it names, at once, until it expires, also
// after a restart; no other document of a grant's form is taken.
func TestPutGrant_ReachesItsMachinesUntilItExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		grant := func(signer trust.Signer, life time.Duration) []byte {
			payload := must[[]byte](t)(trust.NewGrant(fleet.Grant{
				FleetID: "acme", Machines: []fleet.MachineID{"web-01", "web-03"}, Digest: fleet.SHA256([]byte(life.String())), Kind: fleet.GrantDowngrade,
				SignedAt: time.Now().UnixMilli(), Expires: time.Now().Add(life).UnixMilli(),
			}))
			return w.sign(fleet.TypeGrant, payload, signer)
		}
		put := func(b []byte) error {
			_, err := w.plane().Documents.PutGrant(ctx, alice, api.Document{Envelope: b})
			return err
		}
		wantCode(t, put(grant(w.root, time.Hour)), fleet.Conflict) // no root is pinned
		w.pin()
		w.fleetOf("web-01", "web-02")
		orders := func(m fleet.MachineID, have string) api.Orders {
			in := quiet(w, m).checkIn()
			in.Have, in.WaitMs = have, 0
			if have != "" {
				in.WaitMs = 50_000
			}
			return must[api.Orders](t)(w.plane().CheckIn(ctx, m, in))
		}
		before := orders("web-01", "")
		wantCode(t, put(grant(generate(t, "mallory"), time.Hour)), fleet.Refused)
		wantCode(t, put([]byte("{}")), fleet.Refused)
		short, long := grant(w.root, time.Hour), grant(w.root, 24*time.Hour)
		for _, b := range [][]byte{short, long, short} { // the same again changes nothing
			if err := put(b); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		got := orders("web-01", before.Etag)
		if len(got.Grants) != 2 || time.Since(start) != 0 {
			t.Errorf("grants %v after %s, want two at once", got.Grants, time.Since(start))
		}
		if other := orders("web-02", ""); len(other.Grants) != 0 {
			t.Errorf("a machine that no grant names is shown %v", other.Grants)
		}
		w.restart()
		rest(2 * time.Hour)
		wantCode(t, put(short), fleet.Refused) // has expired
		got = orders("web-01", "")
		digest := must[trust.Envelope](t)(trust.ParseEnvelope(long, fleet.TypeGrant)).Digest()
		if !slices.Equal(got.Grants, []fleet.Digest{digest}) {
			t.Fatalf("grants %v after one has expired, want %v", got.Grants, digest)
		}
		if b := must[[]byte](t)(w.plane().Documents.ByDigest(ctx, digest)); string(b) != string(long) {
			t.Error("the grant's bytes have changed")
		}
		rest(23 * time.Hour)
		if got = orders("web-01", ""); len(got.Grants) != 0 {
			t.Errorf("grants %v after a day", got.Grants)
		}
	})
}
