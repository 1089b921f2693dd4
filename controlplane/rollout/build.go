// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Input is what a rollout is planned from. The same input always gives the
// same plan, so a dry run shows what a creation then does.
type Input struct {
	ID   fleet.RolloutID
	Spec fleet.RolloutSpec
	By   string // actor
	Now  int64  // Unix milliseconds
	Run  int64  // running time

	Entries  []fleet.Entry   // of Spec.Release
	Machines []fleet.Machine // every machine known
	// Current has the entry that a machine runs, where it is known. It tells
	// which machines need a reboot.
	Current map[fleet.MachineID]fleet.Entry
}

// Build checks what an operator asks for and makes the frozen plan: who takes
// part, who does not and why (H11), and the batches. An error's code is
// Invalid; what passes here is not found invalid later (H14).
//
// Tags are those of the entry in this release and those of operators.
func Build(in Input) (State, api.Plan, error) {
	in.Spec = in.Spec.Defaults()
	if err := in.Spec.Validate(); err != nil {
		return State{}, api.Plan{}, err
	}
	calendar, err := in.Spec.Calendar()
	if err != nil {
		return State{}, api.Plan{}, err
	}
	begins := calendar.Next(time.UnixMilli(in.Now))
	if begins.IsZero() {
		return State{}, api.Plan{}, fleet.Errorf(fleet.Invalid, "rollout: its blackouts leave no time in which a machine may begin")
	}
	if reboots, failed := in.Spec.RebootCalendar(); failed != nil || fleet.NextOfBoth(calendar, reboots, begins).IsZero() {
		return State{}, api.Plan{}, fleet.Errorf(fleet.Invalid, "rollout: its windows and blackouts leave no time in which a machine may reboot")
	}
	members, leftOut, err := choose(in)
	if err != nil {
		return State{}, api.Plan{}, err
	}
	batches, group, err := arrange(in.Spec, members)
	if err != nil {
		return State{}, api.Plan{}, err
	}
	state := State{
		Rollout: fleet.Rollout{
			ID: in.ID, Spec: in.Spec, State: fleet.RolloutScheduled, Machines: len(members),
			CreatedAt: in.Now, CreatedBy: in.By, WakeAt: in.Run,
		},
		Assignments: make(map[fleet.MachineID]fleet.Assignment, len(members)),
	}
	plan := api.Plan{LeftOut: leftOut, Tolerated: []int{}, Changes: summarize(members, in.Current)}
	if begins.UnixMilli() > in.Now {
		plan.Begins = begins.UnixMilli()
	}
	for i, batch := range batches {
		ids := make([]fleet.MachineID, len(batch))
		for j, m := range batch {
			ids[j] = m.entry.ID
			state.Assignments[m.entry.ID] = fleet.Assignment{
				Rollout: in.ID, Machine: m.entry.ID, Batch: i, State: fleet.AssignPending,
				Digest: in.Spec.Release, StorePath: m.entry.StorePath, Checks: []fleet.HealthCheckResult{},
			}
		}
		plan.Batches = append(plan.Batches, ids)
		plan.Tolerated = append(plan.Tolerated, in.Spec.MaxFailures.Tolerates(len(ids)))
		state.Batches = append(state.Batches, fleet.Batch{
			Rollout: in.ID, Index: i, Group: group[i], State: fleet.BatchWaiting, Size: len(ids), Counts: fleet.Counts{Pending: len(ids)},
		})
	}
	return state, plan, nil
}

// member is a machine that may take part, as a rollout sees it.
type member struct {
	entry   fleet.Entry
	tags    []fleet.Tag
	running fleet.StorePath
}

// choose returns the machines that take part, in the order of the plan, and
// those that the selector names but that cannot.
func choose(in Input) ([]member, []api.LeftOut, error) {
	sel, err := fleet.ParseSelector(in.Spec.Select)
	if err != nil {
		return nil, nil, err
	}
	known := make(map[fleet.MachineID]fleet.Machine, len(in.Machines))
	for _, m := range in.Machines {
		known[m.ID] = m
	}
	all := make(map[fleet.MachineID][]fleet.Tag, len(in.Machines)+len(in.Entries))
	for _, m := range in.Machines {
		all[m.ID] = m.Tags.Effective
	}
	released := make(map[fleet.MachineID]bool, len(in.Entries))
	for _, e := range in.Entries {
		all[e.ID] = fleet.NewTags(e.Tags, known[e.ID].Tags.Operator).Effective
		released[e.ID] = true
	}
	if term, bad := sel.Unmatched(maps.All(all)); bad {
		return nil, nil, fleet.Errorf(fleet.Invalid, "rollout: no machine matches %q", term).
			WithHint("nixfleet machine list shows machines and their tags")
	}
	if err = checkGroups(in.Spec, all); err != nil {
		return nil, nil, err
	}
	members, leftOut := []member{}, []api.LeftOut{}
	for _, e := range in.Entries {
		if !sel.Match(e.ID, all[e.ID]) {
			continue
		}
		m, ok := known[e.ID]
		if why := whyNot(m, ok); why != "" {
			leftOut = append(leftOut, api.LeftOut{Machine: e.ID, Why: why})
			continue
		}
		members = append(members, member{entry: e, tags: all[e.ID], running: m.Running})
	}
	for _, m := range in.Machines {
		if !released[m.ID] && names(sel, m.ID, all[m.ID]) {
			leftOut = append(leftOut, api.LeftOut{Machine: m.ID, Why: "the release has no system for it"})
		}
	}
	slices.SortFunc(leftOut, func(a, b api.LeftOut) int { return cmp.Compare(a.Machine, b.Machine) })
	if len(members) == 0 {
		return nil, nil, errNoMachine(leftOut)
	}
	ids := make([]fleet.MachineID, len(members))
	byID := make(map[fleet.MachineID]member, len(members))
	for i, m := range members {
		ids[i], byID[m.entry.ID] = m.entry.ID, m
	}
	sortByHash(in.Spec.Release, ids)
	for i, id := range ids {
		members[i] = byID[id]
	}
	return members, leftOut, nil
}

// checkGroups refuses a group that no machine matches.
func checkGroups(spec fleet.RolloutSpec, tags map[fleet.MachineID][]fleet.Tag) error {
	after, err := spec.Groups()
	if err != nil {
		return err
	}
	for _, g := range after {
		if term, bad := g.Unmatched(maps.All(tags)); bad {
			return fleet.Errorf(fleet.Invalid, "rollout: no machine matches %q of after", term).
				WithHint("nixfleet machine list shows machines and their tags")
		}
	}
	return nil
}

// whyNot says why a machine of the release cannot take part, "" if it can.
func whyNot(m fleet.Machine, known bool) string {
	switch {
	case !known:
		return "in the release, but never registered"
	case m.Lifecycle != fleet.Active:
		return "its lifecycle is " + string(m.Lifecycle)
	}
	return ""
}

// names reports whether a selector names this machine: one without a plain term
// selects from the release only.
func names(sel fleet.Selector, id fleet.MachineID, tags []fleet.Tag) bool {
	plain := slices.ContainsFunc(sel, func(t fleet.Term) bool { return !t.Not })
	return plain && sel.Match(id, tags)
}

func errNoMachine(leftOut []api.LeftOut) error {
	err := fleet.Errorf(fleet.Invalid, "rollout: no machine can take part")
	if len(leftOut) == 0 {
		return err.WithHint("the selector leaves out every machine of the release")
	}
	var why []string
	for _, l := range leftOut[:min(5, len(leftOut))] {
		why = append(why, string(l.Machine)+": "+l.Why)
	}
	if more := len(leftOut) - len(why); more > 0 {
		why = append(why, "and more like these")
	}
	return err.WithHint("%s", strings.Join(why, "; "))
}

// arrange fills the batches of each group, and returns them in order with the group
// of each.
func arrange(spec fleet.RolloutSpec, members []member) (batches [][]member, group []int, err error) {
	after, err := spec.Groups()
	if err != nil {
		return nil, nil, err
	}
	if _, err = fill(spec, members); err != nil {
		return nil, nil, err // what is wrong with the spec is wrong for all of them
	}
	for g, part := range groups(after, members) {
		if len(part) == 0 {
			continue
		}
		list, err := fill(spec, part)
		if fleet.ErrorCode(err) == fleet.Invalid { // its canaries are in another group
			list, err = split([]fleet.Amount{{N: 1}, {N: 100, Percent: true}}, part), nil
		}
		if err != nil {
			return nil, nil, err
		}
		for _, b := range list {
			batches, group = append(batches, b), append(group, g)
		}
	}
	return batches, group, nil
}

// fill spreads members, in order, over the batches of a strategy. No batch is
// empty.
func fill(spec fleet.RolloutSpec, members []member) ([][]member, error) {
	switch spec.Strategy {
	case fleet.AllAtOnce:
		return [][]member{members}, nil
	case fleet.Staged:
		return split(spec.Batches, members), nil
	case fleet.Canary:
	}
	if len(spec.Canaries) == 0 {
		return split([]fleet.Amount{{N: 1}, {N: 100, Percent: true}}, members), nil
	}
	sel, err := fleet.ParseSelector(spec.Canaries)
	if err != nil {
		return nil, err
	}
	if term, bad := sel.Unmatched(func(yield func(fleet.MachineID, []fleet.Tag) bool) {
		for _, m := range members {
			if !yield(m.entry.ID, m.tags) {
				return
			}
		}
	}); bad {
		return nil, fleet.Errorf(fleet.Invalid, "rollout: canary %q is not among the machines that take part", term)
	}
	var first, rest []member
	for _, m := range members {
		if sel.Match(m.entry.ID, m.tags) {
			first = append(first, m)
		} else {
			rest = append(rest, m)
		}
	}
	switch {
	case len(first) == 0:
		return nil, fleet.Errorf(fleet.Invalid, "rollout: the canaries leave out every machine")
	case len(rest) == 0:
		return [][]member{first}, nil
	}
	return [][]member{first, rest}, nil
}

// split cuts members into batches: a count adds that many; a percentage is the
// cumulative share, rounded up, less what earlier batches hold; empty batches
// vanish; what is left makes a last batch. Machines that leave later change no
// batch (RolloutSpec).
func split(amounts []fleet.Amount, members []member) [][]member {
	var batches [][]member
	n, taken := len(members), 0
	for _, a := range amounts {
		upTo := taken + a.N
		if a.Percent {
			upTo = a.Of(n)
		}
		upTo = min(upTo, n)
		if upTo > taken {
			batches = append(batches, members[taken:upTo])
			taken = upTo
		}
	}
	if taken < n {
		batches = append(batches, members[taken:])
	}
	return batches
}

func summarize(members []member, current map[fleet.MachineID]fleet.Entry) fleet.PlanSummary {
	sum := fleet.PlanSummary{Machines: len(members)}
	paths := make(map[fleet.StorePath]bool, len(members))
	for _, m := range members {
		if !paths[m.entry.StorePath] {
			paths[m.entry.StorePath] = true
			sum.Bytes += m.entry.ClosureSize
		}
		if m.running == m.entry.StorePath {
			sum.Converged++
			continue
		}
		sum.Switch++
		if c, ok := current[m.entry.ID]; ok && !c.Fingerprints.Equal(m.entry.Fingerprints) {
			sum.Reboot++
		}
	}
	return sum
}
