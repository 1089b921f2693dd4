// SPDX-License-Identifier: AGPL-3.0-only

package store

import "context"

// Row is what a scan function reads from.
type Row = row

// List runs a query for a package in this folder, and scans every row. The result is
// never nil.
func List[T any](ctx context.Context, r Reader, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	return list(ctx, r.q, scan, query, args...)
}

// First is List for the first row; false if there is none.
func First[T any](ctx context.Context, r Reader, scan func(Row) (T, error), query string, args ...any) (T, bool, error) {
	return first(ctx, r.q, scan, query, args...)
}

// Exec runs a statement for a package in this folder, and returns how many rows it
// changed.
func Exec(ctx context.Context, t *Tx, query string, args ...any) (int64, error) {
	return t.exec(ctx, query, args...)
}

// PutRows writes rows by as few statements as parameters allow: the text before
// VALUES, the rows, the text after them. It returns how many rows changed.
func PutRows(ctx context.Context, t *Tx, before string, rows [][]any, after string) (int64, error) {
	return t.putRows(ctx, before, rows, after)
}

// Fill decodes a column that holds JSON.
func Fill(column string, into any) error { return parse(jsonColumn{column, into}) }
