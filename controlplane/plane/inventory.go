// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"slices"
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
)

// inventory has every machine's row in memory, with the last contact that may
// not be written yet. Rows come in after their write was committed.
type inventory struct {
	mu       sync.RWMutex
	machines map[fleet.MachineID]fleet.Machine
	ids      []fleet.MachineID // sorted
	// contacts are the last contacts that are not in the store yet.
	contacts map[fleet.MachineID]int64
}

func newInventory() *inventory {
	return &inventory{machines: map[fleet.MachineID]fleet.Machine{}, contacts: map[fleet.MachineID]int64{}}
}

func (p *Plane) loadMachines(ctx context.Context) error {
	machines, err := p.st.Machines(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines {
		p.inventory.put(m)
	}
	return nil
}

// machine returns a machine's row, without Desired.
func (v *inventory) machine(id fleet.MachineID) (fleet.Machine, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	m, ok := v.machines[id]
	return m, ok
}

// put takes in what operators set of a machine; a new machine comes in whole.
func (v *inventory) put(m fleet.Machine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	have, ok := v.machines[m.ID]
	if !ok {
		i, _ := slices.BinarySearch(v.ids, m.ID)
		v.ids = slices.Insert(v.ids, i, m.ID)
		v.machines[m.ID] = m
		return
	}
	have.Lifecycle, have.EnrolledAt, have.Version = m.Lifecycle, m.EnrolledAt, m.Version
	have.Tags = fleet.NewTags(have.Tags.Signed, m.Tags.Operator)
	v.machines[m.ID] = have
}

// putStatus takes in what an agent said of its machine.
func (v *inventory) putStatus(m fleet.Machine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	have, ok := v.machines[m.ID]
	if !ok {
		return
	}
	m.Lifecycle, m.EnrolledAt, m.Version, m.CreatedAt = have.Lifecycle, have.EnrolledAt, have.Version, have.CreatedAt
	m.Tags = fleet.NewTags(m.Tags.Signed, have.Tags.Operator)
	m.LastContact = max(m.LastContact, have.LastContact)
	v.machines[m.ID] = m
}

// touch notes a sign of life and returns the machine, and when it gave the
// last one before; false for a machine that is not known.
func (v *inventory) touch(id fleet.MachineID, at int64) (m fleet.Machine, before int64, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m, ok = v.machines[id]; !ok {
		return m, 0, false
	}
	before = m.LastContact
	m.LastContact = max(at, before)
	v.machines[id] = m
	v.contacts[id] = m.LastContact
	return m, before, true
}

// takeContacts hands over the contacts to write.
func (v *inventory) takeContacts() map[fleet.MachineID]int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.contacts
	v.contacts = map[fleet.MachineID]int64{}
	return c
}

// all returns every machine by id.
func (v *inventory) all() []fleet.Machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]fleet.Machine, len(v.ids))
	for i, id := range v.ids {
		out[i] = v.machines[id]
	}
	return out
}

// page returns at most limit machines after an id that match, by id.
func (v *inventory) page(after fleet.MachineID, limit int, match func(fleet.Machine) bool) []fleet.Machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := []fleet.Machine{}
	i, found := slices.BinarySearch(v.ids, after)
	if found {
		i++
	}
	for ; i < len(v.ids) && len(out) < limit; i++ {
		if m := v.machines[v.ids[i]]; match(m) {
			out = append(out, m)
		}
	}
	return out
}

// offlineAfterMs is when a machine counts as offline: three polls missed.
func (p *Plane) offlineAfterMs() int64 {
	return 3000 * int64(max(p.conf.PollSeconds, p.conf.WaitSeconds))
}

func (p *Plane) online(m fleet.Machine, now int64) bool {
	return m.LastContact > 0 && now-m.LastContact <= p.offlineAfterMs()
}
