// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// BudgetRef is the part of an input that names a disruption budget.
type BudgetRef struct {
	Name string `path:"name" maxLength:"40" doc:"Name of the budget"`
}

type putBudgetIn struct {
	BudgetRef
	Body api.BudgetRequest
}

func (o *operators) budgetOperations() {
	handle(o, "putBudget", func(ctx context.Context, c access.Caller, in *putBudgetIn) (api.BudgetDetail, error) {
		return o.plane.PutBudget(ctx, c, in.Name, in.Body)
	})
	handle(o, "listBudgets", func(_ context.Context, _ access.Caller, _ *none) ([]api.BudgetDetail, error) {
		return o.plane.Budgets(), nil
	})
	handle(o, "deleteBudget", func(ctx context.Context, c access.Caller, in *BudgetRef) (fleet.Budget, error) {
		if err := ruleName("budget", in.Name); err != nil {
			return fleet.Budget{}, err
		}
		return o.plane.DeleteBudget(ctx, c, in.Name)
	})
}
