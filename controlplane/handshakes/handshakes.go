// SPDX-License-Identifier: AGPL-3.0-only

// Package handshakes slows down who makes TLS handshakes and no requests. A handshake
// costs more than what follows it, and whoever makes it shows who he is only at its
// end.
//
// It never looks at who somebody is.
package handshakes

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/arcanesys/nixfleet/fleet"
)

// Each address has a budget for connections that end without a request: agents make
// none. Beyond it, handshakes with that address are slowed down.
// SECURITY.md has the same figures.
const (
	wastedPerSec, wastedBurst = 5, 200
	slowPerSec                = 10
	slowLimit                 = 5 * time.Second // one that would wait longer is refused
	handshakeAddrs            = 4096            // that are remembered: those that wasted some last
)

// Counts are by address.
type Counts struct {
	addrs *lru.Cache[string, *wasted]
}

type wasted struct {
	left *rate.Limiter // connections that may still be wasted
	slow *rate.Limiter // handshakes when none may
}

// New has counted nothing yet.
func New() (*Counts, error) {
	c, err := lru.New[string, *wasted](handshakeAddrs)
	return &Counts{addrs: c}, err
}

// Waste counts a connection that ended without a request.
func (h *Counts) Waste(address string, now time.Time) {
	w, ok := h.addrs.Get(address)
	if !ok {
		w = &wasted{left: rate.NewLimiter(wastedPerSec, wastedBurst), slow: rate.NewLimiter(slowPerSec, slowPerSec)}
		if first, known, _ := h.addrs.PeekOrAdd(address, w); known {
			w = first
		}
	}
	w.left.AllowN(now, 1)
}

// wait returns how long the next handshake with an address has to wait; false if it
// is refused.
func (h *Counts) wait(address string, now time.Time) (time.Duration, bool) {
	w, ok := h.addrs.Get(address)
	if !ok || w.left.TokensAt(now) >= 1 {
		return 0, true
	}
	r := w.slow.ReserveN(now, 1)
	d := r.DelayFrom(now)
	if d > slowLimit {
		r.CancelAt(now)
		return 0, false
	}
	return d, true
}

// Wait holds a handshake for as long as its address has to wait. The error's code is
// Unavailable if that is too long.
func (h *Counts) Wait(ctx context.Context, address string, now time.Time) error {
	d, ok := h.wait(address, now)
	if !ok {
		return fleet.Errorf(fleet.Unavailable, "too many connections from %s have ended without a request", address)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
