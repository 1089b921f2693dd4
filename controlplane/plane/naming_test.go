// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// E09: a machine is renamed by whose key is for it, under both names, as it was seen
// and while no rollout has it; else nothing changes.
func TestRenameMachine_RefusesWhatIsAnothers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		p, ctx := w.plane(), t.Context()
		w.pin()
		register := func(id fleet.MachineID, life fleet.Lifecycle, tags ...fleet.Tag) fleet.Machine {
			return must[fleet.Machine](t)(p.RegisterMachine(ctx, alice, api.MachineRequest{ID: id, Lifecycle: life, Tags: tags}))
		}
		register("web-01", fleet.Active)
		w.rolled("web-01") // its entry has the tag linux
		must[fleet.Machine](t)(p.SetTags(ctx, alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
		register("db-01", fleet.Active, "db")
		register("gone-01", fleet.Active, "web")
		must[fleet.Machine](t)(p.SetLifecycle(ctx, alice, "gone-01", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		register("busy-01", fleet.Active, "web")
		register("new-01", fleet.Pending, "web")
		w.rollOut(w.registerTagged("db", "busy-01", "next-01"), func(s *fleet.RolloutSpec) { s.Select = []string{"busy-01"} })
		web := access.Caller{Owner: "w", KeyID: "k2", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
		linux := access.Caller{Owner: "l", KeyID: "k3", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"linux"}}
		now := must[fleet.Machine](t)(p.Machine(ctx, alice, "web-01")).Version
		state := func() []fleet.Machine {
			return must[api.Page[fleet.Machine]](t)(p.Machines(ctx, alice, fleet.MachineFilter{}, fleet.PageRequest{})).Items
		}
		before, audited := state(), w.actions("machine.")
		for _, c := range []struct {
			what     string
			by       access.Caller
			from, to fleet.MachineID
			version  int64
			want     fleet.Code
		}{
			{"to a name that is none", alice, "web-01", "Web_01", 0, fleet.Invalid},
			{"one that is not known", alice, "web-09", "web-10", 0, fleet.NotFound},
			{"one that is not known, by a limited key", web, "web-09", "web-10", 0, fleet.Forbidden},
			{"another team's", web, "db-01", "web-10", 0, fleet.Forbidden},
			{"to another team's", web, "web-01", "db-01", 0, fleet.Forbidden},
			{"to a name that is signed for another team", web, "web-01", "next-01", 0, fleet.Forbidden},
			{"what the key reaches by its signed entry alone", linux, "web-01", "web-10", 0, fleet.Forbidden},
			{"to its own name", alice, "new-01", "new-01", 0, fleet.Conflict},
			{"to one that is known", alice, "web-01", "db-01", 0, fleet.Conflict},
			{"as it was before", alice, "web-01", "web-10", now - 1, fleet.Changed},
			{"one that is decommissioned", web, "gone-01", "web-10", 0, fleet.Conflict},
			{"one in a rollout", web, "busy-01", "web-10", 0, fleet.Conflict},
		} {
			if _, err := p.RenameMachine(ctx, c.by, c.from, api.RenameRequest{To: c.to, IfVersion: c.version}); fleet.ErrorCode(err) != c.want {
				t.Errorf("%s: %v, want %s", c.what, err, c.want)
			}
		}
		if d := cmp.Diff(before, state()); d != "" || w.actions("machine.") != audited {
			t.Errorf("the machines have changed (-before +after):\n%s", d)
		}
		m := must[fleet.Machine](t)(p.RenameMachine(ctx, web, "web-01", api.RenameRequest{To: "web-10", IfVersion: now}))
		if m.ID != "web-10" || m.Lifecycle != fleet.Provisioning || !slices.Equal(m.Tags.Effective, []fleet.Tag{"web"}) {
			t.Errorf("it is %+v", m)
		}
		if m = must[fleet.Machine](t)(p.RenameMachine(ctx, web, "new-01", api.RenameRequest{To: "next-02"})); m.Lifecycle != fleet.Pending {
			t.Errorf("one that nobody wanted yet is %s under its new name", m.Lifecycle)
		}
	})
}
