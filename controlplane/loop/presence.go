// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"maps"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// CurrentAssignment is a machine's assignment in the rollout that claims it,
// and that rollout's row; zero for none.
type CurrentAssignment struct {
	assignment fleet.Assignment
	rollout    fleet.Rollout
}

// Orders is what the machine may do at now. The engine says so, so that
// planning and serving agree (H18).
func (c CurrentAssignment) Orders(now int64) api.Orders {
	return rollout.OrdersFor(c.assignment, c.rollout, now)
}

// Presence holds what each machine's orders derive from, and wakes the
// machine's long poll when that changes.
type Presence struct {
	mu      sync.Mutex
	current map[fleet.MachineID]CurrentAssignment
	wakers  map[fleet.MachineID]Waker
}

// Waker is told once that a machine's orders may have changed. Wake must not block.
type Waker interface{ Wake() }

func newPresence() *Presence {
	return &Presence{current: map[fleet.MachineID]CurrentAssignment{}, wakers: map[fleet.MachineID]Waker{}}
}

// set gives a machine another assignment and wakes it.
func (p *Presence) set(id fleet.MachineID, c CurrentAssignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current[id] = c
	p.wakeLocked(id)
}

// clear takes a machine's assignment away and wakes it.
func (p *Presence) clear(id fleet.MachineID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.current, id)
	p.wakeLocked(id)
}

func (p *Presence) wakeLocked(id fleet.MachineID) {
	if w, ok := p.wakers[id]; ok {
		delete(p.wakers, id)
		w.Wake()
	}
}

// wake makes a machine's long poll look again.
func (p *Presence) wake(id fleet.MachineID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked(id)
}

// WakeAll makes every long poll look again.
func (p *Presence) WakeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.wakers {
		p.wakeLocked(id)
	}
}

// Assignment is a machine's assignment; zero for none.
func (p *Presence) Assignment(id fleet.MachineID) CurrentAssignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current[id]
}

// Watch returns a machine's assignment, and has w woken when it, or something else
// that orders derive from, may have changed. It takes the place of an earlier Waker
// of the machine.
func (p *Presence) Watch(id fleet.MachineID, w Waker) CurrentAssignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakers[id] = w
	return p.current[id]
}

// Unwatch lets go of w.
func (p *Presence) Unwatch(id fleet.MachineID, w Waker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wakers[id] == w {
		delete(p.wakers, id)
	}
}

// all returns the assignments that machines have.
func (p *Presence) all() map[fleet.MachineID]CurrentAssignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.current)
}
