// SPDX-License-Identifier: MIT

package trust

import (
	"maps"

	"github.com/arcanesys/nixfleet/fleet"
)

// Mark names a release by its place in its line and its digest.
type Mark struct {
	Line     fleet.Line     `json:"line"`
	Sequence fleet.Sequence `json:"sequence"`
	Digest   fleet.Digest   `json:"digest"`
}

// Floor is below which a machine accepts nothing. While the newest release can
// still be taken back it is Pending and the floor is that of the last good
// one; afterwards the floor is the newest one's, for good. Methods return a
// changed copy.
type Floor struct {
	Lines   map[fleet.Line]Mark `json:"lines"`
	Pending *Activation         `json:"pending,omitempty"`
}

// Activation is a release that was begun and may still be taken back.
type Activation struct {
	Mark
	// ActivatedAt is when the machine had switched to it, Unix ms; 0 before.
	ActivatedAt    int64 `json:"activatedAt,omitempty"`
	RevertWindowMs int64 `json:"revertWindowMs"` // from the signed header
}

// over reports whether the revert window has ended at now.
func (a Activation) over(now int64) bool {
	return a.ActivatedAt > 0 && now-a.ActivatedAt >= a.RevertWindowMs
}

// At returns the floor of a line at now (Unix ms): sequences below its are
// refused, its own only with its digest. The zero Mark is no floor at all.
func (f Floor) At(line fleet.Line, now int64) Mark { return f.Settle(now).Lines[line] }

// Settle moves the floor up to the pending release if its revert window has
// ended at now (Unix ms).
func (f Floor) Settle(now int64) Floor {
	if f.Pending == nil || !f.Pending.over(now) {
		return f
	}
	return f.raised(f.Pending.Mark)
}

// Begin says that m has been accepted and its activation begins. If it is
// later than the release that was pending, that one can no longer be taken
// back: the floor moves up to it.
func (f Floor) Begin(m Mark, revertWindowMs, now int64) Floor {
	f = f.Settle(now)
	switch p := f.Pending; {
	case p == nil:
	case p.Mark == m:
		return f // another attempt: a window that is running goes on
	case p.Line != m.Line || p.Sequence < m.Sequence:
		f = f.raised(p.Mark)
	default:
		f.Pending = nil // back below it, which its window still allows
	}
	if f.Lines[m.Line] != m {
		f.Pending = &Activation{Mark: m, RevertWindowMs: revertWindowMs}
	}
	return f
}

// Activated says that the machine has switched to the pending release at now
// (Unix ms): its revert window runs from the first such time.
func (f Floor) Activated(now int64) Floor {
	if f.Pending == nil || f.Pending.ActivatedAt > 0 {
		return f
	}
	a := *f.Pending
	a.ActivatedAt = now
	f.Pending = &a
	return f
}

// Returned says that the machine went back from the pending release to the
// last good one at now (Unix ms). Within the revert window the floor stays
// where it is; after it, it is above what runs.
func (f Floor) Returned(now int64) Floor {
	f = f.Settle(now)
	f.Pending = nil
	return f
}

// raised makes m the floor of its line unless that is higher, and nothing
// pending.
func (f Floor) raised(m Mark) Floor {
	lines := maps.Clone(f.Lines)
	if lines == nil {
		lines = map[fleet.Line]Mark{}
	}
	if m.Sequence > lines[m.Line].Sequence {
		lines[m.Line] = m
	}
	return Floor{Lines: lines}
}
