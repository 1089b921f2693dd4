// SPDX-License-Identifier: MIT

package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	agentmachine "github.com/arcanesys/nixfleet/internal/agent/machine"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// process is an agent from its start to its end.
type process struct {
	m      *machine
	of     fleet.StorePath // the system whose agent it is
	outbox *disk.Outbox
	snap   *agentmachine.Snapshot
	link   *link.Link
	cancel context.CancelFunc
	alive  atomic.Bool
	parts  sync.WaitGroup
}

var errDead = errors.New("the agent was killed")

// startAgent starts an agent on the machine's files.
func (m *machine) startAgent() {
	log := m.w.log.With("machine", m.id)
	p := &process{m: m}
	var err error
	m.mu.Lock()
	p.of = m.running
	m.mu.Unlock()
	files := m.files()
	second := disk.FloorCopy{File: filepath.Join(m.rootsDir(), "floor.json"), Machine: m.id}
	j, lost, err := files.Journal().Load()
	m.w.must(err)
	if lost {
		m.w.violated(nothingLost, "%s has lost its journal", m.id)
	}
	kept, ok, err := second.Read(j.Trust.Root)
	m.w.must(err)
	if ok && j.Trust.Floor != nil { // internal/agent joins them; here nothing is lost
		floor := j.Trust.Floor.Join(kept.Floor)
		j.Trust.Floor = &floor
		reverted := maps.Clone(kept.Reverted)
		if reverted == nil {
			reverted = map[fleet.Digest]bool{}
		}
		maps.Copy(reverted, j.Trust.Reverted)
		j.Trust.Reverted = reverted
	}
	m.revive()
	p.outbox, err = disk.OpenOutbox(files.Outbox())
	m.w.must(err)
	snap := agentmachine.NewSnapshot(m.id, j, log)
	p.snap = snap
	snap.Host = agentmachine.Host{Now: m.now, Generations: m.generations}
	p.link = link.New(link.Config{Agent: m.conf, Version: "sim", Machine: snap, Outbox: p.outbox, Log: log, Dial: p.dial})
	acts := agentmachine.New(agentmachine.Config{
		Snapshot: snap, Agent: m.conf, ConfigFile: filepath.Join(m.dir, "agent.toml"), ConfigText: m.text,
		ReadConfig: func(string) (config.Agent, error) { return m.conf, nil },
		Plane:      ordersOnly{p.link}, Supervisor: p, Outbox: p.outbox, Probe: p.probe,
	})
	e := &agent.Engine{
		Save: func(j states.Journal) error { return p.save(j, second) }, Report: p.report, Changed: snap.SetJournal,
		Effects: effects{acts, p}, Machine: m.id, Log: log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.alive.Store(true)
	m.mu.Lock()
	m.process = p
	m.mu.Unlock()
	p.parts.Go(func() { p.link.Run(ctx) })
	p.parts.Go(func() { e.Run(ctx, j) })
}

// kill ends the process as kill -9 does: what it does after this moment is not on
// the machine's disk. The machine starts it again.
func (p *process) kill() {
	if !p.alive.CompareAndSwap(true, false) {
		return
	}
	m := p.m
	m.mu.Lock()
	m.ending = true
	m.mu.Unlock()
	files := m.keep()
	p.cancel()
	m.w.loose.Go(func() {
		p.parts.Wait()
		m.restore(files)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.process, m.ending = nil, false
		if at := time.Now().Add(time.Duration(1+m.rng.IntN(4)) * time.Second); at.After(m.startAt) {
			m.startAt = at
		}
	})
}

// point is a place at which the process may end; it reports whether it goes on.
func (p *process) point() bool {
	m := p.m
	m.mu.Lock()
	dies := m.killIn == 1
	m.killIn = max(0, m.killIn-1)
	m.mu.Unlock()
	if dies && p.alive.Load() {
		m.w.count(agentKilledAtStep)
		p.kill()
	}
	return p.alive.Load()
}

func (p *process) save(j states.Journal, second disk.FloorCopy) error {
	if !p.point() {
		return errDead
	}
	p.m.mu.Lock()
	full := time.Now().Before(p.m.fullUntil)
	p.m.mu.Unlock()
	if full {
		return syscall.ENOSPC
	}
	var err error
	if f := j.Trust.Floor; f != nil {
		err = second.Write(disk.Kept{Floor: *f, Reverted: j.Trust.Reverted}, j.Trust.Root)
	}
	if err = errors.Join(err, p.m.files().Journal().Save(j)); err == nil {
		p.point()
	}
	return err
}

// report queues a report. From then on it must not be lost.
func (p *process) report(r fleet.Report) error {
	if !p.point() {
		return errDead
	}
	err := p.outbox.Put(r)
	if err == nil {
		p.m.w.ledger.queued(r)
		p.point()
	}
	return err
}

func (p *process) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if !p.alive.Load() || p.m.offNetwork() {
		return nil, refused(addr)
	}
	return p.m.at.dial(ctx, network, addr)
}

func (p *process) probe(_ context.Context, c fleet.HealthCheck) (bool, string) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.w.systemAt(p.m.running).sick {
		return false, c.Name + " is failed"
	}
	return true, c.Name + " is active"
}

// The supervisor of the machine.

func (p *process) Run(ctx context.Context, s host.Switch) (host.Result, error) {
	m := p.m
	m.mu.Lock()
	u, begun := m.units[s.Name]
	if !begun && p.alive.Load() && m.on {
		u = m.begin(s)
		m.units[s.Name] = u
	}
	m.mu.Unlock()
	if u == nil {
		return host.Result{}, errDead
	}
	limit := time.NewTimer(max(s.Limit, 0))
	defer limit.Stop()
	select {
	case <-u.done:
		return host.Result{Code: u.code}, nil
	case <-ctx.Done():
		return host.Result{}, ctx.Err()
	case <-limit.C:
		u.kill()
		<-u.done
		return host.Result{Code: -1, TimedOut: true}, nil
	}
}

func (p *process) FailedUnits(context.Context) ([]string, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.w.systemAt(p.m.running).degraded {
		return []string{"backup.service"}, nil
	}
	return nil, nil
}

func (p *process) Successor(context.Context) (next, mine bool, err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.m.w.systemAt(p.m.running).agent != p.m.w.systemAt(p.of).agent, true, nil
}

func (p *process) RestartAgent(context.Context) error {
	p.m.w.loose.Go(p.kill)
	return nil
}

func (p *process) Reboot(context.Context) error {
	p.m.w.lookAtReboot(p.m, p.snap.Journal())
	down := time.Duration(10+p.m.draw(30)) * time.Second
	p.m.w.loose.Go(func() { p.m.powerOff(down, false) })
	return nil
}

// ordersOnly leaves out what may be fetched early: there is nothing to fetch.
type ordersOnly struct{ *link.Link }

func (o ordersOnly) Orders() (states.Orders, bool) {
	v, given := o.Link.Orders()
	v.Prefetch = ""
	return v, given
}

// effects are those of internal/agent/machine, but the ones that run Nix.
type effects struct {
	*agentmachine.Machine
	p *process
}

func (e effects) Perform(ctx context.Context, j states.Journal) states.Input {
	if !e.p.point() {
		return nil
	}
	in := e.perform(ctx, j)
	if !e.p.point() {
		return nil
	}
	return in
}

func (e effects) perform(ctx context.Context, j states.Journal) states.Input {
	m, w := e.p.m, j.Work
	switch j.Step {
	case states.Fetch:
		return e.fetch(ctx, w)
	case states.Prepare:
		return e.prepare(ctx, w)
	case states.Arm:
		o := disk.Watch{Previous: w.Previous.Path, BootID: w.BootID, Deadline: w.WatchUntil, AfterBoot: 60 + w.Confirm + states.WatchMargin(w.Confirm)}
		if w.Action == states.ActionBoot {
			o.Deadline = 0
		}
		return done(m.files().Watch().Write(o))
	case states.Profile:
		return e.profile(w.Target.Path)
	case states.RollbackProfile:
		if o, armed, err := m.files().Watch().Read(); err == nil && armed && !o.Fired {
			now := e.Now()
			o.BootID, o.Deadline = now.BootID, now.Boot+2*w.SwitchLimit()+states.WatchMargin(60)
			m.w.must(m.files().Watch().Write(o))
		}
		return e.profile(w.Previous.Path)
	case states.Switch:
		m.w.ledger.switches(m, w)
	case states.Report:
		return e.outcome(j)
	default:
	}
	return e.Machine.Perform(ctx, j)
}

func done(err error) states.Input {
	if err != nil {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: err.Error()}
	}
	return states.Done{}
}

// fetch takes its time, and fails while the machine is cut off.
func (e effects) fetch(ctx context.Context, w *states.Work) states.Input {
	m := e.p.m
	m.mu.Lock()
	d := time.Duration(m.rng.IntN(8000))*time.Millisecond + 4*m.slow
	m.mu.Unlock()
	if !wait.For(ctx, d+time.Duration(min(w.Tries, 5))*5*time.Second) {
		return nil
	}
	var state cut
	m.at.set(func(p *place) { state = p.cut })
	if state != connected {
		return states.Failed{Reason: fleet.ReasonFetchFailed, Message: "the cache does not answer", Again: w.Tries < 20}
	}
	return states.Done{}
}

func (e effects) prepare(ctx context.Context, w *states.Work) states.Input {
	m := e.p.m
	failed, _ := e.p.FailedUnits(ctx)
	var baseline []string
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if e.Plane.Answers(limit) == nil {
		baseline = append(baseline, "control-plane")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return states.Prepared{
		Generations: fleet.Generations{Running: m.running, Booted: m.booted, BootDefault: m.profile}, FailedUnits: failed, Baseline: baseline,
		MayReboot: m.trait.mayReboot && w.Order.Reboot.Allows(), Confirm: m.conf.Confirm.DeadlineSeconds,
		Reboot: m.w.systemAt(m.booted).kernel != m.w.systemAt(w.Target.Path).kernel,
	}
}

func (e effects) profile(s fleet.StorePath) states.Input {
	m := e.p.m
	m.take(500 * time.Millisecond)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !e.p.alive.Load() {
		return nil
	}
	m.setProfile(s)
	return states.Done{}
}

func (e effects) outcome(j states.Journal) states.Input {
	m := e.p.m
	m.take(500 * time.Millisecond)
	if !e.p.alive.Load() {
		return nil
	}
	r := e.Seen().Outcome(j)
	m.w.ledger.outcome(m, j.Work, r)
	if err := e.p.report(r); err != nil {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: fmt.Sprint(err)}
	}
	m.w.must(errors.Join(m.files().History().Add(r), m.files().Watch().Remove()))
	return states.Done{}
}
