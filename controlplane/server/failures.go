// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many failed authentications an address may have: a burst, and so many
// a second from then on.
const (
	failureBurst    = 20
	failuresPerSec  = 0.5
	failureMaxAddrs = 4096
)

// failures counts failed authentications by address. A good credential is
// never refused for them: an attacker must not lock operators out.
type failures struct {
	mu    sync.Mutex
	addrs map[string]*rate.Limiter
}

func newFailures() *failures { return &failures{addrs: map[string]*rate.Limiter{}} }

// add counts a failure and reports whether the address has had too many.
func (f *failures) add(remote string, now time.Time) (tooMany bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.addrs[host]
	if !ok {
		if len(f.addrs) >= failureMaxAddrs { // forget all rather than grow
			clear(f.addrs)
		}
		l = rate.NewLimiter(failuresPerSec, failureBurst)
		f.addrs[host] = l
	}
	return !l.AllowN(now, 1)
}
