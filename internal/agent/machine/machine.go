// SPDX-License-Identifier: MIT

// Package machine carries out the steps of an attempt on the machine that the
// agent runs on, one file a step, and watches the machine between attempts. Each
// effect can be repeated after a crash.
//
// It never decides which step comes next and never knows how the control plane is
// reached.
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
	"github.com/arcanesys/nixfleet/internal/nix"
)

// ControlPlane is what the machine asks of its control plane.
type ControlPlane interface {
	// Orders are the last orders given; false before the first.
	Orders() (states.Orders, bool)
	// Wake tells when there are other orders.
	Wake() <-chan struct{}
	// Answers returns nil if the control plane answers this machine.
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
	ConfigText []byte // as it was when this process started
	ReadConfig func(file string) (config.Agent, error)
	Plane      ControlPlane
	Supervisor host.Supervisor // nil: that of this machine
	Outbox     *disk.Outbox
	// Probe runs a health check once; nil: on this machine.
	Probe func(context.Context, fleet.HealthCheck) (ok bool, observed string)
	// OnlyAPersonSetsTheFloor says that the machine does not know its floor because
	// a copy of it is damaged: a timestamp could name a lower one.
	OnlyAPersonSetsTheFloor bool
}

// Machine carries out the steps of an attempt.
type Machine struct {
	Config
	idle   idle
	signed nix.SignedList // of the closure that was last compared
}

// New makes the machine that the agent runs on.
func New(c Config) *Machine {
	if c.Supervisor == nil {
		c.Supervisor = host.New()
	}
	return &Machine{Config: c, idle: idle{documents: map[fleet.Digest]time.Time{}}}
}

func (m *Machine) dir() disk.Dir { return disk.Dir(m.Agent.StateDir) }

// Wake tells when there are other orders.
func (m *Machine) Wake() <-chan struct{} { return m.Plane.Wake() }

// Interrupts returns what the present orders mean for the attempt under way.
func (m *Machine) Interrupts(j states.Journal) (states.Input, bool) {
	v, given := m.Plane.Orders()
	if !given {
		return nil, false
	}
	return v.Interrupt(j)
}

// Fired reports whether the watchdog has rolled back. While it does so, Fired
// waits.
func (m *Machine) Fired(ctx context.Context) (string, bool) {
	for begin := time.Now(); ; {
		o, armed, err := m.dir().Watch().Read()
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

// effects holds the effect of each step. Idle has none: Idle waits.
var effects = map[states.Step]func(*Machine, context.Context, states.Journal) states.Input{
	states.Judge:            (*Machine).judge,
	states.Fetch:            (*Machine).fetch,
	states.Prepare:          (*Machine).prepare,
	states.Arm:              (*Machine).arm,
	states.Profile:          (*Machine).profile,
	states.Switch:           (*Machine).switchOver,
	states.AwaitReboot:      (*Machine).awaitReboot,
	states.HandOver:         (*Machine).handOver,
	states.Confirm:          (*Machine).confirm,
	states.Disarm:           (*Machine).disarm,
	states.Verify:           (*Machine).verify,
	states.RollbackProfile:  (*Machine).rollbackProfile,
	states.RollbackSwitch:   (*Machine).rollbackSwitch,
	states.RollbackReboot:   (*Machine).rollbackReboot,
	states.RollbackHandOver: (*Machine).rollbackHandOver,
	states.Report:           (*Machine).report,
}

// Perform carries out the journal's step. It returns nil when ctx ended.
func (m *Machine) Perform(ctx context.Context, j states.Journal) states.Input {
	effect, ok := effects[j.Step]
	if !ok {
		m.log.Error("the journal's step is unknown", "step", j.Step)
		return nil
	}
	in := effect(m, ctx, j)
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
