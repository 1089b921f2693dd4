// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// A rollout that begins, or a batch that opens, is a few events, however many
// machines are in it; and a pass of the engine says once what became of a rollout.
func TestCreateRollout_AnnouncesTheBatchNotEachMachine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		digest := w.register(three...)
		for _, id := range three { // there, so that it is offered the release
			in := quiet(w, id).checkIn()
			in.WaitMs = 0
			must[api.Orders](t)(w.plane().CheckIn(t.Context(), id, in))
		}
		d := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest, allAtOnce)}))
		events := must[[]api.Event](t)(w.store.Events(t.Context(), 0, fleet.EventFilter{Rollout: d.ID}, 100))
		if len(events) != 2 || events[0].Batch == nil || events[0].Batch.Counts.InFlight != len(three) || events[1].Rollout == nil {
			t.Errorf("events %+v, want the batch with all machines at work, then the rollout", events)
		}
		assignments := must[api.Page[fleet.Assignment]](t)(w.store.Assignments(t.Context(), d.ID, fleet.AssignmentFilter{Batch: -1}, fleet.PageRequest{}))
		if other := slices.ContainsFunc(assignments.Items, func(a fleet.Assignment) bool { return a.State != fleet.AssignOffered }); other || len(assignments.Items) != len(three) {
			t.Errorf("assignments %+v, want all offered", assignments.Items)
		}
	})
}
