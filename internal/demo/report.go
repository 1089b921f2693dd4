// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

//go:embed report.html
var page embed.FS

// bar is one machine's part of a rollout; Left and Width are percentages of its
// duration.
type bar struct {
	Machine fleet.MachineID
	Batch   int
	Left    float64
	Width   float64
	Seconds float64
	State   fleet.AssignmentState
	Text    string
}

// chart is one rollout of the page.
type chart struct {
	Name    string
	State   fleet.RolloutState
	Why     string
	Seconds float64
	Bars    []bar
}

// chartOf makes the chart of a rollout. A machine that was never offered the
// release has a line without a bar.
func chartOf(e ended) chart {
	begin, end := e.CreatedAt, e.EndedAt
	for _, a := range e.Assignments {
		end = max(end, a.EndedAt)
	}
	total := float64(max(1, end-begin))
	c := chart{Name: e.Spec.Name, State: e.State, Why: e.Why, Seconds: total / 1000}
	for _, a := range e.Assignments {
		b := bar{Machine: a.Machine, Batch: a.Batch + 1, State: a.State, Text: a.Message}
		if a.OfferedAt > 0 {
			until := a.EndedAt
			if until == 0 {
				until = end
			}
			b.Left, b.Seconds = float64(a.OfferedAt-begin)/total*100, float64(until-a.OfferedAt)/1000
			b.Width = max(0.5, float64(until-a.OfferedAt)/total*100)
		}
		c.Bars = append(c.Bars, b)
	}
	slices.SortFunc(c.Bars, func(x, y bar) int { return cmp.Or(cmp.Compare(x.Batch, y.Batch), cmp.Compare(x.Machine, y.Machine)) })
	return c
}

// writeReport writes the report of a run: each rollout's timeline by machine and
// batch, and what the machines run at the end.
func writeReport(file string, r Result, rollouts []ended) error {
	t, err := template.ParseFS(page, "report.html")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	data := struct {
		Result
		Charts  []chart
		Seconds float64
		Made    string
	}{Result: r, Seconds: float64(r.DurationMs) / 1000, Made: time.Now().Format(time.RFC1123)}
	for _, e := range rollouts {
		data.Charts = append(data.Charts, chartOf(e))
	}
	var text bytes.Buffer
	if err := t.Execute(&text, data); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := atomicfile.Write(file, text.Bytes(), 0o644); err != nil {
		return fleet.Errorf(fleet.Invalid, "write report: %w", err)
	}
	return nil
}
