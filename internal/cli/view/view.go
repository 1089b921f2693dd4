// SPDX-License-Identifier: MIT

// Package view is how values look in the text of nixfleet's commands.
//
// It never prints what a machine said without cleaning it.
package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/arcanesys/nixfleet/fleet"
)

// Table prints rows below a header, whose words are separated by a space, in
// columns.
func Table(w io.Writer, header string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = strings.Map(func(r rune) rune {
				if unicode.IsControl(r) {
					return ' '
				}
				return r
			}, c)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	t.Flush()
}

// Behind says what machines have to catch up with, and why they have not.
func Behind(w io.Writer, list []fleet.Machine) {
	rows := [][]string{}
	for _, m := range list {
		if b := m.Behind; b != nil {
			rows = append(rows, []string{string(m.ID), string(b.Line), Dash(m.RunsRelease.Short()), Date(b.Since), string(b.Rollout), Date(m.LastContact), b.Why})
		}
	}
	Table(w, "MACHINE LINE RUNS SINCE ROLLOUT SEEN WHY", rows)
}

// Date shows Unix milliseconds in the user's zone; 0 is never.
func Date(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05")
}

// Revision shows the beginning of a source's revision.
func Revision(s fleet.Source) string {
	switch {
	case s.Revision == "" && s.Dirty:
		return "dirty"
	case s.Revision == "":
		return "-"
	case s.Dirty:
		return s.Revision[:min(8, len(s.Revision))] + "-dirty"
	}
	return s.Revision[:min(8, len(s.Revision))]
}

// Dash shows nothing as a dash.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// OneLine shows the first line of a text, cut to a table's width.
func OneLine(s string) string {
	for i, r := range s {
		if r == '\n' || i >= 100 {
			return s[:i] + "..."
		}
	}
	return Dash(s)
}
