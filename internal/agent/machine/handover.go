// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"os"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// askGrace is how long to wait after a failed request to end this process. The
// service manager also ends the program that made the request, which may fail
// before the agent itself is ended.
const askGrace = 2 * time.Second

// handOver sets the watchdog's final deadline and hands over to the new system's
// agent.
func (m *Machine) handOver(ctx context.Context, j states.Journal) states.Input {
	if o, armed, err := m.dir().Watch().Read(); err == nil && armed && !o.Fired {
		o.BootID = j.Work.BootID
		o.Deadline = j.Work.ConfirmUntil + states.WatchMargin(j.Work.Confirm)
		if err := m.dir().Watch().Write(o); err != nil {
			m.log.Error("the watchdog's deadline cannot be set", "error", err)
		}
	}
	left := time.Duration((j.Work.ConfirmUntil - m.Now().Boot) * float64(time.Second))
	return m.replace(ctx, left)
}

// rollbackHandOver hands over to the previous system's agent.
func (m *Machine) rollbackHandOver(ctx context.Context, _ states.Journal) states.Input {
	return m.replace(ctx, replaceLimit)
}

// replaceLimit is how long another agent may take to start.
const replaceLimit = 30 * time.Second

// replace has the service manager restart the agent with the program and the
// configuration that the running system declares, unless this process has both.
func (m *Machine) replace(ctx context.Context, limit time.Duration) states.Input {
	next, mine, err := m.Supervisor.Successor(ctx)
	if err != nil {
		m.log.Warn("the agent's service cannot be read", "error", err)
	}
	text, err := os.ReadFile(m.ConfigFile)
	changed := err == nil && string(text) != string(m.ConfigText)
	if !mine || !next && !changed {
		return states.Done{}
	}
	m.log.Info("handing over to the agent of the system that runs")
	if err := m.Supervisor.RestartAgent(ctx); err != nil && wait.For(ctx, askGrace) {
		return states.Failed{Reason: fleet.ReasonWatchdog, Message: err.Error()}
	}
	if !wait.For(ctx, max(limit, time.Second)) {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonWatchdog, Message: "the running system's agent did not start in time"}
}
