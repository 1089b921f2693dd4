// SPDX-License-Identifier: MIT

package inventory

import (
	"fmt"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
)

// Columns is the header of Row.
const Columns = "ADDRESS UP DISK-FREE KERNEL AGENT-VERSION"

// Row is what a machine says of itself, as columns of a table.
func Row(m fleet.Machine, now time.Time) []string {
	var v fleet.Inventory
	if m.Inventory != nil {
		v = *m.Inventory
	}
	free := "-"
	if v.DiskFree > 0 {
		free = fmt.Sprintf("%.1fGiB", float64(v.DiskFree)/(1<<30))
	}
	return []string{view.Dash(v.Address), uptime(v, now), free, view.Dash(v.Kernel), view.Dash(m.AgentVersion)}
}

// uptime shows for how long a machine has been up, by its own clock.
func uptime(v fleet.Inventory, now time.Time) string {
	if v.BootedAt == 0 {
		return "-"
	}
	d := max(0, now.Sub(time.UnixMilli(v.BootedAt)))
	if d < 24*time.Hour {
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
