// SPDX-License-Identifier: MIT

package states

import "github.com/arcanesys/nixfleet/fleet"

// Orders are what the control plane asks for at one time.
type Orders struct {
	Apply     *fleet.Order
	Revert    *fleet.Order
	Prefetch  fleet.Digest          // a release that may be applied soon
	Documents fleet.DocumentDigests // the trust documents that are in force
	Grants    []fleet.Digest        // for this machine, in force too
}

// Pick returns the order to carry out next, if any. A revert comes first.
func (o Orders) Pick(j Journal) (Order, bool) {
	if r, ok := o.revert(); ok && !j.Did(r) {
		return r, true
	}
	if a, ok := o.apply(); ok && !j.Did(a) {
		return a, true
	}
	return Order{}, false
}

// First returns the order that comes first, even if it was carried out already.
func (o Orders) First() (Order, bool) {
	if r, ok := o.revert(); ok {
		return r, true
	}
	return o.apply()
}

func (o Orders) revert() (Order, bool) {
	if o.Revert == nil {
		return Order{}, false
	}
	return Order{Kind: Revert, Order: fleet.Order{Digest: o.Revert.Digest, Rollout: o.Revert.Rollout, Attempt: o.Revert.Attempt}}, true
}

func (o Orders) apply() (Order, bool) {
	if o.Apply == nil {
		return Order{}, false
	}
	return Order{Kind: Apply, Order: *o.Apply}, true
}

// Interrupt returns what the orders mean for the attempt under way, if
// anything.
func (o Orders) Interrupt(j Journal) (Input, bool) {
	if r, ok := o.revert(); ok && !j.Did(r) {
		if r.Digest == j.Work.Order.Digest && j.Work.Order.Kind == Apply {
			switch j.Step {
			case Judge, Fetch, Prepare:
				return Withdrawn{}, true
			}
			return Ordered{Order: r}, true
		}
	}
	if j.Work.Order.Kind != Apply {
		return nil, false
	}
	if a, ok := o.apply(); !ok || a.Key() != j.Work.Order.Key() {
		return Withdrawn{}, true // has an effect only before anything was switched
	}
	return nil, false
}
