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

// Effects are what the engine does on the machine, and what it sees of it.
type Effects interface {
	// Perform carries out the journal's step, also one that a crash has
	// interrupted. It returns nil when ctx ended.
	Perform(ctx context.Context, j states.Journal) states.Input
	// Idle waits for something that an idle agent has to act on.
	Idle(ctx context.Context, j states.Journal) states.Input
	// Interrupts returns what ends the present step from outside, if anything
	// does. Wake tells when to ask again.
	Interrupts(j states.Journal) (states.Input, bool)
	Wake() <-chan struct{}
	Generations() fleet.Generations
	Now() states.Moment
	// Fired reports whether the watchdog has rolled back. While it does so,
	// Fired waits.
	Fired(ctx context.Context) (string, bool)
}

// Engine drives the journal: it writes it, performs its step, and derives the next
// journal from the result. Every field is required.
type Engine struct {
	Save    func(states.Journal) error
	Report  func(fleet.Report) error
	Changed func(states.Journal) // is given each new journal after it was written
	Effects Effects
	Machine fleet.MachineID
	Log     *slog.Logger
}

// Run drives the journal until ctx ends.
func (e *Engine) Run(ctx context.Context, j states.Journal) {
	if j.Step != states.Idle {
		// A boot can be judged only when the watchdog does nothing any more.
		if message, fired := e.Effects.Fired(ctx); fired {
			j, _ = e.next(ctx, j, states.WatchdogFired{Generations: e.Effects.Generations(), Message: message})
		}
	}
	j, _ = e.next(ctx, j, states.Rebooted{Generations: e.Effects.Generations()})
	e.tell(states.New(), j) // a crash may have come before the report
	e.Changed(j)
	for ctx.Err() == nil {
		in := e.input(ctx, j)
		if ctx.Err() != nil {
			return
		}
		var changed bool
		if j, changed = e.next(ctx, j, in); !changed && j.Step != states.Idle {
			wait.For(ctx, 250*time.Millisecond) // it is tried again for as long as it takes, but not at once
		}
	}
}

// input performs the step and returns its result, or what interrupted it.
func (e *Engine) input(ctx context.Context, j states.Journal) states.Input {
	if j.Step == states.Idle {
		return e.Effects.Idle(ctx, j)
	}
	switch j.Step {
	case states.Switch, states.AwaitReboot, states.HandOver, states.Confirm, states.Disarm, states.Verify:
		if message, fired := e.Effects.Fired(ctx); fired {
			return states.WatchdogFired{Generations: e.Effects.Generations(), Message: message}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan states.Input, 1)
	go func() { done <- e.Effects.Perform(ctx, j) }()
	for {
		if in, ok := e.Effects.Interrupts(j); ok {
			if _, changes := states.Next(j, in, e.Effects.Now()); changes {
				cancel()
				<-done
				return in
			}
		}
		select {
		case in := <-done:
			return in
		case <-e.Effects.Wake():
		}
	}
}

// next writes the journal that in leads to, and returns it and whether it changed.
// The change is reported before the new step is performed.
func (e *Engine) next(ctx context.Context, j states.Journal, in states.Input) (states.Journal, bool) {
	if in == nil {
		return j, false
	}
	now := e.Effects.Now()
	next, changed := states.Next(j, in, now)
	if !changed {
		return j, false
	}
	if err := e.keep(ctx, next); err != nil {
		e.Log.Error("the journal cannot be written", "step", next.Step, "error", err)
		switch next.Step {
		case states.Judge, states.Fetch, states.Prepare, states.Arm, states.Profile, states.Switch:
			// Nothing may change on the machine before it is in the journal (A12).
			// At the later steps the old journal is enough to find out what was
			// done.
			if ctx.Err() == nil {
				next, changed = states.Next(j, states.Failed{Reason: fleet.ReasonDiskFull, Message: err.Error()}, now)
			}
		}
	}
	e.tell(j, next)
	e.Changed(next)
	return next, changed
}

// keep writes the journal. It tries a few times: a full disk may be emptied.
func (e *Engine) keep(ctx context.Context, j states.Journal) error {
	return wait.Retry(ctx, 5, 100*time.Millisecond, func() error { return e.Save(j) })
}

// tell logs and reports a change.
func (e *Engine) tell(j, next states.Journal) {
	if next.Step != j.Step {
		e.Log.Info("step", "step", next.Step, "from", j.Step, "release", releaseOf(next).Short(), "reason", reasonOf(next))
	}
	r, ok := e.seen().Transition(j, next)
	if !ok {
		return
	}
	if err := e.Report(r); err != nil {
		e.Log.Error("a report cannot be queued", "kind", r.Kind, "error", err)
	}
}

func (e *Engine) seen() states.Seen {
	return states.Seen{Machine: e.Machine, At: e.Effects.Now(), Generations: e.Effects.Generations()}
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
