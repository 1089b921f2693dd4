// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"
)

// RunningTime is how far the control plane's running time had come, and what the
// wall clock said then, both in milliseconds.
type RunningTime struct {
	Run  int64
	Wall int64
}

// RunningTime returns what was last kept; false for a file in which no control
// plane has run yet.
func (r Reader) RunningTime(ctx context.Context) (RunningTime, bool, error) {
	t, ok, err := first(ctx, r.q, func(r row) (t RunningTime, err error) { return t, r.Scan(&t.Run, &t.Wall) },
		`SELECT run, wall FROM running_time WHERE id = 1`)
	if err != nil {
		return t, false, fmt.Errorf("read running time: %w", err)
	}
	return t, ok, nil
}

// SetRunningTime keeps how far running time has come. It never falls.
func (t *Tx) SetRunningTime(ctx context.Context, v RunningTime) error {
	if _, err := t.exec(ctx, `INSERT INTO running_time (id, run, wall) VALUES (1, $1, $2)
		ON CONFLICT (id) DO UPDATE SET run = MAX(run, excluded.run), wall = excluded.wall`, v.Run, v.Wall); err != nil {
		return fmt.Errorf("write running time: %w", err)
	}
	return nil
}
