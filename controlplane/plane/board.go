// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"encoding/json"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// task is what a rollout wants of a machine now.
type task struct {
	prefetch fleet.Digest
	apply    *api.ApplyOrder // without DeadlineMs
	revert   *api.RevertOrder
	deadline int64 // of the attempt, Unix milliseconds; 0: none
}

// taskOf derives a machine's task from its assignment. It is the one place
// that turns what the engine decided into what an agent is told (H18).
func taskOf(r fleet.Rollout, a fleet.Assignment) task {
	switch {
	case a.State.InFlight():
		return task{deadline: a.Deadline, apply: &api.ApplyOrder{
			Digest: a.Digest, Rollout: a.Rollout, Attempt: a.Attempt, MinHealthyMs: r.Spec.MinHealthyMs,
		}}
	case a.State == fleet.AssignReverting:
		return task{revert: &api.RevertOrder{Digest: a.Digest, Rollout: a.Rollout, Attempt: a.Attempt}}
	case a.State == fleet.AssignPending && r.State == fleet.RolloutRunning && a.Batch <= r.Batch+1:
		return task{prefetch: a.Digest}
	}
	return task{}
}

func (t task) empty() bool { return t.prefetch == "" && t.apply == nil && t.revert == nil }

// board shows each machine its task and wakes who waits for another one.
type board struct {
	mu      sync.Mutex
	tasks   map[fleet.MachineID]task
	waiters map[fleet.MachineID]chan struct{}
}

func newBoard() *board {
	return &board{tasks: map[fleet.MachineID]task{}, waiters: map[fleet.MachineID]chan struct{}{}}
}

// post shows a machine another task and wakes it.
func (b *board) post(id fleet.MachineID, t task) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.empty() {
		delete(b.tasks, id)
	} else {
		b.tasks[id] = t
	}
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

// look returns a machine's task, and a channel that is closed when it may have
// changed.
func (b *board) look(id fleet.MachineID) (task, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.waiters[id]
	if !ok {
		c = make(chan struct{})
		b.waiters[id] = c
	}
	return b.tasks[id], c
}

// orders puts a task into the words of the contract. The etag covers what an
// agent acts on: not the epoch, nor how much time is left.
func orders(t task, documents api.Documents, pollMs, waitMs, now int64) (api.Orders, error) {
	o := api.Orders{Prefetch: t.prefetch, Revert: t.revert, Documents: documents, PollAfterMs: pollMs, WaitMs: waitMs}
	if t.apply != nil {
		apply := *t.apply
		o.Apply = &apply
	}
	b, err := json.Marshal(o)
	if err != nil {
		return api.Orders{}, err
	}
	o.Etag = fleet.SHA256(b).Short()
	if o.Apply != nil && t.deadline > 0 {
		o.Apply.DeadlineMs = max(1, t.deadline-now)
	}
	return o, nil
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
