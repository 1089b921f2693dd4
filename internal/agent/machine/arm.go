// SPDX-License-Identifier: MIT

package machine

import (
	"fmt"

	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// bootGrace is how long a machine may take from its boot to its agent.
const bootGrace = 60.0

// arm orders the watchdog to go back unless it is told otherwise. For a system
// that is staged only a later boot counts.
func (m *Machine) arm(j states.Journal) error {
	work := j.Work
	if err := nix.SetRoot(nix.RootsDir, "previous", work.Previous.Path); err != nil {
		return err
	}
	o := disk.Watch{
		Previous: work.Previous.Path, Unit: fmt.Sprintf("nixfleet-switch-%d-watchdog", work.Began.WallMs),
		BootID: work.BootID, Deadline: work.WatchUntil, AfterBoot: bootGrace + work.Confirm + states.WatchMargin(work.Confirm),
	}
	if work.Action == states.ActionBoot {
		o.Deadline = 0
	}
	return m.watch.Write(o)
}

// rearm gives the watchdog as much time again as going back takes.
func (m *Machine) rearm(j states.Journal) {
	o, armed, err := m.watch.Read()
	if err != nil || !armed || o.Fired {
		return
	}
	now := m.Now()
	o.BootID, o.Deadline = now.BootID, now.Boot+2*j.Work.SwitchLimit()+states.WatchMargin(60)
	if err := m.watch.Write(o); err != nil {
		m.log.Error("the watchdog cannot be given more time", "error", err)
	}
}
