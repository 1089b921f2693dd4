// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// currentAssignment is what a rollout has decided about a machine: its assignment, and
// the rollout's row. What that means for the agent at a moment is the engine's
// to say (rollout.OrdersFor), so that planning and serving agree (H18).
type currentAssignment struct {
	assignment fleet.Assignment
	rollout    fleet.Rollout
}

// presence shows each machine its posting and wakes who waits for another one.
type presence struct {
	mu      sync.Mutex
	current map[fleet.MachineID]currentAssignment
	waiters map[fleet.MachineID]chan struct{}
}

func newPresence() *presence {
	return &presence{current: map[fleet.MachineID]currentAssignment{}, waiters: map[fleet.MachineID]chan struct{}{}}
}

// post shows a machine another posting and wakes it.
func (b *presence) post(id fleet.MachineID, v currentAssignment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current[id] = v
	b.wake(id)
}

// clear takes a machine's posting down and wakes it.
func (b *presence) clear(id fleet.MachineID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.current, id)
	b.wake(id)
}

func (b *presence) wake(id fleet.MachineID) {
	if c, ok := b.waiters[id]; ok {
		close(c)
		delete(b.waiters, id)
	}
}

// wakeOne makes a machine's long poll look again.
func (b *presence) wakeOne(id fleet.MachineID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake(id)
}

// wakeAll makes every long poll look again.
func (b *presence) wakeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.waiters {
		b.wake(id)
	}
}

// look returns a machine's posting, and a channel that is closed when it may
// have changed.
func (b *presence) look(id fleet.MachineID) (currentAssignment, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.waiters[id]
	if !ok {
		c = make(chan struct{})
		b.waiters[id] = c
	}
	return b.current[id], c
}

// etag names what an agent acts on: not the epoch, nor how much time is left.
func etag(o api.Orders) (string, error) {
	o.Epoch = ""
	if o.Apply != nil {
		apply := *o.Apply
		apply.DeadlineMs = 0
		o.Apply = &apply
	}
	b, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("encode orders: %w", err)
	}
	return fleet.SHA256(b).Short(), nil
}

// notifier wakes all who wait for something to happen.
type notifier struct {
	mu *sync.Mutex
	c  *chan struct{}
}

func newNotifier() notifier {
	c := make(chan struct{})
	return notifier{mu: new(sync.Mutex), c: &c}
}

func (b notifier) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.c
}

func (b notifier) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(*b.c)
	*b.c = make(chan struct{})
}
