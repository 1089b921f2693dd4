// SPDX-License-Identifier: MIT

// Package wait says how long an agent waits before it tries or asks again, and
// waits. Waits are spread, so that the machines of a fleet do not act together.
//
// It never decides what is worth another try.
package wait

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// For waits and reports whether ctx lasted.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Spread returns between half of d and d.
func Spread(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// Asked is how long to wait when the control plane asked for a time: no less, and
// by chance up to a quarter more, at least a second.
func Asked(d time.Duration) time.Duration {
	return d + rand.N(max(d/4, time.Second))
}

// Growing are waits after failures: each NextBackOff is of the next failure in a
// row, and Reset ends the row.
type Growing = backoff.ExponentialBackOff

// BackOff makes waits of first, then twice as long each time up to limit. They
// are spread as Spread does it.
func BackOff(first, limit time.Duration) *Growing {
	// The library spreads to both sides of an interval: from half of d to d is a
	// third to each side of three quarters.
	return &Growing{InitialInterval: first * 3 / 4, MaxInterval: limit * 3 / 4, Multiplier: 2, RandomizationFactor: 1.0 / 3}
}

// Retry calls f until it succeeds, so many times at most, or ctx ends; between
// the calls it waits, first for about that long.
func Retry(ctx context.Context, tries int, first time.Duration, f func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, f() },
		backoff.WithBackOff(BackOff(first, first<<tries)), backoff.WithMaxTries(uint(tries)))
	return err
}
