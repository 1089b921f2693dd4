// SPDX-License-Identifier: AGPL-3.0-only

// Package ending ends HTTP servers as soon as what they serve is done. net/http looks
// for that twice a second at last, and keeps every connection of HTTP/2 open for a
// second, whether a request is on it or not.
//
// It never cuts a request that is being served.
package ending

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// lookFor is for how long net/http looks, more and more seldom, before it is asked to
	// begin anew.
	lookFor = 100 * time.Millisecond
	// hearTime is for how long clients of HTTP/2 are heard after they were told to make
	// no more requests: those on their way are served.
	hearTime = 250 * time.Millisecond
)

// Shutdown is srv.Shutdown for a server of HTTP/1 alone.
func Shutdown(ctx context.Context, srv *http.Server) error {
	for {
		look, cancel := context.WithTimeout(ctx, lookFor)
		err := srv.Shutdown(look)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// Conns are the connections of a server on which requests are being served.
type Conns struct {
	mu      sync.Mutex
	busy    map[net.Conn]bool
	changed chan struct{} // 1 buffered: busy may be empty
}

// New knows of no connections yet.
func New() *Conns { return &Conns{busy: map[net.Conn]bool{}, changed: make(chan struct{}, 1)} }

// State is for http.Server.ConnState.
func (c *Conns) State(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == http.StateActive {
		c.busy[conn] = true
		return
	}
	delete(c.busy, conn)
	if len(c.busy) == 0 {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

func (c *Conns) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.busy) == 0
}

// Shutdown is srv.Shutdown for the server of these connections.
func (c *Conns) Shutdown(ctx context.Context, srv *http.Server) error {
	look, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Shutdown(look, srv) }()
	t := time.NewTimer(hearTime)
	defer t.Stop()
	heard := t.C
	for {
		select {
		case err := <-done:
			return err
		case <-heard:
			heard = nil
		case <-c.changed:
		}
		if heard == nil && c.idle() {
			err := srv.Close()
			cancel()
			<-done
			return err
		}
	}
}
