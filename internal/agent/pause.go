// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// pause waits and reports whether ctx lasted.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// backOff is how long to wait after so many failures in a row.
func backOff(failures int, every time.Duration) time.Duration {
	d := min(every, time.Second) << min(failures-1, 10)
	return jitter(min(d, max(5*every, time.Second), 5*time.Minute))
}
