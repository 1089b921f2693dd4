// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

func sizes(p api.Plan) string {
	var s []string
	for _, b := range p.Batches {
		s = append(s, fmt.Sprint(len(b)))
	}
	return strings.Join(s, ",")
}

// H14: batch arithmetic.
func TestBuild_FillsBatches(t *testing.T) {
	for _, tt := range []struct {
		batches  string
		machines int
		want     string
	}{
		{"1,50%,100%", 6, "1,2,3"},
		{"1,25%,100%", 6, "1,1,4"},
		{"1,25%,100%", 4, "1,3"}, // 25% of 4 is the 1 that went before
		{"1,1%,100%", 100, "1,99"},
		{"10%,100%", 5, "1,4"},
		{"100%", 3, "3"},
		{"50%", 3, "2,1"}, // the rest makes a last batch
		{"1", 3, "1,2"},
		{"2,2", 3, "2,1"},
		{"200000", 3, "3"}, // larger than the fleet
		{"1,2,50%,3", 10, "1,2,2,3,2"},
		{"1,100%", 1, "1"},
		{"33%,66%,100%", 7, "3,2,2"},
	} {
		_, plan, err := rollout.Build(input(tt.machines, spec(strings.Split(tt.batches, ",")...)))
		if err != nil {
			t.Errorf("%s of %d: %v", tt.batches, tt.machines, err)
			continue
		}
		if got := sizes(plan); got != tt.want {
			t.Errorf("%s of %d machines makes %s, want %s", tt.batches, tt.machines, got, tt.want)
		}
	}
}

func TestBuild_StrategiesFillTheSameList(t *testing.T) {
	canary := spec()
	canary.Strategy = fleet.Canary
	pinned := canary
	pinned.Canaries = []string{"m-0[34]", "m-01"}
	for want, s := range map[string]fleet.RolloutSpec{"1,5": canary, "3,3": pinned, "6": spec()} {
		_, plan, err := rollout.Build(input(6, s))
		if err != nil || sizes(plan) != want {
			t.Errorf("%s %v: %s, %v; want %s", s.Strategy, s.Canaries, sizes(plan), err, want)
		}
	}
	_, plan, err := rollout.Build(input(6, pinned))
	first := slices.Sorted(slices.Values(plan.Batches[0]))
	if d := cmp.Diff([]fleet.MachineID{"m-01", "m-03", "m-04"}, first); d != "" || err != nil {
		t.Errorf("pinned canaries: %v %s", err, d)
	}
}

// H11, O03: who is left out, and why, is told before anything starts.
func TestBuild_SaysWhoIsLeftOut(t *testing.T) {
	in := input(3, spec())
	in.Spec.Select = []string{"@prod", "m-*", "old-01"}
	in.Entries = append(in.Entries, fleet.Entry{ID: "new-01", StorePath: target("new-01"), Tags: []fleet.Tag{"prod"}})
	in.Machines[1].Lifecycle = fleet.Maintenance
	in.Machines = append(in.Machines,
		fleet.Machine{ID: "old-01", Lifecycle: fleet.Active}, fleet.Machine{ID: "else-01", Lifecycle: fleet.Active})
	in.Machines[2].Running = target("m-02")
	_, plan, err := rollout.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.LeftOut{
		{Machine: "m-01", Why: "its lifecycle is maintenance"},
		{Machine: "new-01", Why: "in the release, but never registered"},
		{Machine: "old-01", Why: "the release has no system for it"},
	}
	if d := cmp.Diff(want, plan.LeftOut); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(fleet.PlanSummary{Machines: 2, Switch: 1, Converged: 1, Bytes: 20}, plan.Changes); d != "" {
		t.Error(d)
	}
}

func TestBuild_CountsRebootsWhereTheRunningSystemIsKnown(t *testing.T) {
	in := input(3, spec())
	in.Entries[0].Fingerprints.Kernel = "6.12.2"
	in.Current = map[fleet.MachineID]fleet.Entry{"m-00": {Fingerprints: fleet.Fingerprints{Kernel: "6.12.1"}}, "m-01": {}}
	if _, plan, err := rollout.Build(in); err != nil || plan.Changes.Reboot != 1 {
		t.Errorf("reboots: %d, %v; want 1", plan.Changes.Reboot, err)
	}
}

// H14: what is invalid is refused at creation, with a message that names it.
func TestBuild_RefusesWhatIsInvalid(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*rollout.Input)
		want string
	}{
		"typo":           {func(in *rollout.Input) { in.Spec.Select = []string{"m-*", "wbe-01"} }, `"wbe-01"`},
		"typo in a not":  {func(in *rollout.Input) { in.Spec.Select = []string{"!@prdo"} }, `"!@prdo"`},
		"bad term":       {func(in *rollout.Input) { in.Spec.Select = []string{"m-["} }, `"m-["`},
		"everyone out":   {func(in *rollout.Input) { in.Spec.Select = []string{"m-00", "!m-*"} }, "no machine can take part"},
		"only outsiders": {func(in *rollout.Input) { in.Entries = in.Entries[:1]; in.Spec.Select = []string{"m-01"} }, "no machine can take part"},
		"empty release":  {func(in *rollout.Input) { in.Entries = nil }, "no machine can take part"},
		"canary elsewhere": {func(in *rollout.Input) {
			in.Spec.Strategy = fleet.Canary
			in.Spec.Select = []string{"m-00"}
			in.Spec.Canaries = []string{"m-01"}
		}, `canary "m-01"`},
		"no canary left":  {func(in *rollout.Input) { in.Spec.Strategy = fleet.Canary; in.Spec.Canaries = []string{"m-00", "!m-00"} }, "canaries leave out every machine"},
		"empty batch":     {func(in *rollout.Input) { in.Spec = spec("0", "100%") }, "batch 1"},
		"falling percent": {func(in *rollout.Input) { in.Spec = spec("50%", "25%") }, "batch 2"},
		"negative slots":  {func(in *rollout.Input) { in.Spec.MaxParallel = -1 }, "maxParallel"},
		"never healthy":   {func(in *rollout.Input) { in.Spec.MinHealthyMs = 20 * minute }, "minHealthy"},
		"no release":      {func(in *rollout.Input) { in.Spec.Release = "sha256:1" }, "release"},
	} {
		in := input(2, spec())
		tt.edit(&in)
		_, _, err := rollout.Build(in)
		if fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an Invalid error with %s", name, err, tt.want)
		}
	}
}

// H14: any plan that is let through has each machine once, in batches that are
// not empty, and is the same each time, whatever the order of the input.
func TestBuild_PlansAreWholeAndRepeatable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := input(rapid.IntRange(1, 40).Draw(t, "machines"), drawSpec(t))
		state, plan, err := rollout.Build(in)
		if err != nil {
			t.Skip("not let through: ", err)
		}
		seen := map[fleet.MachineID]bool{}
		for i, b := range plan.Batches {
			for _, id := range b {
				if seen[id] || state.Assignments[id].Batch != i {
					t.Fatalf("%s is in batch %d and elsewhere", id, i)
				}
				seen[id] = true
			}
		}
		if len(seen) != len(in.Machines) {
			t.Fatalf("%d of %d machines have a batch", len(seen), len(in.Machines))
		}
		slices.Reverse(in.Entries)
		slices.Reverse(in.Machines)
		_, again, err := rollout.Build(in)
		if d := cmp.Diff(plan, again); d != "" || err != nil {
			t.Fatalf("another order of the input, another plan: %v\n%s", err, d)
		}
	})
}

// Another release has other canaries, else the same machine bears all risk.
func TestBuild_CanariesDifferByRelease(t *testing.T) {
	canaries := map[fleet.MachineID]bool{}
	for i := range 20 {
		s := spec("1", "100%")
		s.Release = digest(fmt.Sprint(i))
		_, plan, err := rollout.Build(input(20, s))
		if err != nil {
			t.Fatal(err)
		}
		canaries[plan.Batches[0][0]] = true
	}
	if len(canaries) < 5 {
		t.Errorf("20 releases had %d different canaries", len(canaries))
	}
}

// Shares are of the frozen plan: whoever leaves or is skipped keeps its place, no
// machine moves up, and a batch tolerates what it tolerated (H14, H19).
func TestStep_SharesStayWhenMachinesLeave(t *testing.T) {
	s := spec("50%", "100%")
	s.MaxFailures, s.Offline = fleet.Amount{N: 25, Percent: true}, fleet.OfflineSkip
	m := newSim(t, 8, s)
	if d := cmp.Diff([]int{1, 1}, m.plan.Tolerated); d != "" {
		t.Errorf("tolerated failures of the plan:\n%s", d)
	}
	m.settle()
	m.changed(m.at(0, 0), as(fleet.Decommissioned))
	m.verb(api.VerbSkip, m.at(0, 1))
	m.wantStates("running = open: skipped skipped offered offered | waiting: pending pending pending pending")
	if why := rollout.Explain(m.state, m.world(), m.now)[1].Why; why != "0 pending, 2 at work, 0 rolling back; 2 of 4 left or were skipped, and keep their place" {
		t.Errorf("explained as %q", why)
	}
	m.back(m.at(0, 2), fleet.ReasonCheckFailed) // one of the two that are left, one of the four of the plan
	m.live(m.at(0, 3))
	m.wantStates("running = passed: skipped skipped rolled-back healthy | open: offered offered offered offered")
	m.back(m.at(1, 0), fleet.ReasonCheckFailed)
	m.back(m.at(1, 1), fleet.ReasonCheckFailed)
	if want := "batch 2: 2 of 4 machines failed, 1 tolerated"; !strings.HasPrefix(m.state.Rollout.Why, want) {
		t.Errorf("why %q, want %q", m.state.Rollout.Why, want)
	}
}
