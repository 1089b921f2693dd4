// SPDX-License-Identifier: AGPL-3.0-only

package ending

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
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
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// served has a client make a request of a server, then ends the server; the request
// takes that long. It returns how long the end took, and what the client got.
func served(t *testing.T, protocols func(*http.Protocols), takes time.Duration, shutdown func(*http.Server) func(context.Context, *http.Server) error) (took time.Duration, got string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn, 1), done: make(chan struct{})}
		srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(takes)
			_, _ = io.WriteString(w, "whole")
		})}
		protocols(srv.Protocols)
		client := &http.Transport{Protocols: srv.Protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			l.conns <- there
			return here, nil
		}}
		defer client.CloseIdleConnections()
		end := shutdown(srv)
		go func() { _ = srv.Serve(l) }()
		answered := make(chan string, 1)
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://cp/", nil)
			if err != nil {
				t.Error(err)
			}
			res, err := client.RoundTrip(req)
			if err != nil {
				answered <- err.Error()
				return
			}
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Error(err)
			}
			answered <- string(b)
		}()
		synctest.Wait()
		if takes == 0 {
			got = <-answered
			synctest.Wait()
		}
		begin := time.Now()
		if err := end(t.Context(), srv); err != nil {
			t.Error(err)
		}
		took = time.Since(begin)
		if takes > 0 {
			got = <-answered
		}
	})
	return took, got
}

// A server ends as soon as its requests are served, whole, and not before; of HTTP/2
// after its clients were heard.
func TestShutdown_EndsSoonAndCutsNothing(t *testing.T) {
	one := func(p *http.Protocols) { p.SetHTTP1(true) }
	two := func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }
	plain := func(*http.Server) func(context.Context, *http.Server) error { return Shutdown }
	counted := func(srv *http.Server) func(context.Context, *http.Server) error {
		c := New()
		srv.ConnState = c.State
		return c.Shutdown
	}
	for name, test := range map[string]struct {
		protocols   func(*http.Protocols)
		shutdown    func(*http.Server) func(context.Context, *http.Server) error
		takes       time.Duration
		least, most time.Duration
	}{
		"HTTP/1, idle":          {one, plain, 0, 0, 10 * time.Millisecond},
		"HTTP/1, at work":       {one, plain, 3 * time.Second, 3 * time.Second, 3*time.Second + lookFor},
		"HTTP/1, idle, counted": {one, counted, 0, 0, 10 * time.Millisecond},
		"HTTP/2, idle":          {two, counted, 0, hearTime, hearTime + lookFor},
		"HTTP/2, at work":       {two, counted, 3 * time.Second, 3 * time.Second, 3*time.Second + lookFor},
	} {
		took, got := served(t, test.protocols, test.takes, test.shutdown)
		if got != "whole" || took < test.least || took > test.most {
			t.Errorf("%s: ended after %s, want %s to %s; the client got %q", name, took, test.least, test.most, got)
		}
	}
}
