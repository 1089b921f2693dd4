// SPDX-License-Identifier: AGPL-3.0-only

// Package server is the control plane's edge: the listeners for operators,
// agents and metrics, who may call what, and how calls and errors look on the
// wire.
//
// It decides nothing about machines or rollouts and holds no state but open
// connections: that is the work of plane and its rooms.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/calls"
	"github.com/arcanesys/nixfleet/controlplane/ending"
	"github.com/arcanesys/nixfleet/controlplane/guard"
	"github.com/arcanesys/nixfleet/controlplane/handshakes"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/clock"
	"github.com/arcanesys/nixfleet/internal/config"
)

// drainLimit is how long calls may take to end when the control plane stops.
// Long polls and event streams end at once.
const drainLimit = 10 * time.Second

// keepAlive is how long a connection may be silent until it is probed: a machine
// that lost its power, or its network, is noticed within twice that.
const keepAlive = 15 * time.Second

// Options is what a Server is made of.
type Options struct {
	Plane    *plane.Plane
	Identity *Identity
	Log      *slog.Logger
	Now      clock.Clock
	Metrics  config.MetricsGuard // who may see them
}

// Server serves a plane.
type Server struct {
	plane    *plane.Plane
	identity *Identity
	log      *slog.Logger
	clock    clock.Clock
	metrics  *metrics
	conns    *conns
	shakes   *handshakes.Counts
	vouched  *vouched
	failures *failures
	budgets  *budgets
	calls    *calls.Calls
	holds    sync.WaitGroup
	returned *returned

	operators, agents, again, health *http.Server
	operatorConns, healthConns       *ending.Conns

	// draining ends long polls and event streams.
	draining context.Context
	drain    context.CancelFunc
}

// Listeners are the three sockets of a control plane.
type Listeners struct {
	Operators, Agents, Metrics net.Listener
}

// Listen opens the three sockets. The error's code is Conflict when one is in
// use; then none is left open.
func Listen(ctx context.Context, c config.Listen) (Listeners, error) {
	var l Listeners
	for _, s := range []struct {
		name, addr string
		to         *net.Listener
	}{{"operators", c.Operators, &l.Operators}, {"agents", c.Agents, &l.Agents}, {"metrics", c.Metrics, &l.Metrics}} {
		lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive / 3, Count: 3}}
		got, err := lc.Listen(ctx, "tcp", s.addr)
		if err != nil {
			l.Close()
			if errors.Is(err, syscall.EADDRINUSE) {
				return Listeners{}, fleet.Errorf(fleet.Conflict, "listen.%s: %s is in use", s.name, s.addr).
					WithHint("is another control plane running? ss -ltnp shows who listens")
			}
			return Listeners{}, fleet.Errorf(fleet.Invalid, "listen.%s: %w", s.name, err)
		}
		*s.to = got
	}
	return l, nil
}

// Close closes those that are open.
func (l Listeners) Close() {
	for _, x := range []net.Listener{l.Operators, l.Agents, l.Metrics} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// New prepares a server; it opens nothing.
func New(o Options) (*Server, error) {
	failures, err := newFailures()
	if err != nil {
		return nil, err
	}
	budgets, err := newBudgets()
	if err != nil {
		return nil, err
	}
	shakes, err := handshakes.New()
	if err != nil {
		return nil, err
	}
	vouched, err := newVouched()
	if err != nil {
		return nil, err
	}
	s := &Server{
		plane: o.Plane, identity: o.Identity, log: o.Log, clock: o.Now,
		operatorConns: ending.New(), healthConns: ending.New(),
		conns: newConns(), shakes: shakes, vouched: vouched, failures: failures, budgets: budgets, calls: calls.New(), returned: newReturned(),
	}
	s.conns.wasted = func(address string) { shakes.Waste(address, s.clock.Now()) }
	s.metrics = newMetrics(o.Plane, s.conns, o.Log)
	s.draining, s.drain = context.WithCancel(context.Background())
	errorLog := slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)

	operators, err := s.operatorHandler()
	if err != nil {
		return nil, err
	}
	s.operators = &http.Server{
		Handler: operators, ErrorLog: errorLog, TLSConfig: s.operatorTLS(), ConnState: s.operatorConns.State,
		ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	// Handlers of the agents' listener set their own deadlines: a long poll is
	// meant to last.
	s.agents = &http.Server{
		Handler: s.agentHandler(), ErrorLog: errorLog, ConnContext: s.conns.open, ConnState: s.conns.changed,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 6 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	// A connection that was held is as a new one to net/http, and as an idle one here.
	s.again = &http.Server{
		Handler: s.agents.Handler, ErrorLog: errorLog, ConnContext: s.conns.open, ConnState: s.conns.changed,
		ReadHeaderTimeout: s.agents.IdleTimeout, IdleTimeout: s.agents.IdleTimeout, MaxHeaderBytes: s.agents.MaxHeaderBytes,
	}
	metricsTLS, err := guard.TLS(o.Metrics, s.operatorTLS())
	if err != nil {
		return nil, err
	}
	s.health = &http.Server{
		Handler: s.healthHandler(o.Metrics), ErrorLog: errorLog, TLSConfig: metricsTLS, ConnState: s.healthConns.State,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
	return s, nil
}

// Serve serves until ctx ends. Then it ends long polls and event streams, lets
// other calls finish and closes the listeners. It returns nil after an orderly
// end.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	defer l.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	serve := func(name string, fn func() error) {
		wg.Go(func() {
			if err := fn(); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serve %s: %w", name, err))
			}
		})
	}
	serve("operators", func() error { return s.operators.ServeTLS(l.Operators, "", "") })
	serve("agents", func() error { return s.agents.Serve(tls.NewListener(l.Agents, s.agentTLS())) })
	serve("agents", func() error { return s.again.Serve(s.returned) })
	serve("metrics", func() error {
		if s.health.TLSConfig != nil {
			return s.health.ServeTLS(l.Metrics, "", "")
		}
		return s.health.Serve(l.Metrics)
	})
	<-ctx.Done()
	err := context.Cause(ctx)
	s.shutdown()
	wg.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (s *Server) shutdown() {
	s.drain()
	s.plane.EndPolls()
	s.conns.closeIf(func(p peer) bool { return p.quiet }) // net/http would wait for their next request
	limit, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	var wg sync.WaitGroup
	for srv, shutdown := range map[*http.Server]func(context.Context, *http.Server) error{
		s.operators: s.operatorConns.Shutdown, s.agents: ending.Shutdown, s.again: ending.Shutdown, s.health: s.healthConns.Shutdown,
	} {
		wg.Go(func() {
			if err := shutdown(limit, srv); err != nil {
				_ = srv.Close() // what has not ended by now is cut
			}
		})
	}
	wg.Wait()
	s.holds.Wait() // each has ended, or was told to
}

// untilDrain returns a context that ends with ctx or when the server stops.
func (s *Server) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.draining, cancel)
	return ctx, func() { stop(); cancel() }
}
