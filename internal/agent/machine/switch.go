// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// switchOver runs the target's own switch, or stages it for the next boot.
func (m *Machine) switchOver(ctx context.Context, j states.Journal) states.Input {
	return m.runSwitch(ctx, j, j.Work.Target.Path)
}

// rollbackSwitch runs the previous system's own switch.
func (m *Machine) rollbackSwitch(ctx context.Context, j states.Journal) states.Input {
	return m.runSwitch(ctx, j, j.Work.Previous.Path)
}

func (m *Machine) runSwitch(ctx context.Context, j states.Journal, system fleet.StorePath) states.Input {
	work := j.Work
	s := host.Switch{
		Name: work.Unit, Dir: m.dir().Switches(), Program: string(system) + "/bin/switch-to-configuration", Args: []string{string(work.Action)},
		Limit: time.Duration((work.SwitchUntil - m.Now().Boot) * float64(time.Second)),
	}
	if host.System().Darwin() {
		s.Program, s.Args = string(system)+"/activate", nil
	}
	// Wait for a switch that someone else has started (A13).
	for !s.Started() && host.LockHeld() && m.Now().Boot < work.SwitchUntil {
		if !wait.For(ctx, 250*time.Millisecond) {
			return nil
		}
	}
	res, err := m.Supervisor.Run(ctx, s)
	if err != nil {
		return states.Failed{Reason: fleet.ReasonActivation, Message: err.Error()}
	}
	failed, err := m.Supervisor.FailedUnits(ctx)
	if err != nil {
		m.log.Warn("failed units cannot be listed", "error", err)
	}
	return states.Switched{Generations: m.Generations(), Code: res.Code, TimedOut: res.TimedOut, FailedUnits: failed, Message: res.Output}
}
