// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// effects are what the engine does to the world, and how it looks at it.
type effects interface {
	// Perform does what the journal's step stands for. It may be done again
	// after a crash. It returns nil when ctx ended.
	Perform(ctx context.Context, j states.Journal) states.Input
	// Idle waits for something that an idle agent has to act on.
	Idle(ctx context.Context, j states.Journal) states.Input
	// Interrupts returns what ends the step at work from outside, if anything
	// does; wake tells when to ask again.
	Interrupts(j states.Journal) (states.Input, bool)
	Wake() <-chan struct{}
	Generations() fleet.Generations
	Now() states.Moment
	// Fired tells whether the watchdog has gone back; while it does so, it
	// waits.
	Fired(ctx context.Context) (string, bool)
}

// engine drives the journal: it is written, then its step is performed, and
// the result gives the next journal.
type engine struct {
	save    func(states.Journal) error
	report  func(fleet.Report) error
	changed func(states.Journal) // told each new journal, after it was written
	effects effects
	machine fleet.MachineID
	log     *slog.Logger
}

// run goes on until ctx ends.
func (e *engine) run(ctx context.Context, j states.Journal) {
	if j.Step != states.Idle {
		// What a boot means can be said only once the watchdog has ended what it does.
		if message, fired := e.effects.Fired(ctx); fired {
			j, _ = e.next(ctx, j, states.WatchdogFired{Generations: e.effects.Generations(), Message: message})
		}
	}
	j, _ = e.next(ctx, j, states.Rebooted{Generations: e.effects.Generations()})
	e.tell(states.New(), j) // what was written may not have been told
	e.changed(j)
	for ctx.Err() == nil {
		in := e.input(ctx, j)
		if ctx.Err() != nil {
			return
		}
		var changed bool
		if j, changed = e.next(ctx, j, in); !changed && j.Step != states.Idle {
			wait.For(ctx, 250*time.Millisecond) // it will be tried again, for ever if need be, but not in a rush
		}
	}
}

// input performs the step and returns how that ended, or what ended it.
func (e *engine) input(ctx context.Context, j states.Journal) states.Input {
	if j.Step == states.Idle {
		return e.effects.Idle(ctx, j)
	}
	switch j.Step {
	case states.Switch, states.AwaitReboot, states.HandOver, states.Confirm, states.Disarm, states.Verify:
		if message, fired := e.effects.Fired(ctx); fired {
			return states.WatchdogFired{Generations: e.effects.Generations(), Message: message}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan states.Input, 1)
	go func() { done <- e.effects.Perform(ctx, j) }()
	for {
		if in, ok := e.effects.Interrupts(j); ok {
			if _, changes := states.Next(j, in, e.effects.Now()); changes {
				cancel()
				<-done
				return in
			}
		}
		select {
		case in := <-done:
			return in
		case <-e.effects.Wake():
		}
	}
}

// next writes the journal that in leads to, and returns it and whether it is
// another one. What follows from it is told before its step is performed.
func (e *engine) next(ctx context.Context, j states.Journal, in states.Input) (states.Journal, bool) {
	if in == nil {
		return j, false
	}
	now := e.effects.Now()
	next, changed := states.Next(j, in, now)
	if !changed {
		return j, false
	}
	if err := e.keep(ctx, next); err != nil {
		e.log.Error("the journal cannot be written", "step", next.Step, "error", err)
		switch next.Step {
		case states.Judge, states.Fetch, states.Prepare, states.Arm, states.Profile, states.Switch:
			// Nothing may change on the machine that is not written down (A12).
			// What is done already can be found out again from the journal
			// before.
			if ctx.Err() == nil {
				next, changed = states.Next(j, states.Failed{Reason: fleet.ReasonDiskFull, Message: err.Error()}, now)
			}
		}
	}
	e.tell(j, next)
	e.changed(next)
	return next, changed
}

// keep writes the journal. A full disk may be emptied: it tries a few times.
func (e *engine) keep(ctx context.Context, j states.Journal) error {
	return wait.Retry(ctx, 5, 100*time.Millisecond, func() error { return e.save(j) })
}

// tell logs and reports what has changed.
func (e *engine) tell(j, next states.Journal) {
	if next.Step != j.Step {
		e.log.Info("step", "step", next.Step, "from", j.Step, "release", releaseOf(next).Short(), "reason", reasonOf(next))
	}
	r, ok := e.seen().Transition(j, next)
	if !ok {
		return
	}
	if err := e.report(r); err != nil {
		e.log.Error("a report cannot be queued", "kind", r.Kind, "error", err)
	}
}

func (e *engine) seen() states.Seen {
	return states.Seen{Machine: e.machine, At: e.effects.Now(), Generations: e.effects.Generations()}
}

func releaseOf(j states.Journal) fleet.Digest {
	if j.Work == nil {
		return ""
	}
	return j.Work.Order.Digest
}

func reasonOf(j states.Journal) fleet.Reason {
	if j.Work == nil {
		return ""
	}
	return j.Work.Reason
}
