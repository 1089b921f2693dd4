// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// wire is a machine's connection, without a goroutine of its own.
type wire struct {
	w    *world
	id   fleet.MachineID
	conn *tls.Conn
	in   *bufio.Reader
	have string
}

func (w *world) wire(admin *api.Client, id fleet.MachineID) *wire {
	w.tb.Helper()
	der, key := w.certificate(admin, id)
	c := must[*tls.Conn](w.tb)(tls.Dial("tcp", w.addrs.Agents.Addr().String(), &tls.Config{
		RootCAs: w.caPool(), ServerName: "localhost", Time: w.now, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}))
	w.tb.Cleanup(func() { _ = c.Close() })
	return &wire{w, id, c, bufio.NewReader(c), ""}
}

func (c *wire) send(wait time.Duration) {
	c.w.tb.Helper()
	ci := checkIn(c.id)
	ci.Have, ci.WaitMs = c.have, wait.Milliseconds()
	body := must[[]byte](c.w.tb)(json.Marshal(ci))
	req := must[*http.Request](c.w.tb)(http.NewRequestWithContext(c.w.ctx(), http.MethodPost, "https://localhost"+api.PathCheckIn, bytes.NewReader(body)))
	if err := req.Write(c.conn); err != nil {
		c.w.tb.Fatal(err)
	}
}

// answer reads a reply, and reports whether the connection stays open.
func (c *wire) answer() (status int, open bool) {
	c.w.tb.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.w.tb.Fatal(err)
	}
	res := must[*http.Response](c.w.tb)(http.ReadResponse(c.in, nil))
	b := must[[]byte](c.w.tb)(io.ReadAll(res.Body))
	_ = res.Body.Close()
	var o api.Orders
	if err := json.Unmarshal(b, &o); err != nil || res.Header.Get("Date") == "" || res.Header.Get("Content-Type") == "" {
		c.w.tb.Fatalf("reply %s of %v: %v", b, res.Header, err)
	}
	c.have = o.Etag
	return res.StatusCode, !res.Close
}

// Orders that the agent does not have yet are not held back, however long it would
// wait.
func TestHeld_AnswersAtOnceWhatTheAgentDoesNotHave(t *testing.T) {
	w := newWorld(t)
	c := w.wire(w.admin(), "web-01")
	c.send(time.Minute)
	if status, open := c.answer(); status != http.StatusOK || !open || c.have == "" {
		t.Errorf("status %d, open %t, orders %q", status, open, c.have)
	}
}

// A held check-in costs one goroutine and no request; its connection serves the next
// check-in when its time is over, and is closed when the control plane stops.
func TestHeld_TakesOneGoroutineAndKeepsItsConnection(t *testing.T) {
	const machines, polls = 60, 3
	w := newWorld(t)
	admin := w.admin()
	var wires []*wire
	for i := range machines {
		wires = append(wires, w.wire(admin, fleet.MachineID(fmt.Sprintf("m-%02d", i))))
	}
	before := runtime.NumGoroutine() // one waits for each connection's request
	for n := range polls {
		for _, c := range wires {
			c.send(time.Duration(n) * 400 * time.Millisecond) // the first is answered at once
		}
		for _, c := range wires {
			if status, open := c.answer(); status != http.StatusOK || !open {
				t.Fatalf("%s, check-in %d: status %d, open %t", c.id, n, status, open)
			}
		}
	}
	w.eventually("each check-in is counted", func() bool { // when its reply has gone out
		return w.metricOf(`nixfleet_http_requests_total{listener="agents",operation="checkIn",status="200"}`) == machines*polls
	})
	for _, c := range wires {
		c.send(time.Minute)
	}
	w.eventually("all are held", func() bool { return w.metric("nixfleet_long_polls") == machines })
	if n := runtime.NumGoroutine() - before; n > machines/4 {
		t.Errorf("%d goroutines more than before hold %d check-ins", n, machines)
	}
	// Without those that the enrolments left.
	connected := func() float64 {
		return w.metric("nixfleet_agent_connections") - w.metric("nixfleet_agent_connections_without_certificate")
	}
	if n := connected(); n != machines {
		t.Errorf("%v machines are connected, want %d", n, machines)
	}
	// A machine that goes away is noticed at once, and for how long it was there counted.
	ended := w.metric("nixfleet_long_poll_duration_seconds_count")
	_ = wires[0].conn.Close()
	w.eventually("it is noticed", func() bool {
		return w.metric("nixfleet_long_polls") == machines-1 && connected() == machines-1
	})
	w.eventually("its poll is counted", func() bool { return w.metric("nixfleet_long_poll_duration_seconds_count") == ended+1 })
	began := time.Now()
	w.stop()
	for _, c := range wires[1:] {
		if status, open := c.answer(); status != http.StatusServiceUnavailable || open {
			t.Fatalf("%s, at the stop: status %d, open %t", c.id, status, open)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %s", took)
	}
}
