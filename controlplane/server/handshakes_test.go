// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
)

// Whoever makes handshakes and no requests, with a certificate or without one, is
// slowed down; machines at other addresses, and connections that exist, are not.
func TestHandshakes_WithoutRequestsAreSlowedDown(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	der, key := w.certificate(admin, "web-01")
	conf := &tls.Config{RootCAs: w.caPool(), ServerName: "localhost", Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	good := w.enrolled(admin, "web-02")
	must[api.Orders](t)(good.CheckIn(t.Context(), checkIn("web-02"))) // keeps its connection
	shake := func(from string) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, Config: conf}
		c, err := d.DialContext(ctx, "tcp", w.addrs.Agents.Addr().String())
		if err != nil {
			return false
		}
		// The server has read the certificate when it sends something, such as tickets.
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
		return c.Close() == nil
	}
	made := func() int64 {
		var n atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if shake("127.0.0.1") {
					n.Add(1)
				}
			})
		}
		wg.Wait()
		return n.Load()
	}
	for range 4 {
		made()
	}
	// In half a second 10 of a burst and 5 more; and what the budget gets back.
	w.eventually("handshakes are slowed down", func() bool { return made() < 40 })
	if !shake("127.0.0.2") {
		t.Error("another address cannot make a handshake")
	}
	must[api.Orders](t)(good.CheckIn(t.Context(), checkIn("web-02")))
}
