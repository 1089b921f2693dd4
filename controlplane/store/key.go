// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

const keyColumns = `id, owner, role, tags, created_at, expires_at, revoked_at, last_used`

// Keys returns a page of the API keys, oldest first.
func (r Reader) Keys(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Key], error) {
	after, err := paging.After[paging.TimeKey](p)
	if err != nil {
		return api.Page[fleet.Key]{}, err
	}
	keys, err := list(ctx, r.q, scanKey, `SELECT `+keyColumns+` FROM api_key
		WHERE (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3`, after.At, after.ID, p.Size()+1)
	if err != nil {
		return api.Page[fleet.Key]{}, fmt.Errorf("list keys: %w", err)
	}
	return paging.Cut(keys, p, KeyOf), nil
}

// KeyOf is the place of an API key in a list.
func KeyOf(k fleet.Key) paging.TimeKey { return paging.TimeKey{At: k.CreatedAt, ID: k.ID} }

// AllKeys returns all API keys, oldest first.
func (r Reader) AllKeys(ctx context.Context) ([]fleet.Key, error) {
	keys, err := list(ctx, r.q, scanKey, `SELECT `+keyColumns+` FROM api_key ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// Key returns an API key. The error's code is NotFound if there is none.
func (r Reader) Key(ctx context.Context, id string) (fleet.Key, error) {
	k, ok, err := first(ctx, r.q, scanKey, `SELECT `+keyColumns+` FROM api_key WHERE id = $1`, id)
	if err != nil {
		return k, fmt.Errorf("read key %.40s: %w", id, err)
	}
	if !ok {
		return k, notFound("key", id, "nixfleet key list shows those there are")
	}
	return k, nil
}

// KeyByHash returns the API key whose secret has a hash; false if there is
// none.
func (r Reader) KeyByHash(ctx context.Context, hash fleet.Digest) (fleet.Key, bool, error) {
	k, ok, err := first(ctx, r.q, scanKey, `SELECT `+keyColumns+` FROM api_key WHERE hash = $1`, string(hash))
	if err != nil {
		return k, false, fmt.Errorf("read key: %w", err)
	}
	return k, ok, nil
}

func scanKey(r row) (k fleet.Key, err error) {
	var tags string
	if err := r.Scan(&k.ID, &k.Owner, &k.Role, &tags, &k.CreatedAt, &k.ExpiresAt, &k.RevokedAt, &k.LastUsed); err != nil {
		return k, err
	}
	return k, parse(jsonColumn{tags, &k.Tags})
}

// AddKey keeps a new API key and the hash of its secret.
func (t *Tx) AddKey(ctx context.Context, k fleet.Key, hash fleet.Digest) error {
	tags, err := text(k.Tags)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO api_key (id, owner, role, tags, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		k.ID, k.Owner, string(k.Role), tags, string(hash), k.CreatedAt, k.ExpiresAt); err != nil {
		return fmt.Errorf("write key %s: %w", k.ID, err)
	}
	return nil
}

// RotateKey gives a key that was not revoked another secret. The error's code
// is Conflict if it was.
func (t *Tx) RotateKey(ctx context.Context, id string, hash fleet.Digest) error {
	n, err := t.exec(ctx, `UPDATE api_key SET hash = $1 WHERE id = $2 AND revoked_at = 0`, string(hash), id)
	if err != nil {
		return fmt.Errorf("rotate key %.40s: %w", id, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "key %.40s is revoked", id)
	}
	return nil
}

// RevokeKey ends a key that was not revoked yet. The error's code is Conflict
// if it was.
func (t *Tx) RevokeKey(ctx context.Context, id string, at int64) error {
	n, err := t.exec(ctx, `UPDATE api_key SET revoked_at = $1 WHERE id = $2 AND revoked_at = 0`, at, id)
	if err != nil {
		return fmt.Errorf("revoke key %.40s: %w", id, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "key %.40s was revoked before", id)
	}
	return nil
}

// TouchKeys writes when keys were last used.
func (t *Tx) TouchKeys(ctx context.Context, used map[string]int64) error {
	for id, at := range used {
		if _, err := t.exec(ctx, `UPDATE api_key SET last_used = $1 WHERE id = $2 AND last_used < $1`, at, id); err != nil {
			return fmt.Errorf("write use of key %s: %w", id, err)
		}
	}
	return nil
}
