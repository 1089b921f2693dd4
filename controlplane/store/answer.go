// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Answer is what a call was answered, for the same call when it comes again.
type Answer struct {
	Caller string       // whose call it was
	Name   fleet.Digest // of the name that the caller gave it
	Call   fleet.Digest // of all that was asked
	At     int64        // Unix milliseconds
	Sealed []byte
}

// Answer returns what a call of that name was answered; false if there was none.
func (r Reader) Answer(ctx context.Context, caller string, name fleet.Digest) (Answer, bool, error) {
	a, ok, err := first(ctx, r.q, func(r row) (a Answer, err error) {
		var sealed string
		if err := r.Scan(&a.Caller, &a.Name, &a.Call, &a.At, &sealed); err != nil {
			return a, err
		}
		return a, parse(jsonColumn{sealed, &a.Sealed})
	}, `SELECT caller, name, call, at, sealed FROM answer WHERE caller = $1 AND name = $2`, caller, string(name))
	if err != nil {
		return a, false, fmt.Errorf("read answer: %w", err)
	}
	return a, ok, nil
}

// PutAnswer keeps an answer, in place of an older one of the same name.
func (t *Tx) PutAnswer(ctx context.Context, a Answer) error {
	sealed, err := text(a.Sealed)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO answer (caller, name, call, at, sealed) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (caller, name) DO UPDATE SET call = excluded.call, at = excluded.at, sealed = excluded.sealed`,
		a.Caller, string(a.Name), string(a.Call), a.At, sealed); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// DeleteAnswersBefore forgets answers older than a time.
func (t *Tx) DeleteAnswersBefore(ctx context.Context, at int64) error {
	if _, err := t.exec(ctx, `DELETE FROM answer WHERE at < $1`, at); err != nil {
		return fmt.Errorf("delete old answers: %w", err)
	}
	return nil
}
