// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Token is a one-time enrolment token, without its secret.
type Token struct {
	Hash      fleet.Digest // of the secret
	Machine   fleet.MachineID
	CreatedAt int64 // Unix milliseconds, as the others
	ExpiresAt int64
	Replaces  bool // may end the certificates of an enrolled machine
	UsedAt    int64
	KeyHash   fleet.Digest // of the first request's public key
	// Certificate is the answer to that request, DER.
	Certificate []byte
}

// Token returns the token whose secret has a hash; false if there is none.
func (r Reader) Token(ctx context.Context, hash fleet.Digest) (Token, bool, error) {
	t, ok, err := first(ctx, r.q, func(r row) (t Token, err error) {
		var certificate string
		if err := r.Scan(&t.Hash, &t.Machine, &t.CreatedAt, &t.ExpiresAt, &t.Replaces, &t.UsedAt, &t.KeyHash, &certificate); err != nil {
			return t, err
		}
		if certificate == "" {
			return t, nil
		}
		return t, parse(jsonColumn{certificate, &t.Certificate})
	}, `SELECT hash, machine_id, created_at, expires_at, replaces, used_at, key_hash, certificate FROM enrolment_token WHERE hash = $1`, string(hash))
	if err != nil {
		return t, false, fmt.Errorf("read token: %w", err)
	}
	return t, ok, nil
}

// AddToken keeps a new token. Earlier tokens of the machine that were not used
// end.
func (t *Tx) AddToken(ctx context.Context, v Token) error {
	if err := t.EndTokens(ctx, v.Machine); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO enrolment_token (hash, machine_id, created_at, expires_at, replaces) VALUES ($1, $2, $3, $4, $5)`,
		string(v.Hash), string(v.Machine), v.CreatedAt, v.ExpiresAt, bit(v.Replaces)); err != nil {
		return fmt.Errorf("write token of %s: %w", v.Machine, err)
	}
	return nil
}

// EndTokens ends a machine's tokens that were not used.
func (t *Tx) EndTokens(ctx context.Context, machine fleet.MachineID) error {
	if _, err := t.exec(ctx, `DELETE FROM enrolment_token WHERE machine_id = $1 AND used_at = 0`, string(machine)); err != nil {
		return fmt.Errorf("end tokens of %s: %w", machine, err)
	}
	return nil
}

// UseToken binds a token to the first request's key and keeps the answer. The
// error's code is Conflict if it was used (E08).
func (t *Tx) UseToken(ctx context.Context, v Token) error {
	certificate, err := text(v.Certificate)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `UPDATE enrolment_token SET used_at = $1, key_hash = $2, certificate = $3 WHERE hash = $4 AND used_at = 0`,
		v.UsedAt, string(v.KeyHash), certificate, string(v.Hash))
	if err != nil {
		return fmt.Errorf("use token of %s: %w", v.Machine, err)
	}
	if n == 0 {
		return fleet.Errorf(fleet.Conflict, "the token of %s was used before", v.Machine)
	}
	return nil
}

// DeleteTokensBefore forgets tokens that expired before a time.
func (t *Tx) DeleteTokensBefore(ctx context.Context, at int64) error {
	if _, err := t.exec(ctx, `DELETE FROM enrolment_token WHERE expires_at < $1`, at); err != nil {
		return fmt.Errorf("delete old tokens: %w", err)
	}
	return nil
}
