// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Policies returns the rollout policies by name.
func (r Reader) Policies(ctx context.Context) ([]fleet.RolloutPolicy, error) {
	policies, err := list(ctx, r.q, scanPolicy, `SELECT name, spec, created_at, created_by FROM rollout_policy ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	return policies, nil
}

// Policy returns a rollout policy. The error's code is NotFound if there is none.
func (r Reader) Policy(ctx context.Context, name string) (fleet.RolloutPolicy, error) {
	p, ok, err := first(ctx, r.q, scanPolicy, `SELECT name, spec, created_at, created_by FROM rollout_policy WHERE name = $1`, name)
	if err != nil {
		return p, fmt.Errorf("read policy %.40s: %w", name, err)
	}
	if !ok {
		return p, notFound("rollout policy", name, "nixfleet policy list shows those there are")
	}
	return p, nil
}

func scanPolicy(r row) (p fleet.RolloutPolicy, err error) {
	var spec string
	if err := r.Scan(&p.Name, &spec, &p.CreatedAt, &p.CreatedBy); err != nil {
		return p, err
	}
	return p, parse(jsonColumn{spec, &p.Spec})
}

// PutPolicy writes a rollout policy, new or not.
func (t *Tx) PutPolicy(ctx context.Context, p fleet.RolloutPolicy) error {
	spec, err := text(p.Spec)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO rollout_policy (name, spec, created_at, created_by) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, created_at = excluded.created_at, created_by = excluded.created_by`,
		p.Name, spec, p.CreatedAt, p.CreatedBy); err != nil {
		return fmt.Errorf("write policy %s: %w", p.Name, err)
	}
	return nil
}

// forget deletes what a statement finds by a name.
func (t *Tx) forget(ctx context.Context, what, statement, name string) error {
	if _, err := t.exec(ctx, statement, name); err != nil {
		return fmt.Errorf("delete %s %.40s: %w", what, name, err)
	}
	return nil
}

// DeletePolicy forgets a rollout policy.
func (t *Tx) DeletePolicy(ctx context.Context, name string) error {
	return t.forget(ctx, "policy", `DELETE FROM rollout_policy WHERE name = $1`, name)
}
