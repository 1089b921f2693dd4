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

// Floor is the sequence of each line below which a machine accepts nothing.
// While the newest release may still be reverted, it is Pending and the floor is
// that of the last good one; then the floor moves up to it, for good. Methods
// return a changed copy.
type Floor struct {
	Lines   map[fleet.Line]Mark `json:"lines"`
	Pending *Activation         `json:"pending,omitempty"`
	// Left are the releases above the floor that were current here and were left
	// for an older one. If one becomes current again, its window goes on.
	Left map[fleet.Digest]Activation `json:"left,omitempty"`
}

// maxLeft bounds Left; the newest stay. Each of them was signed.
const maxLeft = 256

// Activation is a release that was begun and may still be reverted.
type Activation struct {
	Mark
	// ActivatedAt is when the machine had first switched to it, Unix ms; 0 before.
	ActivatedAt    int64 `json:"activatedAt,omitempty"`
	RevertWindowMs int64 `json:"revertWindowMs"`    // from the signed header
	Current        bool  `json:"current,omitempty"` // it was not only tried
}

// over reports whether the revert window has ended at now.
func (a Activation) over(now int64) bool {
	return a.ActivatedAt > 0 && now-a.ActivatedAt >= a.RevertWindowMs
}

// At returns the floor of a line at now (Unix ms). Lower sequences are refused,
// and the same sequence with another digest. The zero Mark means no floor.
func (f Floor) At(line fleet.Line, now int64) Mark { return f.Raise(now).Lines[line] }

// Raise moves the floor up to the pending release if its revert window has
// ended at now (Unix ms).
func (f Floor) Raise(now int64) Floor {
	if f.Pending == nil || !f.Pending.over(now) {
		return f
	}
	return f.raiseTo(f.Pending.Mark)
}

// Begin says that m has been accepted and its activation begins. If it is
// later than the release that was pending, that one can no longer be
// reverted: the floor moves up to it.
func (f Floor) Begin(m Mark, revertWindowMs, now int64) Floor {
	f = f.Raise(now)
	switch p := f.Pending; {
	case p == nil:
	case p.Mark == m:
		return f // another attempt: a window that is running goes on
	case p.Line != m.Line || p.Sequence < m.Sequence:
		f = f.raiseTo(p.Mark)
	default:
		f = f.leave() // for an older release, which the open window still allows
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

// Became says that m is the machine's current release at now (Unix ms), in
// whatever way: it was applied, booted, or rolled back to.
func (f Floor) Became(m Mark, now int64) Floor {
	f = f.Raise(now)
	left, known := f.Left[m.Digest]
	switch {
	case f.Pending != nil && f.Pending.Mark == m:
		f = f.Activated(now)
		a := *f.Pending
		a.Current = true
		if known {
			a.ActivatedAt = left.ActivatedAt
		}
		f.Pending = &a
	case known: // what was pending was only tried, or staged
		f.Pending = &left
	case f.Pending != nil && f.Pending.Current:
		f = f.leave()
	}
	return f.Raise(now)
}

// RolledBack says that the machine left the pending release for the last good
// one at now (Unix ms). Within the revert window the floor stays where it is;
// after the window it is above what runs.
func (f Floor) RolledBack(now int64) Floor {
	f = f.Raise(now)
	if f.Pending != nil {
		f = f.leave()
	}
	return f
}

// leave ends what is pending. A release that was only tried is forgotten.
func (f Floor) leave() Floor {
	p := *f.Pending
	f.Pending = nil
	if !p.Current {
		return f
	}
	f.Left = maps.Clone(f.Left)
	if f.Left == nil {
		f.Left = map[fleet.Digest]Activation{}
	}
	f.Left[p.Digest] = p
	if len(f.Left) > maxLeft {
		oldest := p
		for _, a := range f.Left {
			if a.Sequence < oldest.Sequence {
				oldest = a
			}
		}
		delete(f.Left, oldest.Digest)
	}
	return f
}

// Join returns a floor that is nowhere below either of two copies, of which f says
// what is pending. What only the other had pending, or had left, may become current
// again within the window that began then.
func (f Floor) Join(other Floor) Floor {
	left := maps.Clone(f.Left)
	if left == nil {
		left = map[fleet.Digest]Activation{}
	}
	add := func(a Activation) {
		if have, ok := left[a.Digest]; a.Current && (!ok || a.began(have)) {
			left[a.Digest] = a
		}
	}
	for _, a := range other.Left {
		add(a)
	}
	switch p := other.Pending; {
	case p == nil:
	case f.Pending == nil || f.Pending.Mark != p.Mark:
		add(*p)
	case p.began(*f.Pending):
		f.Pending = p
	}
	pending := f.Pending
	out := Floor{Lines: f.Lines, Left: left}
	for _, m := range other.Lines {
		out = out.raiseTo(m)
	}
	for _, m := range f.Lines { // so that nothing below stays in Left
		out = out.raiseTo(m)
	}
	if pending != nil && pending.Sequence > out.Lines[pending.Line].Sequence {
		out.Pending = pending
	}
	if len(out.Left) == 0 {
		out.Left = nil
	}
	return out
}

// began reports whether the window of a began, and before that of b.
func (a Activation) began(b Activation) bool {
	return a.ActivatedAt > 0 && (b.ActivatedAt == 0 || a.ActivatedAt < b.ActivatedAt)
}

// raiseTo makes m the floor of its line unless the floor is higher. Nothing is
// pending then.
func (f Floor) raiseTo(m Mark) Floor {
	lines := maps.Clone(f.Lines)
	if lines == nil {
		lines = map[fleet.Line]Mark{}
	}
	if have := lines[m.Line]; m.Sequence > have.Sequence || m.Sequence == have.Sequence && have.Digest == "" {
		lines[m.Line] = m
	}
	left := maps.Clone(f.Left)
	maps.DeleteFunc(left, func(_ fleet.Digest, a Activation) bool { return a.Sequence <= lines[a.Line].Sequence })
	if len(left) == 0 {
		left = nil
	}
	return Floor{Lines: lines, Left: left}
}
