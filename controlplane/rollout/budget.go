// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// budgetRecheck is how often a rollout that a budget holds back is looked at: a
// machine may have become healthy without any rollout's doing.
const budgetRecheck = 10 * 1000

// Budget is a disruption budget as it stands at one moment.
type Budget struct {
	Name  string
	Limit int
	// Disrupted are the machines that count, of all rollouts, and why each does.
	Disrupted map[fleet.MachineID]string
}

// full says why no machine beside those that are disrupted may begin, "" if one
// may. Begun are more that count already.
func (b *Budget) full(begun int) string {
	if len(b.Disrupted)+begun < b.Limit {
		return ""
	}
	return fmt.Sprintf("budget %s: %d machines are at work, unhealthy, offline or in maintenance, %d may be", b.Name, len(b.Disrupted)+begun, b.Limit)
}

// allows reports whether a machine may begin by all of its budgets, and counts it
// then. One that is disrupted already may: it makes nothing worse, and the release
// may mend it.
func (st *step) allows(id fleet.MachineID) bool {
	if st.world.Budgets == nil {
		return true
	}
	mine := st.world.Budgets(id)
	for _, b := range mine {
		if b.Disrupted[id] == "" && !st.begun[b.Name][id] {
			if why := b.full(len(st.begun[b.Name])); why != "" {
				st.overBudget = orElse(st.overBudget, why)
				return false
			}
		}
	}
	for _, b := range mine {
		if b.Disrupted[id] == "" {
			if st.begun[b.Name] == nil {
				st.begun[b.Name] = map[fleet.MachineID]bool{}
			}
			st.begun[b.Name][id] = true
		}
	}
	return true
}

// whyBudget says which budget holds a pending machine back, "" for none.
func whyBudget(id fleet.MachineID, w World) string {
	if w.Budgets == nil {
		return ""
	}
	for _, b := range w.Budgets(id) {
		if b.Disrupted[id] == "" {
			if why := b.full(0); why != "" {
				return why
			}
		}
	}
	return ""
}
