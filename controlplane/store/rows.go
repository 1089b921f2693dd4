// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"strconv"
	"strings"
)

// maxParams bounds the parameters of a statement that writes many rows. SQLite
// finds a parameter's name by counting from the first, so that more of them cost
// more than a statement less saves.
const maxParams = 64

// putRows writes rows by as few statements as parameters allow: the text before
// VALUES, the rows, the text after them. It returns how many rows changed. The
// sizes are powers of two, so that few texts are compiled.
func (t *Tx) putRows(ctx context.Context, before string, rows [][]any, after string) (changed int64, err error) {
	for len(rows) > 0 {
		n := 1
		for 2*n <= len(rows) && 2*n*len(rows[0]) <= maxParams {
			n *= 2
		}
		args := make([]any, 0, n*len(rows[0]))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		c, err := t.exec(ctx, before+" VALUES "+placeholders(n, len(rows[0]))+after, args...)
		if err != nil {
			return changed, err
		}
		changed += c
		rows = rows[n:]
	}
	return changed, nil
}

// placeholders is ($1, $2), ($3, $4) for two rows of two columns.
func placeholders(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(i + 1))
	}
	return b.String() + ")"
}
