// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of the agents' connections. Those that have not shown a certificate
// serve enrolment only, or are not through their handshake; they never take the
// place of one that has. SECURITY.md has the same figures.
const (
	anonymousTime = 10 * time.Second // in all, then a connection without a certificate is closed
	maxAnonymous  = 1024
	// shakeTime is how long a handshake may take before a newer connection of the
	// same address takes its place.
	shakeTime          = 3 * time.Second
	maxConnsOfAMachine = 16 // an agent has two
)

// conns has the agents' open connections, so that those of a refused machine
// can be closed, with its long poll (E07), and so that there are not too many
// of those that anybody can open.
type conns struct {
	wasted func(address string) // told of each connection that ends without a request

	mu    sync.Mutex
	peers map[net.Conn]*peer
	// machines has the connections of each machine, oldest first.
	machines map[fleet.MachineID][]net.Conn
	// anonymous are those that have shown no certificate, oldest first; from
	// counts them by address.
	anonymous *list.List // of net.Conn
	from      map[string]int
}

// peer is what is at the other end of a connection.
type peer struct {
	machine fleet.MachineID // "" before its first request
	served  bool            // it has made a request
	quiet   bool            // it was held, and has made none since
	tls     *tls.ConnectionState

	anonymous *list.Element // nil once it has shown a certificate
	address   string
	since     time.Time
	late      *time.Timer
}

type connKey struct{}

func newConns() *conns {
	return &conns{wasted: func(string) {}, peers: map[net.Conn]*peer{}, machines: map[fleet.MachineID][]net.Conn{}, anonymous: list.New(), from: map[string]int{}}
}

// open is for http.Server.ConnContext. It runs before the handshake.
func (c *conns) open(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.peers[conn]; ok { // it was held
		p.quiet = true
		return context.WithValue(ctx, connKey{}, conn)
	}
	p := &peer{address: host(conn.RemoteAddr().String()), since: time.Now()}
	p.anonymous = c.anonymous.PushBack(conn)
	c.from[p.address]++
	p.late = time.AfterFunc(anonymousTime, func() { c.closeAnonymous(conn) })
	c.peers[conn] = p
	if c.anonymous.Len() > maxAnonymous {
		c.severMostCrowded()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// severMostCrowded closes an anonymous connection of the address that has the most,
// so that one address cannot shut others out: its oldest. If the newest is of such
// an address too, and the oldest may still be in its handshake, it closes the newest:
// of many machines that are online again at once, the first would else never be done.
func (c *conns) severMostCrowded() {
	most := 0
	for _, n := range c.from {
		most = max(most, n)
	}
	oldest := c.anonymous.Front()
	for c.from[c.peers[oldest.Value.(net.Conn)].address] < most {
		oldest = oldest.Next()
	}
	victim, newest := c.peers[oldest.Value.(net.Conn)], c.peers[c.anonymous.Back().Value.(net.Conn)]
	if c.from[newest.address] == most && newest.since.Sub(victim.since) < shakeTime {
		victim = newest
	}
	conn := victim.anonymous.Value.(net.Conn)
	c.identified(victim) // closing takes a moment, in which it does not count
	victim.served = true // that it made no request is our doing
	sever(conn)
}

// identified takes a peer out of the anonymous ones.
func (c *conns) identified(p *peer) {
	if p.anonymous == nil {
		return
	}
	p.late.Stop()
	c.anonymous.Remove(p.anonymous)
	p.anonymous = nil
	if c.from[p.address]--; c.from[p.address] == 0 {
		delete(c.from, p.address)
	}
}

func (c *conns) closeAnonymous(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.peers[conn]; ok && p.anonymous != nil {
		sever(conn)
	}
}

// changed is for http.Server.ConnState.
func (c *conns) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive: // a request begins: the handshake is over
		if t, ok := conn.(*tls.Conn); ok && len(t.ConnectionState().PeerCertificates) > 0 {
			c.mu.Lock()
			defer c.mu.Unlock()
			if p, ok := c.peers[conn]; ok {
				c.identified(p)
				p.quiet = false
			}
		}
	case http.StateClosed:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(conn)
	case http.StateNew, http.StateIdle, http.StateHijacked: // one that is held is open
	}
}

func (c *conns) remove(conn net.Conn) {
	p, ok := c.peers[conn]
	if !ok {
		return
	}
	c.identified(p)
	delete(c.peers, conn)
	if !p.served {
		c.wasted(p.address)
	}
	if p.machine == "" {
		return
	}
	of := c.machines[p.machine]
	for i, other := range of {
		if other == conn {
			of = append(of[:i:i], of[i+1:]...)
			break
		}
	}
	if c.machines[p.machine] = of; len(of) == 0 {
		delete(c.machines, p.machine)
	}
}

// serve notes that the connection of ctx has made a request.
func (c *conns) serve(ctx context.Context) {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.peers[conn]; ok {
		p.served = true
	}
}

// seen notes the machine at the other end of ctx's connection, by the name in its
// certificate. It reports whether the machine has too many now: then thin is to
// follow. One that comes while many wait for that is closed at once.
func (c *conns) seen(ctx context.Context, cs *tls.ConnectionState) (crowded bool) {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok || cs == nil || len(cs.PeerCertificates) == 0 {
		return false
	}
	m := fleet.MachineID(cs.PeerCertificates[0].Subject.CommonName)
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.peers[conn]
	if !ok || p.machine != "" {
		return false
	}
	c.identified(p)
	p.machine, p.tls = m, cs
	c.machines[m] = append(c.machines[m], conn)
	if len(c.machines[m]) > 4*maxConnsOfAMachine {
		sever(conn)
		c.remove(conn)
	}
	return len(c.machines[m]) > maxConnsOfAMachine
}

// thin closes the oldest connection of a machine that has too many: one for each
// that came, so that closing is no faster than the pause of those that come.
func (c *conns) thin(m fleet.MachineID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.machines[m]) > maxConnsOfAMachine {
		oldest := c.machines[m][0]
		sever(oldest)
		c.remove(oldest)
	}
}

// closeIf closes the connections of machines for which bad is true, and returns
// how many.
func (c *conns) closeIf(bad func(peer) bool) int {
	c.mu.Lock()
	open := make(map[net.Conn]peer, len(c.peers))
	for conn, p := range c.peers {
		if p.machine != "" {
			open[conn] = *p
		}
	}
	c.mu.Unlock()
	n := 0
	for conn, p := range open {
		if bad(p) {
			n++
			sever(conn)
		}
	}
	return n
}

// sever closes a connection at once: a TLS close would wait for the peer.
func sever(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.Close()
}

// count is how many connections are open, and how many of them have shown no
// certificate.
func (c *conns) count() (all, anonymous int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.peers), c.anonymous.Len()
}
