// SPDX-License-Identifier: MIT

package agent

import (
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// orders are the last orders that the control plane gave. Without one they
// stand as they are.
type orders struct {
	mu   sync.Mutex
	last api.Orders
	any  bool
	wake chan struct{}
}

func newOrders() *orders { return &orders{wake: make(chan struct{}, 1)} }

func (o *orders) set(v api.Orders) {
	o.mu.Lock()
	o.last, o.any = v, true
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *orders) get() (api.Orders, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.any
}

// pick returns the order to carry out, if there is one that was not: going
// back comes first.
func pick(v api.Orders, j states.Journal) (states.Order, bool) {
	if o, ok := revertOrder(v); ok && !j.Did(o) {
		return o, true
	}
	if o, ok := applyOrder(v); ok && !j.Did(o) {
		return o, true
	}
	return states.Order{}, false
}

func revertOrder(v api.Orders) (states.Order, bool) {
	if v.Revert == nil {
		return states.Order{}, false
	}
	return states.Order{Kind: states.Revert, Order: fleet.Order{Digest: v.Revert.Digest, Rollout: v.Revert.Rollout, Attempt: v.Revert.Attempt}}, true
}

func applyOrder(v api.Orders) (states.Order, bool) {
	if v.Apply == nil {
		return states.Order{}, false
	}
	return states.Order{Kind: states.Apply, Order: *v.Apply}, true
}

// interrupts tells what the present orders mean for the one at work.
func interrupts(v api.Orders, j states.Journal) (states.Input, bool) {
	if o, ok := revertOrder(v); ok && !j.Did(o) {
		if o.Digest == j.Work.Order.Digest && j.Work.Order.Kind == states.Apply {
			switch j.Step {
			case states.Judge, states.Fetch, states.Prepare:
				return states.Withdrawn{}, true
			}
			return states.Ordered{Order: o}, true
		}
	}
	if j.Work.Order.Kind != states.Apply {
		return nil, false
	}
	if o, ok := applyOrder(v); !ok || o.Key() != j.Work.Order.Key() {
		return states.Withdrawn{}, true // means something only before anything was switched
	}
	return nil, false
}
