// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// visits say how machines check in that hold no connection.
type visits struct {
	Every time.Duration
	Open  int // connections at a time
}

// visitors are what a generator notes of them.
type visitors struct {
	mu      sync.Mutex
	seen    map[fleet.MachineID]bool
	each    []int64 // µs, since the last look
	resumed int64   // of these
	failed  int     // in all
	last    error
}

// come has each machine check in every so often, over a new connection with a resumed
// session, until the generator ends. If they are late, none is left out.
func (g *generator) come(v visits) (any, error) {
	g.visitors.seen = map[fleet.MachineID]bool{}
	slots := make(chan struct{}, v.Open)
	go func() {
		begin, tick := time.Now(), time.NewTicker(5*time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			<-tick.C
			for due := int(int64(time.Since(begin)) * int64(len(g.machines)) / int64(v.Every)); n < due; n++ {
				slots <- struct{}{}
				go func(p *player) {
					defer func() { <-slots }()
					g.visitors.note(p.id, p.visit)
				}(g.machines[n%len(g.machines)])
			}
		}
	}()
	return nil, nil
}

func (v *visitors) note(id fleet.MachineID, visit func() (time.Duration, bool, error)) {
	took, resumed, err := visit()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.failed++
		v.last = fmt.Errorf("%s: %w", id, err)
		return
	}
	v.seen[id] = true
	v.each = append(v.each, took.Microseconds())
	if resumed {
		v.resumed++
	}
}

// taken says how long the check-ins since the last time took, and how many of them
// were resumed.
func (v *visitors) taken(struct{}) (any, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := times{Each: v.each, Sum: v.resumed}
	if v.failed*100 > len(v.each) {
		return nil, fmt.Errorf("%d check-ins failed beside %d: %w", v.failed, len(v.each), v.last)
	}
	v.each, v.resumed, v.failed = nil, 0, 0
	return t, nil
}

// visit is one check-in, and all that it leads to, over a connection of its own. It
// returns how long the check-in took.
func (p *player) visit() (took time.Duration, resumed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	begin := time.Now()
	raw, err := (&tls.Dialer{Config: &tls.Config{
		RootCAs: p.g.pool, Certificates: []tls.Certificate{{Certificate: [][]byte{p.cert}, PrivateKey: p.key}}, ClientSessionCache: &p.session,
	}}).DialContext(ctx, "tcp", strings.TrimPrefix(p.g.agents, "https://"))
	if err != nil {
		return 0, false, err
	}
	defer raw.Close()
	conn := raw.(*tls.Conn)
	if err = conn.SetDeadline(begin.Add(time.Minute)); err != nil {
		return 0, false, err
	}
	c := &visit{p.g.agents, conn, bufio.NewReader(conn)}
	in := p.says()
	in.PollMs = time.Minute.Milliseconds()
	var o api.Orders
	if err = c.call(http.MethodPost, api.PathCheckIn, in, &o); err != nil {
		return 0, false, err
	}
	took, resumed = time.Since(begin), conn.ConnectionState().DidResume
	p.mu.Lock()
	p.have, p.epoch = o.Etag, o.Epoch
	ordered := o.Apply != nil && o.Apply.Digest != p.digest
	p.mu.Unlock()
	if !ordered {
		return took, resumed, nil
	}
	if err = c.call(http.MethodGet, api.PathRelease+string(o.Apply.Digest), nil, nil); err != nil {
		return took, resumed, err
	}
	reports := p.carryOut(*o.Apply)
	var reply api.ReportsReply
	if err = c.call(http.MethodPost, api.PathReports, api.Reports{Reports: reports}, &reply); err == nil && len(reply.Accepted) < len(reports) {
		err = fmt.Errorf("%d of %d reports were accepted", len(reply.Accepted), len(reports))
	}
	return took, resumed, err
}

// visit is a connection that makes one request after the other.
type visit struct {
	base string
	conn *tls.Conn
	in   *bufio.Reader
}

func (c *visit) call(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		return err
	}
	if err = req.Write(c.conn); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", path, res.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// session is a cache of one TLS session.
type session struct {
	mu    sync.Mutex
	state *tls.ClientSessionState
}

// Get is for tls.ClientSessionCache.
func (s *session) Get(string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.state != nil
}

// Put is for tls.ClientSessionCache.
func (s *session) Put(_ string, state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}
