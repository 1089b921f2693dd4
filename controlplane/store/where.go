// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"strconv"
	"strings"
)

// where is the condition of a list, made of the filters that are set: SQLite
// takes no index for one that is the same text whether it is set or not.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition, in which a ? stands for each of the args.
func (w *where) and(condition string, args ...any) {
	var b strings.Builder
	for _, c := range condition {
		if c != '?' {
			b.WriteRune(c)
			continue
		}
		w.args = append(w.args, args[0])
		args = args[1:]
		b.WriteString("$" + strconv.Itoa(len(w.args)))
	}
	w.conditions = append(w.conditions, b.String())
}

// is adds that a column has a value, unless that is "".
func (w *where) is(column, value string) {
	if value != "" {
		w.and(column+" = ?", value)
	}
}

// limited is the condition, and the order and limit of the list.
func (w *where) limited(order string, limit int) (text string, args []any) {
	if len(w.conditions) > 0 {
		text = " WHERE " + strings.Join(w.conditions, " AND ")
	}
	args = append(w.args, limit)
	return text + " ORDER BY " + order + " LIMIT $" + strconv.Itoa(len(args)), args
}

// unindexed is a column of text for which no index is taken.
func unindexed(column string) string { return column + " || ''" }
