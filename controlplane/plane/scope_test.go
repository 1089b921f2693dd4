// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"strings"
	"testing"
	"time"

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
			m := must[fleet.Machine](t)(w.plane().Machine(ctx, alice, id))
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
			m := must[fleet.Machine](t)(w.plane().Machine(ctx, alice, "web-01"))
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

// What two teams share, a limited key sees its part of, and changes nothing of.
func TestLimitedKey_SeesItsPartOfWhatIsShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.fleetOf("web-01", "db-01")
		must[fleet.Machine](t)(w.plane().SetTags(ctx, alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
		must[fleet.Machine](t)(w.plane().SetTags(ctx, alice, "db-01", api.TagsRequest{Tags: []fleet.Tag{"db"}}))
		bob := access.Caller{Owner: "bob", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
		eve := access.Caller{Owner: "eve", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"mail"}}
		unused := w.register("web-01", "db-01")
		digest := w.register("web-01", "db-01")
		id := w.rollOut(digest, allAtOnce)

		if d := must[api.ReleaseDetail](t)(w.plane().Release(ctx, bob, digest)); len(d.Entries) != 1 || !strings.Contains(string(d.Entries[0]), "web-01") {
			t.Errorf("bob sees the entries %s", d.Entries)
		}
		if d := must[fleet.ReleaseDiff](t)(w.plane().DiffReleases(ctx, bob, unused, digest)); len(d.Changed) != 1 || d.Changed[0].ID != "web-01" {
			t.Errorf("bob sees the difference %+v", d)
		}
		if p := must[api.Page[fleet.Assignment]](t)(w.plane().Assignments(ctx, bob, id, fleet.AssignmentFilter{Batch: fleet.AllBatches}, fleet.PageRequest{})); len(p.Items) != 1 || p.Items[0].Machine != "web-01" {
			t.Errorf("bob sees the assignments %+v", p.Items)
		}
		for _, v := range must[[]api.Waiting](t)(w.plane().Explain(ctx, bob, id)) {
			if v.Machine != "" && v.Machine != "web-01" {
				t.Errorf("bob sees what %s waits for", v.Machine)
			}
		}
		if d := must[api.RolloutDetail](t)(w.plane().Rollout(ctx, bob, id)); d.Machines != 1 || d.Batches[0].Size != 1 || d.Batches[0].Counts.Pending != 1 || !slices.Equal(d.Spec.Select, []string{"web-01"}) {
			t.Errorf("bob sees the rollout %+v", d)
		}
		if p := must[api.Page[fleet.Rollout]](t)(w.plane().Rollouts(ctx, eve, fleet.RolloutFilter{}, fleet.PageRequest{})); len(p.Items) != 0 {
			t.Errorf("eve sees the rollouts %+v", p.Items)
		}

		forbidden := map[string]func() error{
			"delete the release":  func() error { _, err := w.plane().DeleteRelease(ctx, bob, unused); return err },
			"register one":        func() error { _, err := w.plane().CreateRelease(ctx, bob, w.newRelease("web-01", "db-01")); return err },
			"of an unknown":       func() error { _, err := w.plane().CreateRelease(ctx, bob, w.newRelease("new-01")); return err },
			"delete the rollout":  func() error { _, err := w.plane().DeleteRollout(ctx, bob, id); return err },
			"eve reads it":        func() error { _, err := w.plane().Rollout(ctx, eve, id); return err },
			"eve reads a machine": func() error { _, err := w.plane().Machine(ctx, eve, "web-01"); return err },
		}
		for _, v := range []api.Verb{api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbRetry, api.VerbRevert} {
			forbidden[string(v)] = func() error {
				_, err := w.plane().RolloutVerb(ctx, bob, id, v, api.VerbRequest{})
				return err
			}
			forbidden[string(v)+" of the other"] = func() error {
				_, err := w.plane().RolloutVerb(ctx, bob, id, v, api.VerbRequest{Machines: []fleet.MachineID{"web-01", "db-01"}})
				return err
			}
		}
		for name, do := range forbidden {
			if err := do(); fleet.ErrorCode(err) != fleet.Forbidden {
				t.Errorf("%s: %v, want forbidden", name, err)
			}
		}
		// A verb about the whole rollout does not become one's own by naming one's machine.
		if _, err := w.plane().RolloutVerb(ctx, bob, id, api.VerbPause, api.VerbRequest{Machines: []fleet.MachineID{"web-01"}}); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("pause by naming a machine: %v", err)
		}
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(ctx, bob, id, api.VerbSkip, api.VerbRequest{Machines: []fleet.MachineID{"web-01"}}))
	})
}

// Author and approver are compared by owner: another key of the author does not
// approve, nor one that a limited author makes for somebody else.
func TestRolloutVerb_WantsAnotherOwnersApproval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.pin()
		w.fleetOf("web-01", "web-02")
		_, stop := w.agents("web-01", "web-02")
		defer stop()
		id := w.rollOut(w.register("web-01", "web-02"), func(s *fleet.RolloutSpec) { s.ApproveByOther = true })
		approve := func(c access.Caller) error {
			_, err := w.plane().RolloutVerb(ctx, c, id, api.VerbApprove, api.VerbRequest{})
			return err
		}
		for i := range 2 { // before each of its batches
			rest(time.Minute)
			if d := must[api.RolloutDetail](t)(w.plane().Rollout(ctx, alice, id)); d.Batches[i].State != fleet.BatchWaiting {
				t.Fatalf("batch %d is %s: %s", i+1, d.Batches[i].State, d.Why)
			}
			if err := approve(access.Caller{Owner: "alice", KeyID: "k2", Role: fleet.RoleDeploy}); fleet.ErrorCode(err) != fleet.Forbidden {
				t.Errorf("approved by another key of the author: %v", err)
			}
			if err := approve(access.Caller{Owner: "bob", KeyID: "k3", Role: fleet.RoleDeploy}); err != nil {
				t.Errorf("approved by bob: %v", err)
			}
		}
		w.until(id, fleet.RolloutCompleted)
	})
}
