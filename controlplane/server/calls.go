// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"sync"

	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/fleet"
)

// calls has the agents' calls that are being served: of each machine one of a
// kind. A newer one ends the older: its agent has given it up, or never was an
// agent of ours.
type calls struct {
	mu sync.Mutex
	at map[callKind]*call
}

type callKind struct {
	machine   fleet.MachineID
	operation string
}

type call struct {
	end        func(cause error) // called with calls.mu held; must not block
	handedOver bool              // another than the handler calls finish; guarded by calls.mu
	done       chan struct{}
}

func newCalls() *calls { return &calls{at: map[callKind]*call{}} }

// begin ends the older call of the same kind and waits for its end, so that
// what both take is never taken twice. The context ends with ctx, or with cause
// plane.ErrNewer when a newer call begins. The caller calls done once; the call goes
// on after that if it was handed over.
func (c *calls) begin(ctx context.Context, m fleet.MachineID, operation string) (_ context.Context, done func()) {
	kind := callKind{m, operation}
	ctx, end := context.WithCancelCause(ctx)
	mine := &call{end: end, done: make(chan struct{})}
	c.mu.Lock()
	older := c.at[kind]
	c.at[kind] = mine
	if older != nil {
		older.end(plane.ErrNewer)
	}
	c.mu.Unlock()
	if older != nil {
		select {
		case <-older.done:
		case <-ctx.Done():
		}
	}
	return context.WithValue(ctx, callKey{}, mine), func() {
		c.mu.Lock()
		handedOver := mine.handedOver
		c.mu.Unlock()
		if !handedOver {
			c.finish(kind, mine)
		}
		end(nil)
	}
}

type callKey struct{}

// handOver makes what serves the call of ctx from now on end with end, and returns
// what is to be called when it has. The context no longer matters.
func (c *calls) handOver(ctx context.Context, m fleet.MachineID, operation string, end func(error)) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine, _ := ctx.Value(callKey{}).(*call)
	mine.handedOver = true
	mine.end = end
	if ctx.Err() != nil {
		end(context.Cause(ctx))
	}
	return func() { c.finish(callKind{m, operation}, mine) }
}

func (c *calls) finish(kind callKind, mine *call) {
	c.mu.Lock()
	if c.at[kind] == mine {
		delete(c.at, kind)
	}
	c.mu.Unlock()
	close(mine.done)
}
