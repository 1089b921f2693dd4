// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// bootGrace is how long a machine may take from its boot to its agent.
const bootGrace = 60.0

// arm orders the watchdog to roll back unless it is disarmed in time. For a staged
// system only a later boot counts.
func (m *Machine) arm(_ context.Context, j states.Journal) states.Input {
	work := j.Work
	if err := nix.SetRoot(nix.RootsDir, "previous", work.Previous.Path); err != nil {
		return done(err, fleet.ReasonDiskFull)
	}
	o := disk.Watch{
		Previous: work.Previous.Path, Unit: fmt.Sprintf("nixfleet-switch-%d-watchdog", work.Began.WallMs),
		BootID: work.BootID, Deadline: work.WatchUntil, AfterBoot: bootGrace + work.Confirm + states.WatchMargin(work.Confirm),
	}
	if work.Action == states.ActionBoot {
		o.Deadline = 0
	}
	return done(m.dir().Watch().Write(o), fleet.ReasonDiskFull)
}

// disarm removes the watchdog's orders.
func (m *Machine) disarm(context.Context, states.Journal) states.Input {
	return done(m.dir().Watch().Remove(), fleet.ReasonDiskFull)
}

// rearm moves the watchdog's deadline by the time that a rollback takes.
func (m *Machine) rearm(j states.Journal) {
	o, armed, err := m.dir().Watch().Read()
	if err != nil || !armed || o.Fired {
		return
	}
	now := m.Now()
	o.BootID, o.Deadline = now.BootID, now.Boot+2*j.Work.SwitchLimit()+states.WatchMargin(60)
	if err := m.dir().Watch().Write(o); err != nil {
		m.log.Error("the watchdog's deadline cannot be moved", "error", err)
	}
}
