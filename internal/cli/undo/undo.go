// SPDX-License-Identifier: MIT

package undo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Plan is what `rollout undo` does.
type Plan struct {
	Undoes   fleet.RolloutID    `json:"undoes"`
	Machines []Machine          `json:"machines"`
	LeftOut  []api.LeftOut      `json:"leftOut"`
	Release  fleet.Digest       `json:"release,omitempty"` // the new one; empty: dry run
	Rollout  *api.RolloutDetail `json:"rollout,omitempty"`
}

// Machine is a machine of a Plan, and what it runs again.
type Machine struct {
	ID        fleet.MachineID `json:"id"`
	Release   fleet.Digest    `json:"release"` // that it ran before
	Sequence  uint64          `json:"sequence"`
	StorePath fleet.StorePath `json:"storePath"`
	CreatedAt int64           `json:"createdAt"` // of that release

	entry  fleet.Entry
	source fleet.Source
}

// Of finds what each machine of a rollout ran before it, as it was signed.
func Of(ctx context.Context, c *api.Client, id fleet.RolloutID, assignments []fleet.Assignment, root fleet.Root) (Plan, error) {
	desired := map[fleet.MachineID]*fleet.Desired{}
	for m, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Machine], error) {
		return c.Machines(ctx, fleet.MachineFilter{}, p)
	}) {
		if err != nil {
			return Plan{}, err
		}
		desired[m.ID] = m.Desired
	}
	out := Plan{Undoes: id, Machines: []Machine{}, LeftOut: []api.LeftOut{}}
	releases := map[fleet.Digest]*trust.Release{}
	for _, as := range assignments {
		why := whyNotUndone(as, desired[as.Machine])
		if why == "" {
			r, ok := releases[as.PreviousDigest]
			if !ok {
				var err error
				if r, err = SignedRelease(ctx, c, as.PreviousDigest, root); err != nil && fleet.ErrorCode(err) != fleet.NotFound {
					return Plan{}, err
				}
				releases[as.PreviousDigest] = r
			}
			if why = out.add(as, r); why == "" {
				continue
			}
		}
		out.LeftOut = append(out.LeftOut, api.LeftOut{Machine: as.Machine, Why: why})
	}
	if len(out.Machines) == 0 {
		return out, fleet.Errorf(fleet.Conflict, "rollout %s has no machine to undo it on", id).WithHint("%s", out.reasons())
	}
	return out, nil
}

// whyNotUndone says why a machine has nothing to run again, "" if it has.
func whyNotUndone(as fleet.Assignment, d *fleet.Desired) string {
	switch {
	case !as.EverOffered:
		return "the rollout did not reach it"
	case as.State == fleet.AssignRolledBack || as.State == fleet.AssignReverted || as.PreviousPath == as.StorePath:
		return "it runs what it ran before"
	case d != nil && d.Rollout > as.Rollout:
		return fmt.Sprintf("rollout %s came later", d.Rollout)
	case as.PreviousDigest == "":
		return "what it ran before is of no release"
	}
	return ""
}

// add adds what a machine ran before; if it cannot, it says why.
func (u *Plan) add(as fleet.Assignment, r *trust.Release) (why string) {
	if r == nil {
		return fmt.Sprintf("release %s, which it ran before, is not registered any more", as.PreviousDigest.Short())
	}
	i := slices.IndexFunc(r.Entries, func(e fleet.Entry) bool { return e.ID == as.Machine })
	if i < 0 || r.Entries[i].StorePath != as.PreviousPath {
		return fmt.Sprintf("what it ran before is not its system of release %s", r.Digest.Short())
	}
	u.Machines = append(u.Machines, Machine{
		ID: as.Machine, Release: r.Digest, Sequence: r.Header.Sequence, StorePath: as.PreviousPath, CreatedAt: r.Header.CreatedAt,
		entry: r.Entries[i], source: r.Header.Source,
	})
	return ""
}

// Source is what the systems were built from, if that is one source.
func (u Plan) Source() fleet.Source {
	for _, m := range u.Machines {
		if m.source != u.Machines[0].source {
			return fleet.Source{}
		}
	}
	return u.Machines[0].source
}

// reasons counts why machines are left out.
func (u Plan) reasons() string {
	count := map[string]int{}
	for _, l := range u.LeftOut {
		count[l.Why]++
	}
	words := make([]string, 0, len(count))
	for _, why := range slices.Sorted(maps.Keys(count)) {
		words = append(words, fmt.Sprintf("%d: %s", count[why], why))
	}
	return strings.Join(words, "; ")
}

// canariesOf returns the terms for canaries that still select one of the machines.
func canariesOf(terms []string, machines []Machine) ([]string, error) {
	var kept []string
	for _, term := range terms {
		sel, err := fleet.ParseSelector([]string{term})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(machines, func(m Machine) bool {
			return slices.ContainsFunc(sel, func(t fleet.Term) bool { return t.Match(m.ID, m.entry.Tags) })
		}) {
			kept = append(kept, term)
		}
	}
	return kept, nil
}

// Entries are those of the new release.
func (u Plan) Entries() []fleet.Entry {
	entries := make([]fleet.Entry, len(u.Machines))
	for i, m := range u.Machines {
		entries[i] = m.entry
	}
	return entries
}

// Spec is that of the rollout of the new release: as the one that it undoes, on the
// machines of the plan.
func (u Plan) Spec(spec fleet.RolloutSpec, name string) (fleet.RolloutSpec, error) {
	spec.Release, spec.Name, spec.Select, spec.CatchUpOf = u.Release, name, nil, ""
	for _, m := range u.Machines {
		spec.Select = append(spec.Select, string(m.ID))
	}
	var err error
	spec.Canaries, err = canariesOf(spec.Canaries, u.Machines)
	return spec, err
}
