// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// beatEvery is how often the loop reads running time, and compares it with the
	// wall clock.
	beatEvery = 5 * time.Second
	// longestBeat bounds what counts from one reading to the next: a process that
	// was stopped, or whose machine slept, did not run.
	longestBeat = 15 * time.Second
	// clockStepMs is by how much the wall clock has to move against running time
	// until it is audited.
	clockStepMs = 30_000
	// keepRunningEvery is how often running time is written while rollouts wait
	// for a deadline: at most so much of it is lost when the process is killed.
	keepRunningEvery = 30 * time.Second
)

// runningTime measures the time in which this process runs, on from what the
// store has. No setting of the wall clock moves it.
type runningTime struct {
	mu   sync.Mutex
	run  time.Duration
	last time.Time // of the last reading, with Go's monotonic clock
	// ahead is by how much the wall clock is ahead of running time, as it was when
	// the two last moved against each other.
	ahead int64
}

func newRunningTime(ms int64) *runningTime {
	return &runningTime{run: time.Duration(ms) * time.Millisecond, last: time.Now()}
}

// now is the running time in milliseconds.
func (r *runningTime) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.run += min(max(now.Sub(r.last), 0), longestBeat)
	r.last = now
	return r.run.Milliseconds()
}

// Moment is the present moment: on the wall clock, and in running time. One cannot
// be read together with the other: by how much they differ changes only if it must,
// so that a deadline is shown as the same time each time that somebody looks.
func (l *Loop) Moment() rollout.Moment {
	before, run := l.Clock.UnixMilli(), l.running.now()
	return rollout.Moment{Wall: run + l.running.steady(before-run, l.Clock.UnixMilli()-run), Run: run}
}

// steady is by how much the wall clock is ahead, which was between these two: as
// before, if it can be but for the rest of a millisecond.
func (r *runningTime) steady(least, most int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ahead < least-1 || r.ahead > most+1 {
		r.ahead = most
	}
	return r.ahead
}

// openRunningTime goes on from what the store has. A new store's begins as the
// wall clock's time; it has no other meaning.
func openRunningTime(ctx context.Context, s *store.Store, wall int64) (*runningTime, store.RunningTime, error) {
	kept, ok, err := s.RunningTime(ctx)
	if err != nil {
		return nil, kept, err
	}
	if !ok {
		kept = store.RunningTime{Run: wall, Wall: wall}
	}
	return newRunningTime(kept.Run), kept, nil
}

// keepRunning writes running time.
func (l *Loop) keepRunning(ctx context.Context) error {
	m := l.Moment()
	if err := l.Store.Write(ctx, func(tx *store.Tx) error {
		return tx.SetRunningTime(ctx, store.RunningTime{Run: m.Run, Wall: m.Wall})
	}); err != nil {
		return fmt.Errorf("write running time: %w", err)
	}
	l.kept = m.Run
	return nil
}

// beat reads both clocks: it audits a step of the wall clock, and writes running
// time while rollouts wait for it.
func (l *Loop) beat(ctx context.Context) error {
	m := l.Moment()
	by := (m.Wall - l.seen.Wall) - (m.Run - l.seen.Run)
	if by > clockStepMs || by < -clockStepMs {
		err := l.pass(ctx, func(_ context.Context, p *Pass) error {
			p.noteClockStep(m.Wall, by, "it was set, or this machine was asleep")
			return nil
		})
		if err != nil {
			return err
		}
	}
	l.seen = m
	if m.Run-l.kept < keepRunningEvery.Milliseconds() {
		return nil
	}
	for _, s := range l.active {
		if s.Rollout.WakeAt > 0 {
			return l.keepRunning(ctx)
		}
	}
	return nil
}

// noteClockStep audits that the wall clock moved against running time.
func (p *Pass) noteClockStep(to, by int64, why string) {
	date := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	p.loop.Log.Warn("the wall clock moved", "by", (time.Duration(by) * time.Millisecond).String(), "why", why)
	p.note(rollout.EngineActor, fleet.ActionControlPlaneClock, rollout.EngineActor, map[string]string{
		"from": date(to - by), "to": date(to), "by": (time.Duration(by) * time.Millisecond).Round(time.Second).String(), "why": why,
	})
}
