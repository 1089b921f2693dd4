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

// BackOff is how long to wait after so many failures in a row.
func BackOff(failures int, every time.Duration) time.Duration {
	d := min(every, time.Second) << min(failures-1, 10)
	return Spread(min(d, max(5*every, time.Second), 5*time.Minute))
}
