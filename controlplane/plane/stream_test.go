// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// A limited key's event stream tells of its machines, and of rollouts that have
// one; and that the stream stands, however much is left out.
func TestLimitedKey_HearsOfItsMachinesOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "db-01")
		must[fleet.Machine](t)(w.plane().SetTags(t.Context(), alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
		digest := w.register("web-01", "db-01")
		mine := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"web-01"} })
		other := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"db-01"} })
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, mine, api.VerbCancel, api.VerbRequest{}))
		bob := access.Caller{Owner: "bob", Role: fleet.RoleReadonly, Tags: []fleet.Tag{"web"}}
		// What waits has an event every half a minute, which bob does not hear.
		begin, beats, heard := time.Now(), 0, map[fleet.RolloutID]bool{}
		for e, err := range w.plane().Events(t.Context(), bob, 0, fleet.EventFilter{}, time.Minute) {
			switch {
			case err != nil:
				t.Fatal(err)
			case e.ID == 0:
				beats++
			case e.Rollout != nil:
				heard[e.Rollout.ID] = true
			case e.Batch != nil:
				heard[e.Batch.Rollout] = true
			case e.Assignment != nil && e.Assignment.Machine != "web-01", e.Machine != nil && e.Machine.ID != "web-01":
				t.Errorf("bob hears %+v", e)
			}
			if beats == 3 {
				break
			}
		}
		if took := time.Since(begin); took > 4*time.Minute {
			t.Errorf("three heartbeats took %s", took)
		}
		if !heard[mine] || heard[other] {
			t.Errorf("bob hears of %v, want %s only", heard, mine)
		}
	})
}

// The events of a rollout come in pages, to a limited key those of its machines and
// its part of the rest.
func TestRolloutEvents_ComeInPages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "db-01")
		must[fleet.Machine](t)(w.plane().SetTags(t.Context(), alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}))
		digest := w.register("web-01", "db-01")
		other := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"db-01"} })
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, other, api.VerbCancel, api.VerbRequest{}))
		both := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"web-01", "db-01"} })
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, both, api.VerbCancel, api.VerbRequest{}))
		bob := access.Caller{Owner: "bob", Role: fleet.RoleReadonly, Tags: []fleet.Tag{"web"}}
		pages := func(c access.Caller, size int) (all []api.Event) {
			for e, err := range api.All(t.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[api.Event], error) {
				p.Limit = size
				return w.plane().RolloutEvents(ctx, c, both, p)
			}) {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, e)
			}
			return all
		}
		whole := must[[]api.Event](t)(w.store.Events(t.Context(), 0, fleet.EventFilter{Rollout: both}, 1000))
		if got := pages(alice, 2); len(whole) < 4 || !cmp.Equal(got, whole) {
			t.Errorf("alice reads %d events of %s in pages, the log has %d", len(got), both, len(whole))
		}
		part := 0
		for _, e := range pages(bob, 1) {
			switch {
			case e.Assignment != nil && e.Assignment.Machine == "web-01":
				part++
			case e.Rollout != nil && e.Rollout.Machines == 1, e.Batch != nil && e.Batch.Size <= 1:
			default:
				t.Errorf("bob reads %+v of %s", e, both)
			}
		}
		if part == 0 {
			t.Error("bob reads nothing of his machine")
		}
		_, err := w.plane().RolloutEvents(t.Context(), bob, other, fleet.PageRequest{})
		wantCode(t, err, fleet.Forbidden)
		_, err = w.plane().RolloutEvents(t.Context(), alice, "01NONE", fleet.PageRequest{})
		wantCode(t, err, fleet.NotFound)
	})
}
