// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxParams bounds the parameters of a statement about many rows. They have no
// numbers: SQLite finds a numbered one by counting from the first.
const maxParams = 512

// inParts cuts n rows of so many parameters into as few parts as maxParams allows.
// The sizes are powers of two, so that few texts are compiled.
func inParts(n, columns int, do func(from, size int) error) error {
	for from := 0; from < n; {
		size := 1
		for 2*size <= n-from && 2*size*columns <= maxParams {
			size *= 2
		}
		if err := do(from, size); err != nil {
			return err
		}
		from += size
	}
	return nil
}

// putRows writes rows by as few statements as parameters allow: the text before
// VALUES, the rows, the text after them. It returns how many rows changed.
func (t *Tx) putRows(ctx context.Context, before string, rows [][]any, after string) (changed int64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	columns := len(rows[0])
	err = inParts(len(rows), columns, func(from, size int) error {
		args := make([]any, 0, size*columns)
		for _, r := range rows[from : from+size] {
			args = append(args, r...)
		}
		c, failed := t.exec(ctx, before+" VALUES "+strings.TrimSuffix(strings.Repeat(placeholders(columns)+", ", size), ", ")+after, args...)
		changed += c
		return failed
	})
	return changed, err
}

// changeRows changes rows that a list selects: the text before the list, its
// values, the text after it. It returns how many rows changed.
func (t *Tx) changeRows(ctx context.Context, before string, values []any, after string) (changed int64, err error) {
	err = inParts(len(values), 1, func(from, size int) error {
		c, failed := t.exec(ctx, before+placeholders(size)+after, values[from:from+size]...)
		changed += c
		return failed
	})
	return changed, err
}

// placeholders is (?, ?) for two.
func placeholders(n int) string { return "(" + strings.Repeat("?, ", n-1) + "?)" }

// anyOf is a list of machines as values of a statement.
func anyOf(machines []fleet.MachineID) []any {
	values := make([]any, len(machines))
	for i, m := range machines {
		values[i] = string(m)
	}
	return values
}
