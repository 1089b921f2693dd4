// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// heldGraceMs is for how long a machine is there after its check-in was held.
	heldGraceMs = 20_000
	// unknownPollMs is the interval of an agent that announces none, as those of the
	// version before: their default.
	unknownPollMs = 60_000
	longestPollMs = 24 * hourMs
	// reconnectMs is for how long after its start the control plane does not call
	// machines offline that were there when it last ran.
	reconnectMs = 60_000
)

// contact says whether a machine is there. Times are running time.
type contact struct {
	seen  int64 // last heard of
	grace int64 // for how long it is there after that
	held  int   // check-ins of it that are held now
}

func (c contact) there(run int64) bool { return c.held > 0 || c.seen > 0 && run-c.seen <= c.grace }

// graceOf is for how long a machine is there after a check-in of which it says for
// how long it may be held, and how long it waits until the next if it is not.
func graceOf(waitMs, pollMs int64) int64 {
	if waitMs > 0 {
		return heldGraceMs
	}
	if pollMs <= 0 {
		pollMs = unknownPollMs
	}
	return max(heldGraceMs, min(pollMs, longestPollMs)*5/2)
}

// CheckedIn notes a machine's check-in; waitMs and pollMs are what it announces. It
// returns the machine, and whether it was offline until now; false for a machine
// that is not known.
func (v *Inventory) CheckedIn(id fleet.MachineID, now rollout.Moment, waitMs, pollMs int64) (m fleet.Machine, wasOffline, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.here[id]
	wasOffline = !c.there(now.Run)
	c.grace = graceOf(waitMs, pollMs)
	m, known = v.heard(id, now, c)
	return m, wasOffline && known, known
}

// Heard notes that a machine was heard of in another way.
func (v *Inventory) Heard(id fleet.MachineID, now rollout.Moment) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.here[id]
	c.grace = max(c.grace, heldGraceMs)
	v.heard(id, now, c)
}

// Hold notes that a machine's check-in is held from now on, or no longer: by is 1
// or -1.
func (v *Inventory) Hold(id fleet.MachineID, now rollout.Moment, by int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.here[id]
	c.held += by
	v.heard(id, now, c)
}

func (v *Inventory) heard(id fleet.MachineID, now rollout.Moment, c contact) (fleet.Machine, bool) {
	m, known := v.machines[id]
	if !known {
		return m, false
	}
	c.seen = now.Run
	v.here[id] = c
	m.LastContact = max(now.Wall, m.LastContact)
	v.machines[id] = m
	v.contacts[id] = m.LastContact
	return m, true
}

// Online reports whether a machine is there (fleet.Machine.Offline), and the running
// time at which it was last; 0 if not since the start.
func (v *Inventory) Online(id fleet.MachineID, run int64) (online bool, seen int64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.online(id, run)
}

func (v *Inventory) online(id fleet.MachineID, run int64) (online bool, seen int64) {
	c := v.here[id]
	if c.held > 0 {
		return true, run
	}
	return c.there(run), c.seen
}

// Shown is a machine's row as operators are shown it: of one that is not there, it
// is not known whether it is healthy still. After a start machines have a minute to
// connect again.
func (v *Inventory) Shown(m fleet.Machine, run int64) fleet.Machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.shown(m, run)
}

func (v *Inventory) shown(m fleet.Machine, run int64) fleet.Machine {
	online, _ := v.online(m.ID, run)
	if c := v.here[m.ID]; c.seen == 0 && run-v.began.Run <= reconnectMs {
		online = m.LastContact > 0 && m.LastContact >= v.began.Wall-contactsEvery.Milliseconds()
	}
	if m.Offline = !online; m.Offline && m.Health == fleet.Healthy {
		m.Health = fleet.HealthPending
	}
	return m
}
