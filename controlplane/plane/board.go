// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// posting is what a rollout has decided about a machine: its assignment, and
// the rollout's row. What that means for the agent at a moment is the engine's
// to say (rollout.OrdersFor), so that planning and serving agree (H18).
type posting struct {
	assignment fleet.Assignment
	rollout    fleet.Rollout
}

// board shows each machine its posting and wakes who waits for another one.
type board struct {
	mu       sync.Mutex
	postings map[fleet.MachineID]posting
	waiters  map[fleet.MachineID]chan struct{}
}

func newBoard() *board {
	return &board{postings: map[fleet.MachineID]posting{}, waiters: map[fleet.MachineID]chan struct{}{}}
}

// post shows a machine another posting and wakes it.
func (b *board) post(id fleet.MachineID, v posting) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.postings[id] = v
	b.wake(id)
}

// clear takes a machine's posting down and wakes it.
func (b *board) clear(id fleet.MachineID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.postings, id)
	b.wake(id)
}

func (b *board) wake(id fleet.MachineID) {
	if c, ok := b.waiters[id]; ok {
		close(c)
		delete(b.waiters, id)
	}
}

// wakeOne makes a machine's long poll look again.
func (b *board) wakeOne(id fleet.MachineID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake(id)
}

// wakeAll makes every long poll look again.
func (b *board) wakeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.waiters {
		b.wake(id)
	}
}

// look returns a machine's posting, and a channel that is closed when it may
// have changed.
func (b *board) look(id fleet.MachineID) (posting, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.waiters[id]
	if !ok {
		c = make(chan struct{})
		b.waiters[id] = c
	}
	return b.postings[id], c
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

// bell wakes all who wait for something to happen.
type bell struct {
	mu *sync.Mutex
	c  *chan struct{}
}

func newBell() bell {
	c := make(chan struct{})
	return bell{mu: new(sync.Mutex), c: &c}
}

func (b bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.c
}

func (b bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(*b.c)
	*b.c = make(chan struct{})
}
