// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

func (w *world) runSwitch(ctx context.Context, j states.Journal, system fleet.StorePath) states.Input {
	work := j.Work
	s := host.Switch{
		Name: work.Unit, Dir: w.switchDir(), Program: string(system) + "/bin/switch-to-configuration", Args: []string{string(work.Action)},
		Limit: time.Duration((work.SwitchUntil - w.Now().Boot) * float64(time.Second)),
	}
	if host.System().Darwin() {
		s.Program, s.Args = string(system)+"/activate", nil
	}
	// Another hand's switch is waited for (A13).
	for !s.Started() && host.LockHeld() && w.Now().Boot < work.SwitchUntil {
		if !wait.For(ctx, 250*time.Millisecond) {
			return nil
		}
	}
	res, err := w.sup.Run(ctx, s)
	if err != nil {
		return states.Failed{Reason: fleet.ReasonActivation, Message: err.Error()}
	}
	failed, err := w.sup.FailedUnits(ctx)
	if err != nil {
		w.log.Warn("failed units cannot be listed", "error", err)
	}
	return states.Switched{Generations: w.Generations(), Code: res.Code, TimedOut: res.TimedOut, FailedUnits: failed, Message: res.Output}
}
