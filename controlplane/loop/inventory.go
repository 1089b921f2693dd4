// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"slices"
	"sync"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// Inventory has every machine's row in memory, with the last contact that may
// not be written yet. A row is taken in after its write was committed.
type Inventory struct {
	mu       sync.RWMutex
	machines map[fleet.MachineID]fleet.Machine
	ids      []fleet.MachineID // sorted
	// rests are what machines should run while no rollout claims them.
	rests map[fleet.MachineID]*fleet.Desired
	// contacts are the last contacts that are not in the store yet.
	contacts map[fleet.MachineID]int64
	// here says of the machines that were heard of since the start whether they are
	// there.
	here map[fleet.MachineID]contact
	// began is what both clocks said when the control plane last ran before.
	began rollout.Moment
}

// newInventory takes in the machines of the store; began is what both clocks said
// when the control plane last ran.
func newInventory(machines []fleet.Machine, began rollout.Moment) *Inventory {
	v := &Inventory{
		began:    began,
		machines: make(map[fleet.MachineID]fleet.Machine, len(machines)), contacts: map[fleet.MachineID]int64{},
		rests: map[fleet.MachineID]*fleet.Desired{}, here: map[fleet.MachineID]contact{},
	}
	for _, m := range machines {
		v.rest(m.ID, m.Desired)
		m.Desired = nil
		v.put(m)
	}
	return v
}

// Machine returns a machine's row, without Desired.
func (v *Inventory) Machine(id fleet.MachineID) (fleet.Machine, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	m, ok := v.machines[id]
	return m, ok
}

// put takes in what operators set of a machine, and the tags of its signed
// entry; a new machine comes in whole.
func (v *Inventory) put(m fleet.Machine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	have, ok := v.machines[m.ID]
	if !ok {
		i, _ := slices.BinarySearch(v.ids, m.ID)
		v.ids = slices.Insert(v.ids, i, m.ID)
		v.machines[m.ID] = m
		return
	}
	have.Lifecycle, have.Key, have.EvidenceKey, have.EnrolledAt, have.Version = m.Lifecycle, m.Key, m.EvidenceKey, m.EnrolledAt, m.Version
	have.Tags = m.Tags
	v.machines[m.ID] = have
}

// remove forgets a machine.
func (v *Inventory) remove(id fleet.MachineID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i, found := slices.BinarySearch(v.ids, id); found {
		v.ids = slices.Delete(v.ids, i, i+1)
	}
	delete(v.machines, id)
	delete(v.rests, id)
	delete(v.contacts, id)
	delete(v.here, id)
}

// rest takes in what a machine should run while no rollout claims it; nil for
// nothing.
func (v *Inventory) rest(id fleet.MachineID, d *fleet.Desired) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d == nil {
		delete(v.rests, id)
		return
	}
	v.rests[id] = d
}

// resting is what a machine should run while no rollout claims it; nil for
// nothing.
func (v *Inventory) resting(id fleet.MachineID) *fleet.Desired {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.rests[id]
}

// PutStatus takes in what an agent says of its machine.
func (v *Inventory) PutStatus(m fleet.Machine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	have, ok := v.machines[m.ID]
	if !ok {
		return
	}
	m.Lifecycle, m.Key, m.EvidenceKey, m.EnrolledAt = have.Lifecycle, have.Key, have.EvidenceKey, have.EnrolledAt
	m.Version, m.CreatedAt = have.Version, have.CreatedAt
	m.Tags = have.Tags
	m.LastContact = max(m.LastContact, have.LastContact)
	v.machines[m.ID] = m
}

// takeContacts hands over the contacts to write. Those that could not be written
// are for keepContacts.
func (v *Inventory) takeContacts() map[fleet.MachineID]int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.contacts
	v.contacts = map[fleet.MachineID]int64{}
	return c
}

// keepContacts takes in contacts that are still to write, unless there are later
// ones.
func (v *Inventory) keepContacts(c map[fleet.MachineID]int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, at := range c {
		v.contacts[id] = max(v.contacts[id], at)
	}
}

// Machines returns every machine by id, without Desired and Offline.
func (v *Inventory) Machines() []fleet.Machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]fleet.Machine, len(v.ids))
	for i, id := range v.ids {
		out[i] = v.machines[id]
	}
	return out
}

// Each calls f with every machine by id, as Shown has them, without a copy of the
// list; f must not use the inventory.
func (v *Inventory) Each(run int64, f func(fleet.Machine)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, id := range v.ids {
		f(v.shown(v.machines[id], run))
	}
}

// Select returns at most limit machines after an id that match, by id, as Shown has
// them.
func (v *Inventory) Select(after fleet.MachineID, limit int, run int64, match func(fleet.Machine) bool) []fleet.Machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := []fleet.Machine{}
	i, found := slices.BinarySearch(v.ids, after)
	if found {
		i++
	}
	for ; i < len(v.ids) && len(out) < limit; i++ {
		if m := v.shown(v.machines[v.ids[i]], run); match(m) {
			out = append(out, m)
		}
	}
	return out
}
