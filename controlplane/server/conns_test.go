// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/pki"
)

// fakeConn is a connection from an address that knows whether it is closed.
type fakeConn struct {
	net.Conn
	address string
	mu      sync.Mutex
	closed  bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(c.address) }

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *fakeConn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

// shown is the state of a connection on which a machine has shown its certificate.
func shown(machine string) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: machine}}}}
}

// A connection that shows no certificate is closed after 10 s, whatever it
// does; one of a machine is not.
func TestConns_CloseAnonymousOnesAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConns()
		anonymous, machine := &fakeConn{address: "192.0.2.1:1"}, &fakeConn{address: "192.0.2.1:2"}
		c.open(t.Context(), anonymous)
		c.seen(c.open(t.Context(), machine), shown("web-01"))
		rest(anonymousTime - time.Millisecond)
		c.changed(anonymous, http.StateActive)
		c.changed(anonymous, http.StateIdle)
		if anonymous.gone() {
			t.Error("closed too soon")
		}
		rest(time.Millisecond)
		if !anonymous.gone() {
			t.Error("a connection without a certificate is open after 10 s")
		}
		rest(time.Hour)
		if machine.gone() {
			t.Error("a machine's connection was closed")
		}
		c.changed(anonymous, http.StateClosed)
		c.changed(machine, http.StateClosed)
		if all, anonymous := c.count(); all != 0 || anonymous != 0 || len(c.from) != 0 || len(c.machines) != 0 {
			t.Errorf("%d connections are kept, %d anonymous ones, %v, %v", all, anonymous, c.from, c.machines)
		}
	})
}

// rest lets the fake clock of a bubble go on, and what waits for it run.
func rest(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
	synctest.Wait()
}

// Beyond the cap the address with the most anonymous ones loses its oldest, if that
// is past its handshake; machines and other addresses lose none.
func TestConns_CapAnonymousOnesAndNoMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConns()
		var machines, crowd, others []*fakeConn
		dial := func(to *[]*fakeConn, from string) context.Context {
			conn := &fakeConn{address: fmt.Sprintf("%s:%d", from, len(*to)+1)}
			*to = append(*to, conn)
			return c.open(t.Context(), conn)
		}
		for i := range 2 * maxAnonymous {
			c.seen(dial(&machines, "198.51.100.1"), shown(fmt.Sprint("m-", i)))
		}
		for range 5 {
			dial(&others, "203.0.113.7")
		}
		for range maxAnonymous - 5 {
			dial(&crowd, "192.0.2.1")
		}
		rest(shakeTime)
		for range maxAnonymous - 5 {
			dial(&crowd, "192.0.2.1")
		}
		for range 7 { // the crowd makes room for others at once
			dial(&others, "203.0.113.7")
		}
		for _, conn := range append(machines, others...) {
			if conn.gone() {
				t.Fatalf("the connection of %s was closed", conn.address)
			}
		}
		open := 0
		for i, conn := range crowd {
			if !conn.gone() {
				open++
			} else if i >= maxAnonymous+2 {
				t.Fatalf("number %d of %d was closed before older ones", i, len(crowd))
			}
		}
		if _, anonymous := c.count(); open != maxAnonymous-12 || anonymous != maxAnonymous {
			t.Errorf("%d of the crowd are open, %d anonymous ones in all", open, anonymous)
		}
	})
}

// Of many that come at once from one address, or each from its own, the first are
// served: else none would ever be done with its handshake.
func TestConns_ServeTheFirstOfThoseThatConnectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, addresses := range []int{1, 3 * maxAnonymous} {
			c := newConns()
			var conns []*fakeConn
			for i := range 3 * maxAnonymous {
				conns = append(conns, &fakeConn{address: fmt.Sprintf("10.0.%d.%d:1", i%addresses/256, i%addresses%256)})
				c.open(t.Context(), conns[i])
			}
			for i, conn := range conns {
				if conn.gone() == (i < maxAnonymous) {
					t.Fatalf("%d addresses: number %d was closed: %t", addresses, i, conn.gone())
				}
			}
			for _, conn := range conns {
				c.changed(conn, http.StateClosed)
			}
		}
	})
}

// One certificate holds a few connections, not all that there are: the newest,
// unless too many come at once.
func TestConns_CapThoseOfAMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, waits := range map[string]bool{"one after the other": false, "all at once": true} {
			c := newConns()
			var conns []*fakeConn
			for i := range 6 * maxConnsOfAMachine {
				conn := &fakeConn{address: fmt.Sprint("192.0.2.1:", i)}
				conns = append(conns, conn)
				crowded := c.seen(c.open(t.Context(), conn), shown("web-01"))
				if crowded != (i >= maxConnsOfAMachine) {
					t.Errorf("%s: with connection %d crowded is %t", name, i, crowded)
				}
				c.seen(context.WithValue(t.Context(), connKey{}, conn), shown("web-01")) // its second request
				if crowded && !waits {
					c.thin("web-01")
				}
			}
			for range conns {
				c.thin("web-01")
			}
			last := 6 * maxConnsOfAMachine
			if waits {
				last = 4 * maxConnsOfAMachine
			}
			for i, conn := range conns {
				if open := i >= last-maxConnsOfAMachine && i < last; conn.gone() == open {
					t.Errorf("%s: connection %d is open: %t, want %t", name, i, !conn.gone(), open)
				}
				c.changed(conn, http.StateClosed)
			}
			if all, _ := c.count(); all != 0 || len(c.machines) != 0 {
				t.Errorf("%s: %d connections are kept", name, all)
			}
		}
	})
}

func TestHost_IsTheNetworkOfIPv6(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "::ffff:192.0.2.1", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "pipe": "pipe",
	} {
		if got := host(remote); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return fakeAddr("pipe") }

// The same over TLS: what counts is the certificate that was shown, not that a
// request came.
func TestConns_TellMachinesByTheirCertificate(t *testing.T) {
	keys, err := pki.Load(t.TempDir(), []string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		now := time.Now
		server, err := keys.Server(now())
		if err != nil {
			t.Fatal(err)
		}
		conf := &tls.Config{Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
		c := newConns()
		srv := &http.Server{
			Handler: http.NotFoundHandler(), ConnContext: c.open, ConnState: c.changed, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 6 * time.Minute,
		}
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(tls.NewListener(l, conf)) })
		defer wg.Wait()
		defer srv.Close()

		for _, tt := range []struct {
			name  string
			certs []tls.Certificate
			lives time.Duration
		}{
			{"no certificate", nil, anonymousTime},
			{"a certificate", []tls.Certificate{selfSigned(t)}, 6*time.Minute + 5*time.Second},
		} {
			near, far := net.Pipe()
			l.conns <- far
			begin := now()
			client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, Certificates: tt.certs}) // what is tested is the other end
			rest(5 * time.Second)
			if _, err = client.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			buf := make([]byte, 4096)
			for err == nil {
				_, err = client.Read(buf)
			}
			if lived := now().Sub(begin); lived != tt.lives {
				t.Errorf("%s: the connection lived for %s, want %s", tt.name, lived, tt.lives)
			}
			_ = near.Close()
		}
	})
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web-01"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
