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
	end  context.CancelCauseFunc
	done chan struct{}
}

func newCalls() *calls { return &calls{at: map[callKind]*call{}} }

// begin ends the older call of the same kind and waits for its end, so that
// what both take is never taken twice. The context ends with ctx, or with cause
// plane.ErrNewer when a newer call begins. The caller calls done once.
func (c *calls) begin(ctx context.Context, m fleet.MachineID, operation string) (_ context.Context, done func()) {
	kind := callKind{m, operation}
	ctx, end := context.WithCancelCause(ctx)
	mine := &call{end: end, done: make(chan struct{})}
	c.mu.Lock()
	older := c.at[kind]
	c.at[kind] = mine
	c.mu.Unlock()
	if older != nil {
		older.end(plane.ErrNewer)
		select {
		case <-older.done:
		case <-ctx.Done():
		}
	}
	return ctx, func() {
		c.mu.Lock()
		if c.at[kind] == mine {
			delete(c.at, kind)
		}
		c.mu.Unlock()
		end(nil)
		close(mine.done)
	}
}
