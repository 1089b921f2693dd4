// SPDX-License-Identifier: AGPL-3.0-only

// Package loop holds what a control plane has in memory, and the one goroutine
// that runs the engine (controlplane/rollout). An engine pass is one
// transaction: what it decides is written, and only after the commit shown to
// machines and event streams. After a restart the loop goes on from the store.
//
// It never speaks HTTP and never decides who may do what.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/clock"
)

const (
	// drainLimit bounds how many reports share a transaction.
	drainLimit = 500
	// flushEvery is how often OnFlush's functions run, contactsEvery how often last
	// contacts are written: a whole fleet each time.
	flushEvery    = 30 * time.Second
	contactsEvery = 10 * time.Minute
	// retryAfter is how long the loop rests after an error of the store.
	retryAfter = time.Second
	// shortestWait keeps a clock that stands still from spinning the loop.
	shortestWait = 5 * time.Millisecond

	hourMs            = 3600 * 1000
	dayMs             = 24 * hourMs
	tokenRetentionMs  = 7 * dayMs
	answerRetentionMs = dayMs // as once.Kept
)

// Config says what a Loop works with. Store and Log are required.
type Config struct {
	Store     *store.Store
	Log       *slog.Logger
	Clock     clock.Clock
	Version   string // of the program, for the audit trail
	Retention Retention
	// Ask asks a gate; it ends with its context.
	Ask func(context.Context, rollout.Probe) rollout.GateResult
}

// Loop is the state of a control plane at work. Its methods may be called by
// many goroutines at once.
type Loop struct {
	Store     *store.Store
	Log       *slog.Logger
	Clock     clock.Clock
	Inventory *Inventory
	Presence  *Presence
	Events    *Notifier // events were added to the log
	Behind    *Behind

	version string
	running *runningTime
	started int64 // running time
	flushes []func(context.Context) error
	// planCatchUp is set by OnCatchUp.
	planCatchUp func(context.Context, store.Reader, rollout.Moment, []store.CatchUp) (CatchUpPlan, error)
	timetable   Timetable

	// Of the loop's goroutine: what both clocks said at the last beat, the running
	// time that the store has, rollouts at work, nil to load them anew, and their
	// outcomes that are audited since the start.
	seen   rollout.Moment
	kept   int64
	active map[fleet.RolloutID]*rollout.State
	told   map[told]bool
	failed bool // the last try did

	retention Retention
	sweeps    []func(context.Context, *Pass) (bool, error)
	sweepIn   time.Duration // until the next look for what is old

	commands    chan command
	probes      *probes
	freeze      atomic.Pointer[fleet.Freeze]
	budgets     atomic.Pointer[[]budgetRule]
	inbox       chan struct{} // 1 buffered: there is work to do
	reconnected reconnected
	ending      chan struct{} // closed by EndPolls
	endPolls    func()
	closing     chan struct{}
	stopped     chan struct{} // closed when Run has returned
	once        sync.Once
	runMu       sync.Mutex // held where running begins or closing ends it
	working     sync.WaitGroup
}

// command is a change that the loop makes for a caller.
type command struct {
	run  func() error
	done chan error
}

// Open reads machines and rollouts from the store. The loop serves reads at
// once; Act needs Run.
func Open(ctx context.Context, c Config) (*Loop, error) {
	machines, err := c.Store.Machines(ctx)
	if err != nil {
		return nil, err
	}
	running, kept, err := openRunningTime(ctx, c.Store, c.Clock.UnixMilli())
	if err != nil {
		return nil, err
	}
	behind, err := c.Store.CatchUps(ctx)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		Store: c.Store, Log: c.Log, Clock: c.Clock, version: c.Version, retention: c.Retention, sweepIn: sweepEvery, running: running, started: kept.Run,
		seen: rollout.Moment{Wall: kept.Wall, Run: kept.Run}, kept: kept.Run,
		Inventory: newInventory(machines, rollout.Moment{Wall: kept.Wall, Run: kept.Run}), Presence: newPresence(), Events: newNotifier(), Behind: newBehind(behind),
		told: map[told]bool{}, commands: make(chan command), inbox: make(chan struct{}, 1), closing: make(chan struct{}), stopped: make(chan struct{}),
		ending: make(chan struct{}),
	}
	l.endPolls = sync.OnceFunc(func() {
		close(l.ending)
		l.Presence.WakeAll()
	})
	l.probes = newProbes(l, c.Ask)
	if err := errors.Join(l.loadFreeze(ctx, c.Store.Reader), l.loadBudgets(ctx, c.Store.Reader)); err != nil {
		return nil, err
	}
	return l, l.loadActive(ctx)
}

// OnFlush adds what else is written, every half minute and at the end, of what
// is kept in memory to spare the disk. It must be called before Run.
func (l *Loop) OnFlush(flush func(context.Context) error) { l.flushes = append(l.flushes, flush) }

// Ending is closed when long polls and event streams have to end.
func (l *Loop) Ending() <-chan struct{} { return l.ending }

// EndPolls ends long polls and event streams, before Close ends the rest.
func (l *Loop) EndPolls() { l.endPolls() }

// Close ends long polls, event streams and Run, and waits for Run. What is in
// memory only is written. The store stays open: it is the caller's.
func (l *Loop) Close() error {
	var err error
	l.once.Do(func() {
		l.endPolls()
		l.runMu.Lock()
		close(l.closing)
		l.runMu.Unlock()
		l.probes.close()
		l.working.Wait()
		// No caller's context: the process is about to end.
		ctx := context.Background()
		err = errors.Join(l.flushContacts(ctx), l.flush(ctx), l.keepRunning(ctx))
	})
	return err
}

// ErrClosed is the answer to what comes after Close.
func ErrClosed() error {
	return fleet.Errorf(fleet.Unavailable, "the control plane is stopping").WithHint("try again in a moment")
}

// NoMachine is the error of a machine that is not known.
func NoMachine(id fleet.MachineID) error {
	return fleet.Errorf(fleet.NotFound, "there is no machine %.80q", id).WithHint("nixfleet machine list shows those there are")
}

// Act runs fn on the loop's goroutine as one engine pass: everything fn does is
// committed together, and then shown to machines and streams.
func (l *Loop) Act(ctx context.Context, fn func(ctx context.Context, p *Pass) error) error {
	c := command{done: make(chan error, 1), run: func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return l.pass(ctx, fn)
	}}
	select {
	case l.commands <- c:
		return <-c.done // begun: it ends soon, and the caller has to know how
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closing:
		return ErrClosed()
	case <-l.stopped:
		return ErrClosed()
	}
}

// Running returns nil while Run is at work, or may still begin.
func (l *Loop) Running() error {
	select {
	case <-l.closing:
		return ErrClosed()
	case <-l.stopped:
		return ErrClosed()
	default:
		return nil
	}
}

// Run drives rollouts until ctx ends or Close is called. It must be called
// once. An error of the store is logged and tried again; nothing is lost by
// it, for what was not committed is still in the inbox.
func (l *Loop) Run(ctx context.Context) error {
	if !l.mayRun() {
		return nil
	}
	defer l.working.Done()
	defer close(l.stopped)
	noted := false
	beat, catchUp := time.NewTicker(beatEvery), time.NewTicker(catchUpEvery)
	defer beat.Stop()
	defer catchUp.Stop()
	flush, contacts, sweep := time.NewTicker(flushEvery), time.NewTicker(contactsEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer contacts.Stop()
	defer sweep.Stop()
	work := time.NewTimer(0)
	defer work.Stop()
	l.Wake() // what a stop left behind
	for {
		again := time.Duration(-1)
		if !noted {
			again = l.try(ctx, "note the start", l.noteStart)
			noted = again < 0
			work.Reset(max(again, 0))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.closing:
			return nil
		case c := <-l.commands:
			c.done <- c.run()
		case <-l.inbox:
			again = l.try(ctx, "take in reports", l.drain)
		case <-work.C:
			if l.failed || l.due() {
				again = l.try(ctx, "look at rollouts", l.drain)
			}
			if again < 0 {
				again = l.try(ctx, "begin scheduled rollouts", l.keepTime)
			}
		case <-beat.C:
			again = l.try(ctx, "compare the clocks", l.beat)
		case <-catchUp.C:
			again = l.try(ctx, "let machines catch up", l.catchUp)
		case <-flush.C:
			again = l.try(ctx, "write the use of keys", l.flush)
		case <-contacts.C:
			again = l.try(ctx, "write last contacts", l.flushContacts)
		case <-sweep.C:
			again = l.try(ctx, "delete what is old", l.sweep)
			sweep.Reset(l.sweepIn)
		}
		if again < 0 {
			again = l.untilNextWake()
		}
		work.Reset(again)
	}
}

// mayRun lets the loop begin, unless Close was first; Close waits for it then.
func (l *Loop) mayRun() bool {
	l.runMu.Lock()
	defer l.runMu.Unlock()
	select {
	case <-l.closing:
		return false
	default:
		l.working.Add(1)
		return true
	}
}

// noteStart notes the start in the audit trail, and looks at every rollout: what
// was asked before the stop may never be answered.
func (l *Loop) noteStart(ctx context.Context) error {
	return l.pass(ctx, func(_ context.Context, p *Pass) error {
		p.note(rollout.EngineActor, fleet.ActionControlPlaneStart, rollout.EngineActor, map[string]string{"version": l.version})
		if by := p.Now - l.seen.Wall; by < -clockStepMs {
			p.noteClockStep(p.Now, by, "it is behind what it was when the control plane last ran")
		}
		l.seen = rollout.Moment{Wall: p.Now, Run: p.Run}
		for _, s := range p.Active() {
			p.step(s, rollout.Event{})
		}
		return nil
	})
}

// try does a part of the work. If it fails it says for how long to rest.
func (l *Loop) try(ctx context.Context, what string, do func(context.Context) error) time.Duration {
	err := do(ctx)
	l.failed = err != nil && ctx.Err() == nil
	if !l.failed {
		return -1
	}
	l.Log.Error("the store failed; trying again", "work", what, "err", err)
	return retryAfter
}

// Wake makes the loop look at the inbox.
func (l *Loop) Wake() {
	select {
	case l.inbox <- struct{}{}:
	default:
	}
}

// untilNextWake is how long the loop may rest: until the first rollout wants to
// be looked at.
func (l *Loop) untilNextWake() time.Duration {
	wake := int64(0)
	for _, at := range []int64{l.untilFreezeEnds(), l.nextOnTime()} {
		if w := l.running.now() + at - l.Clock.UnixMilli(); at > 0 && (wake == 0 || w < wake) {
			wake = w
		}
	}
	for _, s := range l.active {
		if w := s.Rollout.WakeAt; w > 0 && (wake == 0 || w < wake) {
			wake = w
		}
	}
	if wake == 0 {
		return sweepEvery
	}
	return max(time.Duration(wake-l.running.now())*time.Millisecond, shortestWait)
}

// due reports whether a rollout wants to be looked at.
func (l *Loop) due() bool {
	now := l.running.now()
	for _, s := range l.active {
		if w := s.Rollout.WakeAt; w > 0 && w <= now {
			return true
		}
	}
	f := l.untilFreezeEnds()
	return f > 0 && f <= l.Clock.UnixMilli()
}

// flush writes what is kept in memory to spare the disk, but contacts.
func (l *Loop) flush(ctx context.Context) error {
	var errs []error
	for _, f := range l.flushes {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

func (l *Loop) flushContacts(ctx context.Context) error {
	contacts := l.Inventory.takeContacts()
	if len(contacts) == 0 {
		return nil
	}
	if err := l.Store.Write(ctx, func(tx *store.Tx) error { return tx.TouchMachines(ctx, contacts) }); err != nil {
		l.Inventory.keepContacts(contacts)
		return fmt.Errorf("write last contacts: %w", err)
	}
	return nil
}

// reconnected are machines that were offline and are online again.
type reconnected struct {
	mu  sync.Mutex
	ids map[fleet.MachineID]bool
}

func (r *reconnected) take() []fleet.MachineID {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := slices.Sorted(maps.Keys(r.ids))
	r.ids = nil
	return ids
}

// Reconnected lets the rollout of a machine know that it is online again. It is a
// hint: the engine looks again by itself.
func (l *Loop) Reconnected(id fleet.MachineID) {
	if l.Presence.Assignment(id).assignment.Rollout == "" {
		return
	}
	l.reconnected.mu.Lock()
	if l.reconnected.ids == nil {
		l.reconnected.ids = map[fleet.MachineID]bool{}
	}
	l.reconnected.ids[id] = true
	l.reconnected.mu.Unlock()
	l.Wake()
}
