// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Budgets returns the disruption budgets by name.
func (r Reader) Budgets(ctx context.Context) ([]fleet.Budget, error) {
	budgets, err := list(ctx, r.q, scanBudget, `SELECT name, selector, max, created_at, created_by FROM disruption_budget ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list budgets: %w", err)
	}
	return budgets, nil
}

func scanBudget(r row) (b fleet.Budget, err error) {
	var selector, limit string
	if err = r.Scan(&b.Name, &selector, &limit, &b.CreatedAt, &b.CreatedBy); err != nil {
		return b, err
	}
	if b.Max, err = fleet.ParseAmount(limit); err != nil {
		return b, err
	}
	return b, parse(jsonColumn{selector, &b.Select})
}

// PutBudget writes a disruption budget, new or not.
func (t *Tx) PutBudget(ctx context.Context, b fleet.Budget) error {
	selector, err := text(b.Select)
	if err != nil {
		return err
	}
	if _, err = t.exec(ctx, `INSERT INTO disruption_budget (name, selector, max, created_at, created_by) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (name) DO UPDATE SET selector = excluded.selector, max = excluded.max, created_at = excluded.created_at, created_by = excluded.created_by`,
		b.Name, selector, b.Max.String(), b.CreatedAt, b.CreatedBy); err != nil {
		return fmt.Errorf("write budget %s: %w", b.Name, err)
	}
	return nil
}

// DeleteBudget forgets a disruption budget.
func (t *Tx) DeleteBudget(ctx context.Context, name string) error {
	return t.forget(ctx, "budget", `DELETE FROM disruption_budget WHERE name = $1`, name)
}
