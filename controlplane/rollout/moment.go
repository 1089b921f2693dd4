// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// Moment is one moment on both clocks of a control plane: the wall clock in Unix
// milliseconds, and running time (World.Run). It turns rows of the engine into
// what operators are shown, where everything is the wall clock's.
type Moment struct {
	Wall int64
	Run  int64
}

// Expect is the wall clock's time at which a running time is expected, if the
// control plane runs until then and nobody sets the clock; 0 for 0.
func (m Moment) Expect(run int64) int64 {
	if run == 0 {
		return 0
	}
	return m.Wall + run - m.Run
}

// Rollout is a rollout's row as it is shown.
func (m Moment) Rollout(r fleet.Rollout) fleet.Rollout {
	r.WakeAt = m.Expect(r.WakeAt)
	return r
}

// Batch is a batch's row as it is shown.
func (m Moment) Batch(b fleet.Batch) fleet.Batch {
	b.SoakUntil, b.Gates = m.Expect(b.SoakUntil), slices.Clone(b.Gates)
	for i := range b.Gates {
		g := &b.Gates[i]
		g.AskAt, g.Since, g.Deadline = m.Expect(g.AskAt), m.Expect(g.Since), m.Expect(g.Deadline)
	}
	return b
}

// Batches are a rollout's batches as they are shown.
func (m Moment) Batches(rows []fleet.Batch) []fleet.Batch {
	shown := make([]fleet.Batch, len(rows))
	for i, b := range rows {
		shown[i] = m.Batch(b)
	}
	return shown
}

// Assignment is an assignment's row as it is shown.
func (m Moment) Assignment(a fleet.Assignment) fleet.Assignment {
	a.Deadline = m.Expect(a.Deadline)
	return a
}
