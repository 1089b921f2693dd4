// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// hold is a check-in that waits for other orders, or for its time. net/http keeps two
// goroutines and their stacks, three buffers and the whole request for one that it
// serves, 48 KiB in all; so the connection is taken from it meanwhile. One goroutine
// reads from it: nothing comes, until the machine goes away. The deadline of that
// read is when the check-in's time is over, and is set into the past to wake it.
type hold struct {
	s       *Server
	machine fleet.MachineID
	have    string // etag of the orders that the agent has
	until   time.Time
	rec     *record
	done    func() // the call has ended
	last    bool   // nothing more can be read from conn
	raw     syscall.RawConn

	mu    sync.Mutex
	conn  net.Conn // nil before it is taken
	woken bool     // before that
	newer bool     // the machine has made a newer check-in
	over  bool     // conn is somebody else's again
}

// hold holds a check-in, or returns its answer if there is one already.
func (s *Server) hold(w http.ResponseWriter, r *http.Request, h *hold) (any, error) {
	orders, err := s.plane.Hold(h.machine, h)
	if err != nil || orders.Etag != h.have {
		s.plane.EndHold(h.machine, h)
		return orders, h.stopping(err)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.plane.EndHold(h.machine, h)
		return nil, err
	}
	h.rec.goesOn = true
	h.last = buffered.Reader.Buffered() > 0
	h.rec.bodyRead = nil // it has the request
	h.done = s.calls.HandOver(r.Context(), h.machine, "checkIn", h.end)
	s.metrics.longPolls.Inc()
	begun := time.Now()
	h.mu.Lock()
	h.conn, h.raw = conn, rawConn(conn)
	h.setDeadline()
	h.mu.Unlock()
	s.holds.Go(func() { h.run(begun) })
	return nil, nil
}

// Wake makes the hold look at the orders.
func (h *hold) Wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.woken = true
	if h.conn != nil && !h.over {
		h.setDeadline()
	}
}

// end is for calls: a newer check-in has begun.
func (h *hold) end(error) {
	h.mu.Lock()
	h.newer = true
	h.mu.Unlock()
	h.Wake()
}

// setDeadline sets when the read ends. An error of it means that the connection is
// closed: then so does the read.
func (h *hold) setDeadline() {
	at := h.until
	if h.woken {
		at = time.Unix(1, 0)
	}
	_ = h.conn.SetReadDeadline(at)
}

// run waits and answers.
func (h *hold) run(begun time.Time) {
	for {
		// Nothing else is on the stack of ten thousand of these.
		if !h.wait() {
			h.finish(begun, func() bool { return false })
			return
		}
		if orders, ready, err := h.look(); ready {
			h.finish(begun, func() bool { return h.answer(orders, err) })
			return
		}
	}
}

// wait waits until the deadline of the connection's reads is over. It reports false
// if the machine goes away, or sends something, before. It waits below TLS first, and
// reads only when something has come: that takes a stack of 2 KiB instead of 8.
func (h *hold) wait() bool {
	var err error
	if h.raw != nil {
		waited := false
		err = h.raw.Read(func(uintptr) bool {
			again := waited
			waited = true
			return again
		})
	}
	if err == nil {
		err = h.read()
	}
	return errors.Is(err, os.ErrDeadlineExceeded)
}

//go:noinline
func (h *hold) read() error {
	var one [1]byte
	_, err := h.conn.Read(one[:])
	return err
}

// rawConn is what waits for a connection below TLS; nil for one that is no socket.
func rawConn(conn net.Conn) syscall.RawConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	s, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// look reports whether there is something to answer.
//
//go:noinline
func (h *hold) look() (orders api.Orders, ready bool, err error) {
	h.mu.Lock()
	h.woken = false
	h.setDeadline()
	newer := h.newer
	h.mu.Unlock()
	orders, err = h.s.plane.Look(h.machine, h)
	late := !time.Now().Before(h.until)
	return orders, err != nil || orders.Etag != h.have || newer || late, h.stopping(err)
}

// stopping makes the answer of a control plane that stops one that spreads the
// machines' next check-ins.
func (h *hold) stopping(err error) error {
	if fleet.ErrorCode(err) == fleet.Unavailable && h.s.draining.Err() != nil {
		return stopping()
	}
	return err
}

// finish answers by reply, which reports whether the connection can be used again,
// and hands it back to net/http or closes it.
//
//go:noinline
func (h *hold) finish(begun time.Time, reply func() bool) {
	s := h.s
	s.plane.EndHold(h.machine, h)
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	usable := reply()
	s.metrics.longPolls.Dec()
	s.metrics.request("agents", h.rec, time.Since(begun))
	s.logRequest("agents", http.MethodPost, api.PathCheckIn, h.rec, time.Since(begun))
	h.done()
	if !usable || !s.returned.put(h.conn) {
		_ = h.conn.Close()
		s.conns.changed(h.conn, http.StateClosed)
	}
}

// answer writes the reply to a check-in.
func (h *hold) answer(orders api.Orders, err error) (usable bool) {
	res := http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Close: h.last || h.s.draining.Err() != nil,
		Header: http.Header{"Content-Type": {"application/json"}},
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(orders)
	}
	if err != nil {
		p := h.s.refuse(h.rec, err)
		res.StatusCode, res.Header = p.Status, p.headers()
		res.Header.Set("Content-Type", api.ProblemType)
		body, _ = json.Marshal(p.Problem) // of strings and numbers
	}
	h.rec.status = res.StatusCode
	res.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	res.Header.Set("X-Content-Type-Options", "nosniff")
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	limit := agentWriteTime
	if res.Close {
		limit = drainLimit / 2
	}
	var text bytes.Buffer
	if res.Write(&text) != nil || h.conn.SetDeadline(time.Now().Add(limit)) != nil {
		return false
	}
	if _, err := h.conn.Write(text.Bytes()); err != nil {
		return false
	}
	return !res.Close && h.conn.SetDeadline(time.Time{}) == nil
}

// returned is a listener that gives connections to net/http again which were taken
// from it.
type returned struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newReturned() *returned {
	return &returned{conns: make(chan net.Conn), done: make(chan struct{})}
}

// put gives a connection back; false if nothing takes it any more.
func (l *returned) put(conn net.Conn) bool {
	select {
	case l.conns <- conn:
		return true
	case <-l.done:
		return false
	}
}

// Accept is for net.Listener.
func (l *returned) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close is for net.Listener.
func (l *returned) Close() error { l.once.Do(func() { close(l.done) }); return nil }

// Addr is for net.Listener.
func (l *returned) Addr() net.Addr { return &net.UnixAddr{Name: "returned", Net: "unix"} }
