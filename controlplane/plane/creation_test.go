// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// O01: what a rollout would be refused for, its dry run is refused for too, and
// neither writes anything.
func TestCreateRollout_IsRefusedAsItsDryRunIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "db-01")
		digest := w.register("web-01", "db-01")
		at := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"db-01"} })
		nobody := access.Caller{Owner: "n", KeyID: "k4", Role: fleet.RoleDeploy, Tags: []fleet.Tag{"none"}}
		for _, c := range []struct {
			what   string
			by     access.Caller
			change func(*fleet.RolloutSpec)
			want   fleet.Code
			says   string
		}{
			{"one that catches up", alice, func(s *fleet.RolloutSpec) { s.CatchUpOf = at }, fleet.Invalid, "catchUpOf"},
			{"a release that there is not", alice, func(s *fleet.RolloutSpec) { s.Release = fleet.SHA256(nil) }, fleet.NotFound, "release"},
			{"a gate that there is not", alice, func(s *fleet.RolloutSpec) { s.Gates = []fleet.GateName{"none"} }, fleet.Invalid, "none"},
			{"machines that there are not", alice, func(s *fleet.RolloutSpec) { s.Select = []string{"nobody-*"} }, fleet.Invalid, "nobody-*"},
			{"what is none of the key's", nobody, func(*fleet.RolloutSpec) {}, fleet.Invalid, "machine"},
			{"a machine that another has", alice, func(*fleet.RolloutSpec) {}, fleet.Conflict, string(at)},
		} {
			for _, dry := range []bool{true, false} {
				before := w.snapshot()
				d, err := w.plane().CreateRollout(t.Context(), c.by, api.RolloutRequest{DryRun: dry, Spec: spec(digest, c.change)})
				if fleet.ErrorCode(err) != c.want || err == nil || !strings.Contains(err.Error(), c.says) || d.Plan != nil {
					t.Errorf("%s, dry run %t: %+v, %v; want %s", c.what, dry, d, err, c.want)
				}
				if after := w.snapshot(); after != before {
					t.Errorf("%s, dry run %t: %s, before %s", c.what, dry, after, before)
				}
			}
		}
	})
}

// E09: a limited key hears the same of a rollout that is not its own as of one that
// there is not.
func TestLimitedKey_DoesNotHearWhichRolloutsThereAre(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("db-01")
		there := w.rollOut(w.register("db-01"))
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, there, api.VerbCancel, api.VerbRequest{}))
		const none = fleet.RolloutID("01J00000000000000000000000")
		web := access.Caller{Owner: "w", KeyID: "k2", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
		p, ctx := w.plane(), t.Context()
		for what, do := range map[string]func(fleet.RolloutID) error{
			"read": func(id fleet.RolloutID) error { _, err := p.Rollout(ctx, web, id); return err },
			"machines": func(id fleet.RolloutID) error {
				_, err := p.Assignments(ctx, web, id, fleet.AssignmentFilter{}, fleet.PageRequest{})
				return err
			},
			"explain": func(id fleet.RolloutID) error { _, err := p.Explain(ctx, web, id); return err },
			"verb": func(id fleet.RolloutID) error {
				_, err := p.RolloutVerb(ctx, web, id, api.VerbPause, api.VerbRequest{})
				return err
			},
			"delete": func(id fleet.RolloutID) error { _, err := p.DeleteRollout(ctx, web, id); return err },
		} {
			a, b := do(there), do(none)
			if a == nil || b == nil || fleet.ErrorCode(a) != fleet.Forbidden || fleet.ErrorHint(a) != fleet.ErrorHint(b) || strings.ReplaceAll(a.Error(), string(there), string(none)) != b.Error() {
				t.Errorf("%s: %v; of one that there is not: %v", what, a, b)
			}
		}
	})
}

// A verb is carried out on the rollout that was seen, by whom it concerns, if its
// state allows it; else it writes nothing.
func TestRolloutVerb_IsRefusedWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "db-01")
		must[fleet.Machine](t)(w.plane().SetTags(t.Context(), alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
		id := w.rollOut(w.register("web-01", "db-01"))
		rest(time.Second)
		web := access.Caller{Owner: "w", KeyID: "k2", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
		db := access.Caller{Owner: "d", KeyID: "k3", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"none"}}
		now := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, id)).Version
		for _, c := range []struct {
			what string
			by   access.Caller
			id   fleet.RolloutID
			verb api.Verb
			in   api.VerbRequest
			want fleet.Code
		}{
			{"what is no verb", alice, id, "explode", api.VerbRequest{}, fleet.Invalid},
			{"a rollout that there is not", alice, "01J00000000000000000000000", api.VerbPause, api.VerbRequest{}, fleet.NotFound},
			{"one that there is not, by a limited key", web, "01J00000000000000000000000", api.VerbPause, api.VerbRequest{}, fleet.Forbidden},
			{"another team's", db, id, api.VerbPause, api.VerbRequest{}, fleet.Forbidden},
			{"the whole of a shared one", web, id, api.VerbPause, api.VerbRequest{}, fleet.Forbidden},
			{"another team's machine", web, id, api.VerbSkip, api.VerbRequest{Machines: []fleet.MachineID{"db-01"}}, fleet.Forbidden},
			{"as it was before", alice, id, api.VerbPause, api.VerbRequest{IfVersion: now + 1}, fleet.Changed},
			{"what its state does not allow", alice, id, api.VerbResume, api.VerbRequest{}, fleet.Conflict},
		} {
			before := w.snapshot()
			if _, err := w.plane().RolloutVerb(t.Context(), c.by, c.id, c.verb, c.in); fleet.ErrorCode(err) != c.want {
				t.Errorf("%s: %v, want %s", c.what, err, c.want)
			}
			if after := w.snapshot(); after != before {
				t.Errorf("%s: %s, before %s", c.what, after, before)
			}
		}
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, id, api.VerbPause, api.VerbRequest{IfVersion: now}))
	})
}
