// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/fleet"
)

// Reader reads what is in the store: from the pool as part of a Store, from
// one transaction as part of a Tx or of Read.
type Reader struct {
	q querier
}

type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Read runs fn on one state of the store, which does not change under it.
func (s *Store) Read(ctx context.Context, fn func(Reader) error) error {
	tx, err := s.reads.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("begin read: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo
	return fn(Reader{q: tx})
}

// row is what a scan function reads from.
type row interface{ Scan(dest ...any) error }

// list runs a query and scans every row. The result is never nil.
func list[T any](ctx context.Context, q querier, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, dbfiles.StorageError(err)
	}
	defer func() { _ = rows.Close() }() // Err says what went wrong
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, failed(q, rows.Err())
}

// failed is the error of rows; the transaction that they were read in may be
// lost with them.
func failed(q querier, err error) error {
	if w, ok := q.(*writer); ok {
		return w.failed(err)
	}
	return dbfiles.StorageError(err)
}

// first runs a query and scans its first row; false if there is none.
func first[T any](ctx context.Context, q querier, scan func(row) (T, error), query string, args ...any) (v T, ok bool, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return v, false, dbfiles.StorageError(err)
	}
	defer func() { _ = rows.Close() }() // Err says what went wrong
	if !rows.Next() {
		return v, false, failed(q, rows.Err())
	}
	if v, err = scan(rows); err != nil {
		return v, false, err
	}
	return v, true, failed(q, rows.Err())
}

// exec runs a statement and returns how many rows it changed.
func (r Reader) exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := r.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, dbfiles.StorageError(err)
	}
	return res.RowsAffected()
}

// column scans a row of one column.
func column[T any](r row) (v T, err error) { return v, r.Scan(&v) }

// text encodes v for a TEXT column.
func text(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode column: %w", err)
	}
	return string(b), nil
}

// parse decodes the columns that hold JSON.
func parse(columns ...jsonColumn) error {
	var errs []error
	for _, c := range columns {
		if err := json.Unmarshal([]byte(c.text), c.into); err != nil {
			errs = append(errs, fmt.Errorf("decode column: %w", err))
		}
	}
	return errors.Join(errs...)
}

type jsonColumn struct {
	text string
	into any
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func notFound(what, id, hint string) error {
	return fleet.Errorf(fleet.NotFound, "there is no %s %.100q", what, id).WithHint("%s", hint)
}
