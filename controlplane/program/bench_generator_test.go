// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// A generator is a process of its own that plays many machines. The benchmark
// tells it what to do over HTTP; a body and a reply are JSON.
//
// Its machines talk as agents do, by the agents' own client, but have nothing to
// fetch and nothing to switch: they report the phases of an attempt one after the
// other.

// generatorEnv has the address that a generator listens at.
const generatorEnv = "NIXFLEET_BENCH_GENERATOR"

// fleetToPlay is what a generator needs of its machines.
type fleetToPlay struct {
	Agents   string // base URL
	CA       []byte
	Machines []machineToPlay
}

type machineToPlay struct {
	ID          fleet.MachineID
	Certificate []byte
	Key         ed25519.PrivateKey
	Hash        fleet.Digest // of the key
}

// releaseToPlay is a release of which a generator's machines know their systems.
type releaseToPlay struct {
	Digest fleet.Digest
	System string
}

// burst is a number of calls, made as fast as the control plane answers.
type burst struct {
	Machines int // the first so many
	Calls    int // of each
}

// paced are check-ins at a steady rate, by machines in turn.
type paced struct {
	Machines, PerSecond int
	For                 time.Duration
}

// times is when something happened, each in Unix microseconds.
type times struct {
	Began, Ended int64
	Each         []int64
	Sum          int64 // of what was counted
}

type generator struct {
	agents   string // base URL
	pool     *x509.CertPool
	machines []*player
	visitors visitors
	dials    atomic.Int64
	manual   atomic.Bool // an order is noted, and ends the machine's polls
	systems  sync.Map    // of string: what trusttest.Entry calls the systems of a release, by fleet.Digest
	polls    sync.WaitGroup
	stop     context.CancelFunc
}

// player is one machine.
type player struct {
	g      *generator
	id     fleet.MachineID
	client *api.AgentClient

	cert    []byte
	key     ed25519.PrivateKey
	session session // of visits

	mu      sync.Mutex
	running fleet.StorePath
	digest  fleet.Digest
	have    string
	epoch   string
	order   *fleet.Order // the last one
	ordered int64        // when it came, Unix microseconds
	reports int
	outbox  []fleet.Report // that the next check-in carries
}

// generate is a generator's main function.
func generate(addr string) error {
	debug.SetGCPercent(400) // its work is none of what is measured
	g := &generator{}
	mux := http.NewServeMux()
	handle(mux, "/connect", g.connect)
	handle(mux, "/idle", g.idle)
	handle(mux, "/paced", g.paced)
	handle(mux, "/poll", g.poll)
	handle(mux, "/quiet", g.quiet)
	handle(mux, "/manual", func(on bool) (any, error) { g.manual.Store(on); return nil, nil })
	handle(mux, "/release", func(r releaseToPlay) (any, error) { g.systems.Store(r.Digest, r.System); return nil, nil })
	handle(mux, "/ordered", g.ordered)
	handle(mux, "/finish", g.finish)
	handle(mux, "/come", g.come)
	handle(mux, "/visits", g.visitors.taken)
	handle(mux, "/seen", func(struct{}) (any, error) {
		g.visitors.mu.Lock()
		defer g.visitors.mu.Unlock()
		return times{Sum: int64(len(g.visitors.seen))}, nil
	})
	handle(mux, "/dials", func(struct{}) (any, error) { return times{Sum: g.dials.Load()}, nil })
	// It ends with the benchmark.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.ListenAndServe(addr, mux)
}

func handle[In any](mux *http.ServeMux, path string, do func(In) (any, error)) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := json.NewDecoder(r.Body).Decode(&in)
		var out any
		if err == nil {
			out, err = do(in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	})
}

// connect makes the machines' clients.
func (g *generator) connect(f fleetToPlay) (any, error) {
	g.agents, g.pool = f.Agents, x509.NewCertPool()
	g.pool.AppendCertsFromPEM(f.CA)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		g.dials.Add(1)
		return (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext(ctx, network, addr)
	}
	for _, m := range f.Machines {
		c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: f.Agents, DialContext: dial, TLS: &tls.Config{
			RootCAs: g.pool, Certificates: []tls.Certificate{{Certificate: [][]byte{m.Certificate}, PrivateKey: m.Key}},
		}})
		if err != nil {
			return nil, err
		}
		g.machines = append(g.machines, &player{
			g: g, id: m.ID, client: c, cert: m.Certificate, key: m.Key, running: trusttest.Entry(m.ID, "first").StorePath,
		})
	}
	return nil, nil
}

// paced has machines check in at a steady rate. A check-in that begins late because
// others are slow has waited since it was due.
func (g *generator) paced(v paced) (any, error) {
	var mu sync.Mutex
	var each []int64
	var first error
	var wg sync.WaitGroup
	begin, tick := time.Now(), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := 0; time.Since(begin) < v.For; {
		<-tick.C
		for ; n < int(time.Since(begin).Seconds()*float64(v.PerSecond)); n++ {
			due := begin.Add(time.Duration(n+1) * time.Second / time.Duration(v.PerSecond))
			p := g.machines[n%v.Machines]
			wg.Go(func() {
				err := p.checkIn(context.Background(), 0)
				mu.Lock()
				defer mu.Unlock()
				each = append(each, time.Since(due).Microseconds())
				if err != nil && first == nil {
					first = err
				}
			})
		}
	}
	wg.Wait()
	return times{Each: each}, first
}

// each does something with the first n machines, 64 at a time.
func (g *generator) each(n int, do func(*player) error) (times, error) {
	t := times{Began: time.Now().UnixMicro()}
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	next := make(chan *player)
	for range 64 {
		wg.Go(func() {
			for p := range next {
				if err := do(p); err != nil {
					err = fmt.Errorf("%s: %w", p.id, err)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	for _, p := range g.machines[:n] {
		next <- p
	}
	close(next)
	wg.Wait()
	t.Ended = time.Now().UnixMicro()
	if err := first.Load(); err != nil {
		return t, *err
	}
	return t, nil
}

// idle has machines check in that have nothing new to say.
func (g *generator) idle(b burst) (any, error) {
	return g.each(b.Machines, func(p *player) error {
		for range b.Calls {
			if err := p.checkIn(context.Background(), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// poll has all machines hold long polls, and carry out what they are ordered,
// until quiet.
func (g *generator) poll(struct{}) (any, error) {
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	for _, p := range g.machines {
		g.polls.Go(func() { p.poll(ctx) })
	}
	return nil, nil
}

func (g *generator) quiet(struct{}) (any, error) {
	g.stop()
	g.polls.Wait()
	return nil, nil
}

// ordered says when the orders of a rollout came.
func (g *generator) ordered(id fleet.RolloutID) (any, error) {
	var t times
	for _, p := range g.machines {
		p.mu.Lock()
		if p.order != nil && p.order.Rollout == id {
			t.Each = append(t.Each, p.ordered)
		}
		p.mu.Unlock()
	}
	return t, nil
}

// finish has the machines that were ordered something say that they verify it,
// and report that it is live: a check-in that is new, with a report that is audited.
func (g *generator) finish(struct{}) (any, error) {
	waiting := slices.DeleteFunc(slices.Clone(g.machines), func(p *player) bool { return p.order == nil })
	t, err := (&generator{machines: waiting}).each(len(waiting), func(p *player) error {
		ci := p.says()
		ci.State = fleet.AgentVerifying
		p.mu.Lock()
		o := *p.order
		p.order = nil
		p.mu.Unlock()
		reports := p.carryOut(o)
		ci.Reports = reports[len(reports)-1:]
		v, err := p.client.CheckIn(context.Background(), ci)
		if err == nil && v.Reports == nil {
			err = errors.New("the report was not taken in")
		}
		return err
	})
	return t, err
}

func (p *player) says() api.CheckIn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return api.CheckIn{
		Machine: p.id, AgentVersion: "bench", System: "x86_64-linux", Line: "main", BootID: "boot-1", State: fleet.AgentIdle,
		Generations: fleet.Generations{Running: p.running, Booted: p.running, BootDefault: p.running}, RunsRelease: p.digest,
		Checks: []fleet.HealthCheckResult{{Name: "multi-user", Kind: fleet.HealthCheckUnit, Required: true, Status: fleet.HealthCheckPassing}},
		Epoch:  p.epoch,
	}
}

func (p *player) checkIn(ctx context.Context, wait time.Duration) error {
	ci := p.says()
	p.mu.Lock()
	ci.Reports = p.outbox[:min(len(p.outbox), api.MaxRiding)]
	if wait > 0 && len(ci.Reports) == 0 {
		ci.Have, ci.WaitMs = p.have, wait.Milliseconds()
	}
	p.mu.Unlock()
	o, err := p.client.CheckIn(ctx, ci)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ci.Reports) > 0 && o.Reports != nil {
		p.outbox = p.outbox[len(ci.Reports):]
	}
	p.have, p.epoch = o.Etag, o.Epoch
	if o.Apply != nil && o.Apply.Digest != p.digest {
		p.order, p.ordered = o.Apply, time.Now().UnixMicro()
	}
	return nil
}

// poll holds long polls. It waits after failures as an agent does.
func (p *player) poll(ctx context.Context) {
	waits := wait.BackOff(time.Second, time.Minute)
	for ctx.Err() == nil {
		if err := p.checkIn(ctx, api.DefaultWaitMs*time.Millisecond); err != nil {
			d := waits.NextBackOff()
			if after, ok := api.RetryAfter(err); ok {
				d = wait.Asked(after)
			}
			wait.For(ctx, d)
			continue
		}
		waits.Reset()
		p.mu.Lock()
		o := p.order
		p.mu.Unlock()
		switch {
		case o == nil:
			continue
		case p.g.manual.Load():
			return
		}
		if untilAnswered(ctx, func() error { _, err := p.client.Release(ctx, o.Digest); return err }) != nil {
			continue
		}
		reports := p.carryOut(*o)
		p.mu.Lock()
		p.order = nil
		p.outbox = append(p.outbox, reports...)
		p.mu.Unlock()
	}
}

// carryOut does what an order says, and returns what there is to report.
func (p *player) carryOut(o fleet.Order) []fleet.Report {
	var reports []fleet.Report
	for _, phase := range []fleet.AssignmentState{fleet.AssignFetching, fleet.AssignApplying, fleet.AssignVerifying} {
		reports = append(reports, p.report(o, fleet.Report{Kind: fleet.ReportProgress, Phase: phase}))
	}
	p.mu.Lock()
	p.digest, p.running = o.Digest, p.target(o)
	p.mu.Unlock()
	return append(reports, p.report(o, fleet.Report{
		Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Confirmed: "control-plane",
		Checks: []fleet.HealthCheckResult{{Name: "multi-user", Kind: fleet.HealthCheckUnit, Required: true, Status: fleet.HealthCheckPassing}},
	}))
}

// target is the system that an order leads to.
func (p *player) target(o fleet.Order) fleet.StorePath {
	name, _ := p.g.systems.Load(o.Digest)
	return trusttest.Entry(p.id, fmt.Sprint(name)).StorePath
}

func (p *player) report(o fleet.Order, r fleet.Report) fleet.Report {
	p.mu.Lock()
	p.reports++
	r.ID = fmt.Sprintf("%d-%d", time.Now().UnixNano(), p.reports)
	r.Generations = fleet.Generations{Running: p.running, Booted: p.running, BootDefault: p.running}
	p.mu.Unlock()
	r.Machine, r.At, r.BootID = p.id, time.Now().UnixMilli(), "boot-1"
	r.Rollout, r.Attempt, r.Digest, r.StorePath = o.Rollout, o.Attempt, o.Digest, p.target(o)
	return r
}

// untilAnswered asks again while the control plane cannot answer, as an agent does.
func untilAnswered(ctx context.Context, ask func() error) error {
	waits := wait.BackOff(time.Second, time.Minute)
	for {
		err := ask()
		if err == nil || ctx.Err() != nil || !fleet.ErrorCode(err).Temporary() {
			return err
		}
		d := waits.NextBackOff()
		if after, ok := api.RetryAfter(err); ok {
			d = wait.Asked(after)
		}
		wait.For(ctx, d)
	}
}
