// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// E09: what a machine says of its tags, and of the release that it runs, puts it
// under no key that is limited to tags, and takes it from none.
func TestSignedTags_AreNotWhatTheMachineClaims(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.fleetOf("web-01", "web-02")
		w.rolled("web-01") // its entry has the tag linux
		mine := access.Caller{Owner: "bob", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"linux"}}
		other := access.Caller{Owner: "eve", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"prod"}}
		check := func(when string) {
			t.Helper()
			for _, tt := range []struct {
				c    access.Caller
				id   fleet.MachineID
				want fleet.Code
			}{{mine, "web-01", ""}, {other, "web-01", fleet.Forbidden}, {mine, "web-02", fleet.Forbidden}, {other, "web-02", fleet.Forbidden}} {
				if _, err := w.plane().SetLifecycle(ctx, tt.c, tt.id, api.LifecycleRequest{Lifecycle: fleet.Active}); fleet.ErrorCode(err) != tt.want {
					t.Errorf("%s: %s sets %s: %v, want code %q", when, tt.c.Owner, tt.id, err, tt.want)
				}
			}
		}
		check("before")
		// A release with the tag prod, registered and never rolled out.
		unused := w.registerTagged("prod", "web-01", "web-02")
		for _, id := range []fleet.MachineID{"web-01", "web-02"} {
			in := quiet(w, id).checkIn()
			in.WaitMs, in.Tags, in.RunsRelease, in.Running = 0, []fleet.Tag{"prod"}, unused, storePath(id, 2)
			must[api.Orders](t)(w.plane().CheckIn(ctx, id, in))
			m := must[fleet.Machine](t)(w.plane().Machine(ctx, id))
			if !slices.Equal(m.ClaimedTags, []fleet.Tag{"prod"}) || slices.Contains(m.Tags.Effective, "prod") {
				t.Errorf("%s claims %v and has %+v", id, m.ClaimedTags, m.Tags)
			}
		}
		check("with the claims")
		w.restart()
		check("after a restart")
	})
}

// The tags of a machine's signed entry follow the release in which it was
// last healthy.
func TestSignedTags_FollowTheReleaseThatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.fleetOf("web-01")
		wants := func(when string, tags ...fleet.Tag) {
			t.Helper()
			m := must[fleet.Machine](t)(w.plane().Machine(ctx, "web-01"))
			if row := must[fleet.Machine](t)(w.store.Machine(ctx, "web-01")); !slices.Equal(m.Tags.Signed, tags) || !slices.Equal(row.Tags.Signed, tags) {
				t.Errorf("%s: the signed tags are %v, in the store %v, want %v", when, m.Tags.Signed, row.Tags.Signed, tags)
			}
		}
		wants("new")
		_, stop := w.agents("web-01")
		defer stop()
		w.until(w.rollOut(w.register("web-01"), allAtOnce), fleet.RolloutCompleted)
		wants("rolled out", "linux")
		w.until(w.rollOut(w.registerTagged("prod", "web-01"), allAtOnce), fleet.RolloutCompleted)
		wants("the next", "prod")
	})
}

// rolled brings a release to machines.
func (w *world) rolled(ids ...fleet.MachineID) fleet.RolloutID {
	w.tb.Helper()
	_, stop := w.agents(ids...)
	defer stop()
	id := w.rollOut(w.register(ids...), allAtOnce)
	w.until(id, fleet.RolloutCompleted)
	return id
}
