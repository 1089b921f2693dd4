// SPDX-License-Identifier: MIT

package wait_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/wait"
)

// A16: waits grow, end at their limit, and differ between machines.
func TestBackOff_DoublesUpToItsLimitAndIsSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 20 {
		b := wait.BackOff(time.Second, 5*time.Minute)
		for range 2 { // the second time after a reset
			for i := range 12 {
				most := min(time.Second<<i, 5*time.Minute)
				d := b.NextBackOff()
				if d < most/2 || d > most {
					t.Errorf("wait %d is %s, want between half of %s and it", i, d, most)
				}
				seen[d] = true
			}
			b.Reset()
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d waits differ", len(seen))
	}
}

// A planned stop asks all agents at once to wait: they must not be there at once.
func TestAsked_IsSpreadOverASecondAtLeast(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 3 * time.Second, time.Minute} {
		spread := max(d/4, time.Second)
		var parts [4]int
		for range 400 {
			more := wait.Asked(d) - d
			if more < 0 || more >= spread {
				t.Fatalf("%s was asked for, and %s added", d, more)
			}
			parts[4*more/spread]++
		}
		if slices.Min(parts[:]) < 50 {
			t.Errorf("%s: %v of 400 waits in each quarter of the spread", d, parts)
		}
	}
}

func TestRetry_EndsAtSuccessAtItsLastTryAndWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		ctx, cancel := context.WithCancel(t.Context())
		for _, tc := range []struct {
			good, want int // the try that succeeds; how many there are
		}{{1, 1}, {3, 3}, {9, 5}} {
			n := 0
			begin := time.Now()
			err := wait.Retry(ctx, 5, 100*time.Millisecond, func() error {
				if n++; n == tc.good {
					return nil
				}
				return full
			})
			if (err == nil) != (tc.good <= 5) || n != tc.want || time.Since(begin) > 1500*time.Millisecond {
				t.Errorf("good at %d: %d tries in %s, %v", tc.good, n, time.Since(begin), err)
			}
		}
		cancel()
		n := 0
		if err := wait.Retry(ctx, 5, time.Second, func() error { n++; return full }); err == nil || n != 1 {
			t.Errorf("after its end: %d tries, %v", n, err)
		}
	})
}
