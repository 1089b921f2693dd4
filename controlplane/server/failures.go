// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"net"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// How many failed authentications an address may have: a burst, and so many
// a second from then on.
const (
	failureBurst    = 20
	failuresPerSec  = 0.5
	failureMaxAddrs = 4096 // that are remembered: those that failed last
)

// failures counts failed authentications by address. A good credential is
// never refused for them: an attacker must not lock operators out.
type failures struct {
	addrs *lru.Cache[string, *rate.Limiter]
}

func newFailures() (*failures, error) {
	c, err := lru.New[string, *rate.Limiter](failureMaxAddrs)
	return &failures{addrs: c}, err
}

// add counts a failure and reports whether the address has had too many.
func (f *failures) add(remote string, now time.Time) (tooMany bool) {
	address := host(remote)
	l, ok := f.addrs.Get(address)
	if !ok {
		l = rate.NewLimiter(failuresPerSec, failureBurst)
		if first, known, _ := f.addrs.PeekOrAdd(address, l); known {
			l = first
		}
	}
	return !l.AllowN(now, 1)
}

// host is an address without its port; of IPv6 the network, for a single user
// has 2^64 addresses.
func host(remote string) string {
	h, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	a, err := netip.ParseAddr(h)
	if err != nil || a.Unmap().Is4() {
		return h
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return h
	}
	return p.String()
}
