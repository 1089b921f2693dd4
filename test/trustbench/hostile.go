// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arcanesys/nixfleet/api"
)

// hostileThreads is how many connections a hostile agent works with.
const hostileThreads = 32

// cost is what an attack cost the control plane.
type cost struct {
	Name     string  `json:"name"`
	Requests int64   `json:"requests"` // or connections, that were answered or cut
	RssMb    float64 `json:"rssMb"`    // the most, above idle
	CPUS     float64 `json:"cpuS"`
}

// attack is what a hostile agent does with its certificate. Send is called again and
// again, by many at once, on a connection of their own.
type attack struct {
	name    string
	path    string
	body    func(m *machine, n int64) []byte // nil: the connection alone
	connect connection
}

// connection says when an attack makes a new one.
type connection int

const (
	kept      connection = iota // when the last was cut
	eachTime                    // for each request, with a full handshake
	withoutIt                   // for each request, and no certificate is shown
)

const maxReports = 8 << 20

// filled is a body of 8 MiB: head, as many items as fit, tail.
func filled(head, item, tail string) func(*machine, int64) []byte {
	var once sync.Once
	var body []byte
	return func(m *machine, _ int64) []byte {
		once.Do(func() {
			own := func(s string) string { return strings.ReplaceAll(s, "SELF", string(m.id)) }
			h, i, t := own(head), own(item), own(tail)
			n := (maxReports - len(h) - len(t)) / (len(i) + 1)
			body = append(append([]byte(h), bytes.Repeat([]byte(i+","), n-1)...), i+t...)
		})
		return body
	}
}

var attacks = []attack{
	{"own reports", api.PathReports, filled(`{"reports":[`, `{"machine":"SELF"}`, `]}`), kept},
	{"reports with checks", api.PathReports, filled(`{"reports":[{"machine":"SELF","checks":[`, `{}`, `]}]}`), kept},
	{"reports with messages", api.PathReports, filled(`{"reports":[`, `{"machine":"SELF","id":"1","kind":"drift","message":"`+strings.Repeat(`é`, 4000)+`"}`, `]}`), kept},
	{"fields", api.PathReports, filled(`{`, `"mood":{}`, `}`), kept},
	{"depth", api.PathReports, func(*machine, int64) []byte { return bytes.Repeat([]byte(`[`), maxReports) }, kept},
	{"new reports", api.PathReports, newReports, kept},
	{"check-ins that change", api.PathCheckIn, changing, kept},
	{"renewals", api.PathRenew, func(m *machine, _ int64) []byte {
		b, err := json.Marshal(api.RenewRequest{CSR: m.csr})
		if err != nil {
			panic(err) // bytes have a JSON form
		}
		return b
	}, kept},
	{"connections", api.PathCheckIn, func(m *machine, _ int64) []byte { return m.says() }, eachTime},
	{"handshakes", "", nil, eachTime},
	{"anonymous", api.PathEnroll, func(*machine, int64) []byte { return []byte(`{"token":"nft_x","csr":"MAA="}`) }, withoutIt},
}

// newReports are reports that were not sent before, the most at once.
func newReports(m *machine, n int64) []byte {
	var b strings.Builder
	b.WriteString(`{"reports":[`)
	for i := range 1000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"machine":%q,"id":"%d-%d","kind":"refusal","reason":"bad-signature","message":"%s"}`, m.id, n, i, strings.Repeat("m", 4000))
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

// changing are check-ins of which each says something else, as large as they may be.
func changing(m *machine, n int64) []byte {
	var in map[string]any
	if err := json.Unmarshal(m.says(), &in); err != nil {
		panic(err) // it was encoded a moment ago
	}
	var checks []map[string]any
	for i := range 128 {
		checks = append(checks, map[string]any{"name": fmt.Sprint("c-", i), "kind": "unit", "status": "failing", "observed": fmt.Sprint(n, strings.Repeat("o", 3000))})
	}
	in["checks"], in["waiting"] = checks, fmt.Sprint("round ", n)
	b, err := json.Marshal(in)
	if err != nil {
		panic(err) // strings and numbers have a JSON form
	}
	return b
}

// hostile runs an attack against a control plane of its own, so that what one left
// behind does not count for the next.
func hostile(ctx context.Context, program string, a attack, span time.Duration) (c cost, err error) {
	s, err := start(ctx, program)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	m, err := s.enrol(ctx, "hostile")
	if err != nil {
		return c, err
	}
	if a.body != nil {
		a.body(m, 0) // made before the clock runs
	}
	idle, err := s.memory("VmRSS")
	if err != nil {
		return c, err
	}
	// 5 sets the highest memory (VmHWM) back to the present one (proc(5)).
	if err = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid), []byte("5"), 0); err != nil {
		return c, err
	}
	before, err := s.cpu()
	if err != nil {
		return c, err
	}
	c.Name, c.Requests = a.name, a.run(ctx, m, span)
	after, err := s.cpu()
	if err != nil {
		return c, err
	}
	most, err := s.memory("VmHWM")
	c.RssMb, c.CPUS = most-idle, (after-before).Seconds()*float64(10*time.Second)/float64(span)
	return c, err
}

// run attacks with all threads until span is over, and returns how often.
func (a attack) run(ctx context.Context, m *machine, span time.Duration) int64 {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	if a.connect == withoutIt {
		anonymous := *m
		anonymous.tls = m.tls.Clone()
		anonymous.tls.Certificates = nil
		m = &anonymous
	}
	var n atomic.Int64
	var wg sync.WaitGroup
	for range hostileThreads {
		wg.Go(func() {
			var conn *tls.Conn
			for ctx.Err() == nil {
				conn = a.once(ctx, m, conn, n.Add(1))
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// once sends one request. It returns the connection if that can be used again.
func (a attack) once(ctx context.Context, m *machine, conn *tls.Conn, n int64) *tls.Conn {
	if conn == nil {
		var err error
		if conn, err = m.dial(ctx, nil); err != nil {
			return nil
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var err error
	if a.body != nil {
		_, err = m.post(ctx, conn, a.path, a.body(m, n))
	}
	if err != nil || a.connect != kept {
		conn.Close()
		return nil
	}
	return conn
}
