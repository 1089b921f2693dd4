// SPDX-License-Identifier: MIT

package agent

import (
	"sync"

	"github.com/arcanesys/nixfleet/api"
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

// present are the orders in the agent's own terms.
func (o *orders) present() (states.Orders, bool) {
	v, given := o.get()
	return states.Orders{Apply: v.Apply, Revert: v.Revert, Prefetch: v.Prefetch, Documents: v.Documents}, given
}
