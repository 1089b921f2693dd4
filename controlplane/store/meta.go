// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"
)

// Meta returns a single value, "" if it was never set.
func (r Reader) Meta(ctx context.Context, name string) (string, error) {
	v, _, err := first(ctx, r.q, column[string], `SELECT value FROM meta WHERE name = $1`, name)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// SetMeta sets a single value.
func (t *Tx) SetMeta(ctx context.Context, name, value string) error {
	if _, err := t.exec(ctx, `INSERT INTO meta (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
