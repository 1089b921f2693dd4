// SPDX-License-Identifier: AGPL-3.0-only

package loop

import "context"

// Timetable is what the loop does at moments of the wall clock. Both functions are
// called by the loop's goroutine.
type Timetable struct {
	// Next is when to call Do, in Unix milliseconds; 0 for never.
	Next func(now int64) int64
	// Do does what is due, in one pass.
	Do func(ctx context.Context, p *Pass) error
}

// OnTime sets the timetable. It must be called before Run.
func (l *Loop) OnTime(t Timetable) { l.timetable = t }

// nextOnTime is when the timetable has something to do, in Unix milliseconds; 0
// for never.
func (l *Loop) nextOnTime() int64 {
	if l.timetable.Next == nil {
		return 0
	}
	return l.timetable.Next(l.Clock.UnixMilli())
}

// keepTime does what the timetable has to do now.
func (l *Loop) keepTime(ctx context.Context) error {
	if at := l.nextOnTime(); at == 0 || at > l.Clock.UnixMilli() {
		return nil
	}
	return l.pass(ctx, l.timetable.Do)
}
