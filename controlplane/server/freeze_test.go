// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// A frozen fleet gets no order over the wire, not even to prefetch; info and
// metrics say so.
func TestFreeze_ReachesTheAgents(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	web := w.enrolled(admin, "web-01")
	must[api.Orders](t)(web.CheckIn(t.Context(), checkIn("web-01")))
	release := w.release(admin, 1, "", "web-01")
	must[fleet.Freeze](t)(admin.SetFreeze(t.Context(), api.FreezeRequest{Reason: "audit"}))
	id := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: release.Digest}})).ID
	if o := must[api.Orders](t)(web.CheckIn(t.Context(), checkIn("web-01"))); o.Apply != nil || o.Prefetch != "" {
		t.Errorf("orders while frozen: %+v", o)
	}
	if i := must[api.Info](t)(w.operator("").Info(t.Context())); !i.Frozen || w.metric("nixfleet_frozen") != 1 {
		t.Errorf("info %+v, metric %v", i, w.metric("nixfleet_frozen"))
	}
	if f := must[fleet.Freeze](t)(admin.Freeze(t.Context())); f.Reason != "audit" || f.By != "key:root" || f.At == 0 {
		t.Errorf("freeze: %+v", f)
	}
	must[fleet.Freeze](t)(admin.EndFreeze(t.Context()))
	if o := must[api.Orders](t)(web.CheckIn(t.Context(), checkIn("web-01"))); o.Apply == nil || o.Apply.Rollout != id {
		t.Errorf("orders after the freeze: %+v", o)
	}
	if w.metric("nixfleet_frozen") != 0 {
		t.Error("the metric says frozen")
	}
}
