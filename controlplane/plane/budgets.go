// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/fleet"
)

// maxBudgets bounds how many disruption budgets are kept.
const maxBudgets = 100

// Budgets returns the disruption budgets by name, as they stand.
func (p *Plane) Budgets() []api.BudgetDetail {
	list := []api.BudgetDetail{}
	for _, u := range p.loop.Budgets(p.loop.Moment()) {
		b := api.BudgetDetail{Budget: u.Budget, Limit: u.Limit, Machines: u.Machines, Disrupted: []api.Disrupted{}}
		for _, id := range slices.Sorted(maps.Keys(u.Disrupted)) {
			b.Disrupted = append(b.Disrupted, api.Disrupted{Machine: id, Why: u.Disrupted[id]})
		}
		list = append(list, b)
	}
	return list
}

func budgetAt(list []fleet.Budget, name string) int {
	return slices.IndexFunc(list, func(b fleet.Budget) bool { return b.Name == name })
}

// PutBudget saves a disruption budget; it holds from the same pass on. The error's
// code is Invalid, and Conflict if there is another of its name that is not to be
// replaced. One that is there as it is asked for stays.
func (p *Plane) PutBudget(ctx context.Context, c access.Caller, name string, in api.BudgetRequest) (api.BudgetDetail, error) {
	v := fleet.Budget{Name: name, Select: in.Select, Max: in.Max, CreatedAt: p.now(), CreatedBy: c.Actor()}
	if err := v.Validate(); err != nil {
		return api.BudgetDetail{}, err
	}
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		all, err := pass.Tx.Budgets(ctx)
		if err != nil {
			return err
		}
		i := budgetAt(all, name)
		switch {
		case i >= 0 && slices.Equal(all[i].Select, v.Select) && all[i].Max == v.Max:
			return nil
		case i >= 0 && !in.Replace:
			return fleet.Errorf(fleet.Conflict, "there is a budget %s already", name).WithHint("--replace puts this one in its place")
		case i < 0 && len(all) >= maxBudgets:
			return fleet.Errorf(fleet.TooLarge, "there are %d budgets already", len(all))
		}
		return errors.Join(pass.Tx.PutBudget(ctx, v), pass.SetBudgets(ctx), pass.Audit(ctx, c.Actor(), fleet.ActionBudgetPut, "budget:"+name, map[string]string{
			"max": v.Max.String(),
		}))
	})
	if err != nil {
		return api.BudgetDetail{}, err
	}
	for _, b := range p.Budgets() {
		if b.Name == name {
			return b, nil
		}
	}
	return api.BudgetDetail{Budget: v, Disrupted: []api.Disrupted{}}, nil // it was deleted since
}

// DeleteBudget forgets a disruption budget, and returns it. The error's code is
// NotFound if there is none.
func (p *Plane) DeleteBudget(ctx context.Context, c access.Caller, name string) (fleet.Budget, error) {
	var gone fleet.Budget
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		all, err := pass.Tx.Budgets(ctx)
		if err != nil {
			return err
		}
		i := budgetAt(all, name)
		if i < 0 {
			return fleet.Errorf(fleet.NotFound, "there is no budget %.40q", name).WithHint("nixfleet budget list shows those there are")
		}
		gone = all[i]
		return errors.Join(pass.Tx.DeleteBudget(ctx, name), pass.SetBudgets(ctx), pass.Audit(ctx, c.Actor(), fleet.ActionBudgetDelete, "budget:"+name, nil))
	})
	return gone, err
}
