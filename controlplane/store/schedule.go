// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Schedules returns the schedules by name.
func (r Reader) Schedules(ctx context.Context) ([]fleet.Schedule, error) {
	schedules, err := list(ctx, r.q, scanSchedule, `SELECT name, cron, policy, line, tolerance_ms, created_at, created_by, last_at, last_rollout, last_why
		FROM schedule ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	return schedules, nil
}

func scanSchedule(r row) (s fleet.Schedule, err error) {
	return s, r.Scan(&s.Name, &s.Cron, &s.Policy, &s.Line, &s.ToleranceMs, &s.CreatedAt, &s.CreatedBy, &s.LastAt, &s.LastRollout, &s.LastWhy)
}

// PutSchedule writes a schedule, new or not.
func (t *Tx) PutSchedule(ctx context.Context, s fleet.Schedule) error {
	if _, err := t.exec(ctx, `INSERT INTO schedule (name, cron, policy, line, tolerance_ms, created_at, created_by, last_at, last_rollout, last_why)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, policy = excluded.policy, line = excluded.line, tolerance_ms = excluded.tolerance_ms,
		created_at = excluded.created_at, created_by = excluded.created_by, last_at = excluded.last_at, last_rollout = excluded.last_rollout,
		last_why = excluded.last_why`,
		s.Name, s.Cron, s.Policy, string(s.Line), s.ToleranceMs, s.CreatedAt, s.CreatedBy, s.LastAt, string(s.LastRollout), s.LastWhy); err != nil {
		return fmt.Errorf("write schedule %s: %w", s.Name, err)
	}
	return nil
}

// DeleteSchedule forgets a schedule.
func (t *Tx) DeleteSchedule(ctx context.Context, name string) error {
	return t.forget(ctx, "schedule", `DELETE FROM schedule WHERE name = $1`, name)
}
