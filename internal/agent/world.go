// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"path/filepath"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// ControlPlane is what the machine asks its control plane for.
type ControlPlane interface {
	// Orders are the last ones given; false before the first.
	Orders() (states.Orders, bool)
	// Wake tells when there are other orders.
	Wake() <-chan struct{}
	// Answers returns nil if it answers this machine.
	Answers(context.Context) error
	Release(context.Context, fleet.Digest) ([]byte, error)
	Document(context.Context, fleet.Digest) ([]byte, error)
	// RootsAfter are the versions of the root document after one, in order.
	RootsAfter(ctx context.Context, version uint64) ([][]byte, error)
}

// world is this machine, and what the agent reaches from it.
type world struct {
	*Snapshot
	cfg      config.Agent
	cfgFile  string
	cfgBytes []byte // of the configuration that this process runs with
	plane    ControlPlane
	sup      host.Supervisor
	outbox   *disk.Outbox
	history  disk.History
	watch    disk.WatchFile

	// Of an idle agent, forgotten when it ends.
	notBefore    map[string]time.Time // orders that could not begin, and when to look at them again
	delay        map[string]time.Duration
	prefetched   fleet.Digest
	notBeforeDoc map[fleet.Digest]time.Time
	lastRunning  fleet.StorePath
	warnedLife   int // percent of the timestamp's life that was warned of
}

var _ effects = (*world)(nil)

func (w *world) switchDir() string { return filepath.Join(w.cfg.StateDir, "switch") }

// Wake tells when there are other orders.
func (w *world) Wake() <-chan struct{} { return w.plane.Wake() }

// Interrupts looks at the orders.
func (w *world) Interrupts(j states.Journal) (states.Input, bool) {
	v, given := w.plane.Orders()
	if !given {
		return nil, false
	}
	return v.Interrupt(j)
}

// Fired tells whether the watchdog has gone back, and waits while it does so.
func (w *world) Fired(ctx context.Context) (string, bool) {
	for begin := time.Now(); ; {
		o, armed, err := w.watch.Read()
		if err != nil {
			w.log.Error("the watchdog's orders cannot be read", "error", err)
		}
		if !armed || !o.Fired {
			return "", false
		}
		if o.Done || time.Since(begin) > 15*time.Minute {
			return o.Message, true
		}
		if !wait.For(ctx, 200*time.Millisecond) {
			return "", false
		}
	}
}

// Perform does what the step stands for.
func (w *world) Perform(ctx context.Context, j states.Journal) states.Input {
	var in states.Input
	switch j.Step {
	case states.Judge:
		in = w.judge(ctx, j)
	case states.Fetch:
		in = w.fetch(ctx, j)
	case states.Prepare:
		in = w.prepare(ctx, j)
	case states.Arm:
		in = done(w.arm(j), fleet.ReasonDiskFull)
	case states.Profile:
		in = w.profile(ctx, j.Work.Target.Path)
	case states.Switch:
		in = w.runSwitch(ctx, j, j.Work.Target.Path)
	case states.AwaitReboot:
		in = w.reboot(ctx, w.inWindow)
	case states.HandOver:
		in = w.handOver(ctx, j)
	case states.Confirm:
		in = w.confirm(ctx, j)
	case states.Disarm:
		in = done(w.watch.Remove(), fleet.ReasonDiskFull)
	case states.Verify:
		in = w.verify(ctx, j)
	case states.RollbackProfile:
		w.rearm(j)
		in = w.profile(ctx, j.Work.Previous.Path)
	case states.RollbackSwitch:
		in = w.runSwitch(ctx, j, j.Work.Previous.Path)
	case states.RollbackReboot:
		in = w.reboot(ctx, func(time.Time) bool { return true })
	case states.RollbackHandOver:
		in = w.replace(ctx, 30*time.Second)
	case states.Report:
		in = w.conclude(j)
	case states.Idle:
	}
	if ctx.Err() != nil {
		return nil
	}
	return in
}

func done(err error, reason fleet.Reason) states.Input {
	if err != nil {
		return states.Failed{Reason: reason, Message: err.Error()}
	}
	return states.Done{}
}
