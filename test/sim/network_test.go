// SPDX-License-Identifier: MIT

package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Addresses of the control plane's listeners.
const (
	operatorsAddr = "plane:8443"
	agentsAddr    = "plane:8444"
	metricsAddr   = "plane:9443"
)

// cut says how a place is cut off.
type cut string

const (
	connected cut = ""
	refusing  cut = "refusing" // connections break, and new ones are refused
	silent    cut = "silent"   // nothing arrives, and nobody says so
)

// network carries connections from places to the control plane.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener // nobody listens at the others
	wires     map[*wire]bool
	ports     int
	pumps     sync.WaitGroup
	// atAnswer is called once, in place of the next answer that a place gets.
	atAnswer func()
}

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, wires: map[*wire]bool{}}
}

// place is where a machine, or an operator, is connected. Its fields are guarded by
// the network.
type place struct {
	net     *network
	address string

	cut     cut
	changed chan struct{} // closed at the next change of cut
	delay   time.Duration // of each message
	lose    int           // so many answers are lost, with their connections
	lost    int
}

func (n *network) place(address string) *place {
	return &place{net: n, address: address, changed: make(chan struct{})}
}

// setCut cuts a place off, or connects it.
func (p *place) setCut(c cut) {
	p.net.mu.Lock()
	p.cut = c
	close(p.changed)
	p.changed = make(chan struct{})
	p.net.mu.Unlock()
	if c == refusing {
		p.net.sever(p)
	}
}

func (p *place) set(change func(*place)) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	change(p)
}

// sever breaks the connections of a place, or all if p is nil.
func (n *network) sever(p *place) {
	n.mu.Lock()
	var broken []*wire
	for w := range n.wires {
		if p == nil || w.from == p {
			broken = append(broken, w)
		}
	}
	n.mu.Unlock()
	for _, w := range broken {
		w.close()
	}
}

// listen opens one of the control plane's addresses.
func (n *network) listen(addr string) *listener {
	l := &listener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

// shut closes all listeners.
func (n *network) shut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.listeners)
}

// listener is a net.Listener at one of the addresses.
type listener struct {
	addr  string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

// address is a net.Addr.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// accepted is the control plane's end of a connection.
type accepted struct {
	net.Conn
	from address
}

func (c accepted) RemoteAddr() net.Addr { return c.from }

// dialLimit is how long a connection may take to come about.
const dialLimit = 10 * time.Second

func refused(addr string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: errors.New("connection refused")}
}

// dial is for http.Transport.
func (p *place) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	n := p.net
	n.mu.Lock()
	state, l := p.cut, n.listeners[addr]
	n.ports++
	from := address(fmt.Sprintf("%s:%d", p.address, 1024+n.ports))
	n.mu.Unlock()
	switch {
	case state == silent:
		<-ctx.Done()
		return nil, refused(addr)
	case state == refusing || l == nil:
		return nil, refused(addr)
	}
	near, a := net.Pipe()
	b, far := net.Pipe()
	w := &wire{from: p, ends: [...]net.Conn{a, b}, closed: make(chan struct{})}
	n.mu.Lock()
	n.wires[w] = true
	n.mu.Unlock()
	n.pumps.Go(func() { w.pump(b, a, false) })
	n.pumps.Go(func() { w.pump(a, b, true) })
	select {
	case l.conns <- accepted{far, from}:
		return near, nil
	case <-l.done:
	case <-ctx.Done():
	}
	w.close()
	return nil, refused(addr)
}

// wire is a connection.
type wire struct {
	from   *place
	ends   [2]net.Conn
	closed chan struct{}
	once   sync.Once
	asked  int // messages to the control plane; guarded by the network
}

func (w *wire) close() {
	w.once.Do(func() {
		close(w.closed)
		for _, c := range w.ends {
			_ = c.Close()
		}
		w.from.net.mu.Lock()
		delete(w.from.net.wires, w)
		w.from.net.mu.Unlock()
	})
}

// pump carries messages one way. It takes them from whoever sends at once: crypto/tls
// and net/http hold locks while they say goodbye.
func (w *wire) pump(to, from net.Conn, answers bool) {
	defer w.close()
	queue := make(chan []byte, 1024)
	w.from.net.pumps.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, 8<<10)
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			select {
			case queue <- buf[:n]:
			case <-w.closed:
				return
			}
		}
	})
	for message := range queue {
		if !w.pass(answers) {
			return
		}
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}

// handshake is how many messages a client sends before its first request.
const handshake = 2

// pass holds a message for as long as the network does, and reports whether it
// arrives.
func (w *wire) pass(answer bool) bool {
	p, n := w.from, w.from.net
	for {
		n.mu.Lock()
		delay, state, changed := p.delay, p.cut, p.changed
		n.mu.Unlock()
		if state == silent {
			select {
			case <-changed:
				continue
			case <-w.closed:
				return false
			}
		}
		if delay > 0 && !w.wait(delay) {
			return false
		}
		break
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !answer {
		w.asked++
		return true
	}
	if w.asked <= handshake {
		return true
	}
	switch {
	case n.atAnswer != nil:
		f := n.atAnswer
		n.atAnswer = nil
		f()
		return false
	case p.lose > 0:
		p.lose--
		p.lost++
		return false
	}
	return true
}

func (w *wire) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.closed:
		return false
	}
}
