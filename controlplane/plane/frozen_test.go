// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func (w *world) lifecycle(id fleet.MachineID, l fleet.Lifecycle) {
	w.tb.Helper()
	must[fleet.Machine](w.tb)(w.plane().SetLifecycle(w.tb.Context(), alice, id, api.LifecycleRequest{Lifecycle: l}))
}

func (w *world) tagged(id fleet.MachineID, tags ...fleet.Tag) {
	w.tb.Helper()
	must[fleet.Machine](w.tb)(w.plane().SetTags(w.tb.Context(), alice, id, api.TagsRequest{Tags: tags}))
}

// asked is what a machine is told when it checks in once.
func (w *world) asked(id fleet.MachineID) (o api.Orders, err error) {
	in := quiet(w, id).checkIn()
	in.WaitMs, in.PollMs = 0, 3600_000
	return w.plane().CheckIn(w.tb.Context(), id, in)
}

// H18: a dry run, the creation and what machines are told when they check in come from
// one plan: the first batch may apply, the second may fetch, and whom the plan refuses
// gets nothing, for whatever reason.
func TestPlan_IsWhatIsServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		released := []fleet.MachineID{"a-1", "a-2", "a-3", "a-4", "a-5", "cared-for", "gone", "left-out", "new", "never-seen"}
		known := []fleet.MachineID{"a-1", "a-2", "a-3", "a-4", "a-5", "cared-for", "gone", "left-out", "not-released"}
		w.fleetOf(known...)
		must[fleet.Machine](t)(w.plane().RegisterMachine(t.Context(), alice, api.MachineRequest{ID: "new", Lifecycle: fleet.Provisioning}))
		known = append(known, "new")
		w.lifecycle("cared-for", fleet.Maintenance)
		for _, id := range known {
			must[api.Orders](t)(w.asked(id)) // all are there
		}
		w.lifecycle("gone", fleet.Decommissioned)
		digest := w.register(released...)
		asks := spec(digest, func(s *fleet.RolloutSpec) {
			s.Strategy, s.Batches, s.Select = fleet.Staged, []fleet.Amount{{N: 1}, {N: 2}, {N: 100, Percent: true}}, []string{"*", "!left-out"}
		})
		dry := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: asks, DryRun: true}))
		for _, id := range known {
			if o, err := w.asked(id); err == nil && (o.Apply != nil || o.Prefetch != "") {
				t.Errorf("%s may do something for a dry run: %+v", id, o)
			}
		}
		made := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: asks}))
		if d := cmp.Diff(dry.Plan, made.Plan); d != "" || len(dry.Plan.Batches) != 3 || len(dry.Plan.LeftOut) != 5 {
			t.Fatalf("the plan is not that of the dry run (-dry +made):\n%s\n%+v", d, made.Plan)
		}
		rest(time.Second)
		for _, id := range known {
			o, err := w.asked(id)
			if id == "gone" {
				wantCode(t, err, fleet.Forbidden)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if apply, want := o.Apply != nil, slices.Contains(dry.Plan.Batches[0], id); apply != want || apply && o.Apply.Digest != digest {
				t.Errorf("%s may apply %+v, want that: %t", id, o.Apply, want)
			}
			if fetch, want := o.Prefetch != "", slices.Contains(dry.Plan.Batches[1], id); fetch != want {
				t.Errorf("%s may fetch %q, want that: %t", id, o.Prefetch, want)
			}
		}
	})
}

// H19: what operators change of machines during a rollout changes who is in later
// rollouts, and not who is in this one: neither tags nor a machine that becomes active.
func TestPlan_StaysAsItWasWhenMachinesChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		all := []fleet.MachineID{"m-1", "m-2", "m-3", "m-4"}
		w.fleetOf(all...)
		w.tagged("m-1", "web")
		w.tagged("m-2", "web")
		w.tagged("m-4", "web")
		w.lifecycle("m-4", fleet.Maintenance)
		agents, stop := w.agents(all...)
		defer stop()
		rest(time.Second)
		web := func(s *fleet.RolloutSpec) {
			s.Strategy, s.Batches, s.Select, s.Approve = fleet.Staged, []fleet.Amount{{N: 1}, {N: 1}}, []string{"@web"}, true
		}
		members := func(id fleet.RolloutID) (ids []fleet.MachineID) {
			for m, a := range w.assignments(id) {
				if ids = append(ids, m); a.State != fleet.AssignHealthy {
					t.Errorf("%s is %s", m, a.State)
				}
			}
			slices.Sort(ids)
			return ids
		}
		approveUntilDone := func(id fleet.RolloutID, between func()) {
			for i := 0; ; i++ {
				_, _ = w.plane().RolloutVerb(t.Context(), alice, id, api.VerbApprove, api.VerbRequest{})
				rest(time.Minute)
				if d := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, id)); d.State == fleet.RolloutCompleted || i > 5 {
					return
				}
				between()
			}
		}
		first := w.rollOut(w.register(all...), web)
		approveUntilDone(first, func() { // one of two machines is done
			w.tagged("m-1")
			w.tagged("m-2")
			w.tagged("m-3", "web")
			w.lifecycle("m-4", fleet.Active)
		})
		if got := members(first); !slices.Equal(got, all[:2]) || len(agents["m-3"].applied)+len(agents["m-4"].applied) != 0 {
			t.Errorf("in the rollout were %v", got)
		}
		second := w.rollOut(w.register(all...), web)
		approveUntilDone(second, func() {})
		if got := members(second); !slices.Equal(got, all[2:]) {
			t.Errorf("in the next one were %v", got)
		}
	})
}
