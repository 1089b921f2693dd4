// SPDX-License-Identifier: AGPL-3.0-only

// Package calls has the agents' calls that are being served, so that a machine makes
// one of a kind at a time.
//
// It serves none, and knows no transport.
package calls

import (
	"context"
	"errors"
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
)

// ErrNewer is the cause of a context that ends because the machine has made a
// newer call of the same kind. A check-in that it ends is answered at once.
var ErrNewer = errors.New("the machine has made a newer call of this kind")

// Calls are the agents' calls that are being served: of each machine one of a
// kind. A newer one ends the older: its agent has given it up, or never was an
// agent of ours.
type Calls struct {
	mu sync.Mutex
	at map[callKind]*call
}

type callKind struct {
	machine   fleet.MachineID
	operation string
}

type call struct {
	end        func(cause error) // called with Calls.mu held; must not block
	handedOver bool              // another than the handler calls finish; guarded by Calls.mu
	done       chan struct{}
}

// New returns none.
func New() *Calls { return &Calls{at: map[callKind]*call{}} }

// Begin ends the older call of the same kind and waits for its end, so that
// what both take is never taken twice. The context ends with ctx, or with cause
// ErrNewer when a newer call begins. The caller calls done once; the call goes
// on after that if it was handed over.
func (c *Calls) Begin(ctx context.Context, m fleet.MachineID, operation string) (_ context.Context, done func()) {
	kind := callKind{m, operation}
	ctx, end := context.WithCancelCause(ctx)
	mine := &call{end: end, done: make(chan struct{})}
	c.mu.Lock()
	older := c.at[kind]
	c.at[kind] = mine
	if older != nil {
		older.end(ErrNewer)
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

// HandOver makes what serves the call of ctx from now on end with end, and returns
// what is to be called when it has. The context no longer matters.
func (c *Calls) HandOver(ctx context.Context, m fleet.MachineID, operation string, end func(error)) (done func()) {
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

func (c *Calls) finish(kind callKind, mine *call) {
	c.mu.Lock()
	if c.at[kind] == mine {
		delete(c.at, kind)
	}
	c.mu.Unlock()
	close(mine.done)
}
