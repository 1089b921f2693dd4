// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// CheckClaims says which machine of a new rollout is in another one, if it does
// not supersede. The error's code is Conflict (H08).
func CheckClaims(s rollout.State, claims map[fleet.MachineID]fleet.RolloutID) error {
	claimed := claimedBy(s, claims)
	if s.Rollout.Spec.Supersede || len(claimed) == 0 {
		return nil
	}
	other := slices.Min(slices.Collect(maps.Keys(claimed)))
	var ids []string
	for _, id := range claimed[other] {
		ids = append(ids, string(id))
	}
	more := ""
	if len(ids) > 5 {
		ids, more = ids[:5], fmt.Sprintf(" and %d more", len(ids)-5)
	}
	return fleet.Errorf(fleet.Conflict, "rollout %s is at work on %s%s", other, strings.Join(ids, ", "), more).
		WithHint("wait for it, cancel it, or take the machines over with --supersede")
}

// claimedBy returns the machines of a new rollout that other rollouts claim.
func claimedBy(s rollout.State, claims map[fleet.MachineID]fleet.RolloutID) map[fleet.RolloutID][]fleet.MachineID {
	claimed := map[fleet.RolloutID][]fleet.MachineID{}
	for _, id := range slices.Sorted(maps.Keys(s.Assignments)) {
		if other, ok := claims[id]; ok {
			claimed[other] = append(claimed[other], id)
		}
	}
	return claimed
}

// Begin claims the machines of a new rollout, takes its first step, and writes
// it as it is then.
func (p *Pass) Begin(ctx context.Context, s *rollout.State) error {
	claims, err := p.Tx.Claims(ctx)
	if err != nil {
		return err
	}
	if err := CheckClaims(*s, claims); err != nil {
		return err
	}
	if err := p.supersede(ctx, s.Rollout.ID, claimedBy(*s, claims)); err != nil {
		return err
	}
	p.note(s.Rollout.CreatedBy, fleet.ActionRolloutCreate, "rollout:"+string(s.Rollout.ID), map[string]string{
		"release": string(s.Rollout.Spec.Release), "name": s.Rollout.Spec.Name, "machines": fmt.Sprint(len(s.Assignments)),
	})
	res := rollout.Step(*s, rollout.Event{}, p.world(), p.Now)
	before, c := s.Rollout, p.changesOf(s)
	p.noteWork(s, res)
	s.Apply(res)
	if err := p.Tx.AddRollout(ctx, s.Rollout); err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(s.Assignments))
	for _, id := range ids {
		c.assignments[id], p.touched[id] = true, true // also of a rollout that has not started
		p.rested[id] = s.Assignments[id].State == fleet.AssignHealthy
	}
	maps.DeleteFunc(p.rested, func(_ fleet.MachineID, healthy bool) bool { return !healthy })
	for i := range s.Batches {
		c.batches[i] = true
	}
	p.dirty = true
	res.Rollout, res.Batches = &s.Rollout, s.Batches
	p.keep(c, res, before)
	// Before write, which ends the claims of a rollout that its first step has ended.
	if err := p.Tx.Claim(ctx, s.Rollout.ID, ids...); err != nil {
		return err
	}
	return p.write(ctx)
}

// supersede ends the claims of other rollouts on the machines of a new one
// (H17).
func (p *Pass) supersede(ctx context.Context, by fleet.RolloutID, claimed map[fleet.RolloutID][]fleet.MachineID) error {
	for _, other := range slices.Sorted(maps.Keys(claimed)) {
		s, err := p.State(ctx, other)
		if err != nil {
			return err
		}
		if err := p.Step(ctx, s, rollout.Event{Superseded: claimed[other], By: by}); err != nil {
			return err
		}
		if err := p.Tx.Unclaim(ctx, other, claimed[other]...); err != nil {
			return err
		}
	}
	return nil
}
