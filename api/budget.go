// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// BudgetRequest saves a disruption budget.
type BudgetRequest struct {
	Select []string     `json:"select"` // selector terms
	Max    fleet.Amount `json:"max"`
	// Replace puts it in the place of another budget of its name.
	Replace bool `json:"replace,omitempty"`
}

// BudgetDetail is a disruption budget as it stands.
type BudgetDetail struct {
	fleet.Budget
	Limit     int         `json:"limit"`    // how many machines may be disrupted
	Machines  int         `json:"machines"` // that it is about
	Disrupted []Disrupted `json:"disrupted"`
}

// Disrupted is a machine that counts in a disruption budget.
type Disrupted struct {
	Machine fleet.MachineID `json:"machine"`
	Why     string          `json:"why"`
}

const budgetsPath = "/api/v1/budgets"

// Budgets lists disruption budgets by name, as they stand.
func (c *Client) Budgets(ctx context.Context) ([]BudgetDetail, error) {
	return list[BudgetDetail](ctx, c, budgetsPath)
}

// PutBudget saves a disruption budget.
func (c *Client) PutBudget(ctx context.Context, name string, req BudgetRequest) (BudgetDetail, error) {
	return send[BudgetDetail](ctx, c, http.MethodPut, budgetsPath+"/"+id(name), req)
}

// DeleteBudget forgets a disruption budget.
func (c *Client) DeleteBudget(ctx context.Context, name string) (fleet.Budget, error) {
	return send[fleet.Budget](ctx, c, http.MethodDelete, budgetsPath+"/"+id(name), nil)
}
