// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
)

// conns has the agents' open connections, so that those of a refused machine
// can be closed, with its long poll (E07).
type conns struct {
	mu    sync.Mutex
	peers map[net.Conn]peer
}

// peer is the machine at the other end of a connection; zero before its first
// request.
type peer struct {
	machine fleet.MachineID
	tls     *tls.ConnectionState
}

type connKey struct{}

func newConns() *conns { return &conns{peers: map[net.Conn]peer{}} }

// open is for http.Server.ConnContext.
func (c *conns) open(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[conn] = peer{}
	return context.WithValue(ctx, connKey{}, conn)
}

// changed is for http.Server.ConnState.
func (c *conns) changed(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.peers, conn)
	}
}

// seen notes the machine at the other end of ctx's connection, by the name in its
// certificate.
func (c *conns) seen(ctx context.Context, cs *tls.ConnectionState) {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok || cs == nil || len(cs.PeerCertificates) == 0 {
		return
	}
	m := fleet.MachineID(cs.PeerCertificates[0].Subject.CommonName)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.peers[conn]; ok && p.machine == "" {
		c.peers[conn] = peer{machine: m, tls: cs}
	}
}

// closeIf closes the connections of machines for which bad is true, and returns
// how many.
func (c *conns) closeIf(bad func(peer) bool) int {
	c.mu.Lock()
	open := make(map[net.Conn]peer, len(c.peers))
	for conn, p := range c.peers {
		if p.machine != "" {
			open[conn] = p
		}
	}
	c.mu.Unlock()
	n := 0
	for conn, p := range open {
		if !bad(p) {
			continue
		}
		n++
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn() // a TLS close would wait for the peer
		}
		_ = conn.Close()
	}
	return n
}

// count is how many connections are open.
func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.peers)
}
