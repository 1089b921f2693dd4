// SPDX-License-Identifier: MIT

// Package machine carries out the steps of an attempt on the machine that the
// agent runs on, a file for each, and looks after the machine between attempts.
// An effect can be repeated: what it has done before a crash is found again.
//
// It never decides which step comes next, and speaks to the control plane only
// through the interface that it is given.
package machine

import (
	"context"
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

// Config is what a machine is made of.
type Config struct {
	*Snapshot
	Agent      config.Agent
	ConfigFile string
	ConfigText []byte // of the file that this process runs with
	ReadConfig func(file string) (config.Agent, error)
	Plane      ControlPlane
	Supervisor host.Supervisor
	Outbox     *disk.Outbox
}

// Machine performs the steps of an attempt on the machine that it runs on.
type Machine struct {
	Config
	history disk.History
	watch   disk.WatchFile

	// Of an idle agent, forgotten when it ends.
	notBefore    map[string]time.Time // orders that could not begin, and when to look at them again
	delay        map[string]time.Duration
	prefetched   fleet.Digest
	notBeforeDoc map[fleet.Digest]time.Time
	lastRunning  fleet.StorePath
	warnedLife   int // percent of the timestamp's life that was warned of
}

// New makes the machine that the agent runs on.
func New(c Config) *Machine {
	dir := disk.Dir(c.Agent.StateDir)
	return &Machine{
		Config: c, history: dir.History(), watch: dir.Watch(),
		notBefore: map[string]time.Time{}, delay: map[string]time.Duration{}, notBeforeDoc: map[fleet.Digest]time.Time{},
	}
}

// Wake tells when there are other orders.
func (m *Machine) Wake() <-chan struct{} { return m.Plane.Wake() }

// Interrupts looks at the orders.
func (m *Machine) Interrupts(j states.Journal) (states.Input, bool) {
	v, given := m.Plane.Orders()
	if !given {
		return nil, false
	}
	return v.Interrupt(j)
}

// Fired tells whether the watchdog has gone back, and waits while it does so.
func (m *Machine) Fired(ctx context.Context) (string, bool) {
	for begin := time.Now(); ; {
		o, armed, err := m.watch.Read()
		if err != nil {
			m.log.Error("the watchdog's orders cannot be read", "error", err)
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
func (m *Machine) Perform(ctx context.Context, j states.Journal) states.Input {
	var in states.Input
	switch j.Step {
	case states.Judge:
		in = m.judge(ctx, j)
	case states.Fetch:
		in = m.fetch(ctx, j)
	case states.Prepare:
		in = m.prepare(ctx, j)
	case states.Arm:
		in = done(m.arm(j), fleet.ReasonDiskFull)
	case states.Profile:
		in = m.profile(ctx, j.Work.Target.Path)
	case states.Switch:
		in = m.runSwitch(ctx, j, j.Work.Target.Path)
	case states.AwaitReboot:
		in = m.reboot(ctx, m.inWindow)
	case states.HandOver:
		in = m.handOver(ctx, j)
	case states.Confirm:
		in = m.confirm(ctx, j)
	case states.Disarm:
		in = done(m.watch.Remove(), fleet.ReasonDiskFull)
	case states.Verify:
		in = m.verify(ctx, j)
	case states.RollbackProfile:
		m.rearm(j)
		in = m.profile(ctx, j.Work.Previous.Path)
	case states.RollbackSwitch:
		in = m.runSwitch(ctx, j, j.Work.Previous.Path)
	case states.RollbackReboot:
		in = m.reboot(ctx, func(time.Time) bool { return true })
	case states.RollbackHandOver:
		in = m.replace(ctx, 30*time.Second)
	case states.Report:
		in = m.conclude(j)
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
