// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxRetryAfter bounds what a Retry-After header may ask for.
const maxRetryAfter = 10 * time.Minute

// pauses are the times between the tries of a call: each about twice the one
// before, up to 10 s, and by chance shorter or longer, so that clients do not
// try again all at once.
type pauses struct{ next backoff.ExponentialBackOff }

func newPauses() *pauses {
	return &pauses{backoff.ExponentialBackOff{
		InitialInterval: 200 * time.Millisecond, RandomizationFactor: 1. / 3, Multiplier: 2, MaxInterval: 8 * time.Second,
	}}
}

// wait pauses after a try that ended with err: for as long as the control
// plane asked, if it did. It reports whether ctx lasted.
func (p *pauses) wait(ctx context.Context, err error) bool {
	d := p.next.NextBackOff()
	if after, asked := RetryAfter(err); asked {
		d = after
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// reset makes the next pause short again.
func (p *pauses) reset() { p.next.Reset() }

// retryLater is the cause of an error that came with a Retry-After.
type retryLater struct{ after time.Duration }

func (r *retryLater) Error() string { return "try again in " + r.after.String() }

// RetryAfter returns how long the control plane asked to wait before the call
// that ended with err is repeated, and whether it asked (A16).
func RetryAfter(err error) (time.Duration, bool) {
	var r *retryLater
	if errors.As(err, &r) {
		return r.after, true
	}
	return 0, false
}

// retryAfter reads the header: seconds, or an HTTP date.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	if header == "" {
		return 0, false
	}
	d := time.Duration(0)
	if s, err := strconv.Atoi(header); err == nil && s >= 0 && s < 1<<30 {
		d = time.Duration(s) * time.Second
	} else if t, err := http.ParseTime(header); err == nil {
		d = max(0, t.Sub(now))
	} else {
		return 0, false
	}
	return min(d, maxRetryAfter), true
}
