// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
)

const (
	oldPath fleet.StorePath = "/nix/store/00000000000000000000000000000000-old"
	newPath fleet.StorePath = "/nix/store/11111111111111111111111111111111-new"
)

// scenario is a release and what is wrong with it.
type scenario struct {
	name    string
	code    int  // of the new system's switch
	hang    bool // it does not end
	half    bool // activation ends before the new system runs
	checks  bool // the new system's checks pass
	cut     bool // the new system cuts the network
	agent   bool // the new system has another agent
	crash   bool // and that one ends at once
	reboot  bool // the new system wants a reboot
	bootBad bool // the boot loader falls back to the old one
	revert  bool // the control plane orders a revert when it is live
	full    bool // the disk is full from the switch on
	outcome fleet.Outcome
}

// simDisk is what survives the agent and the machine.
type simDisk struct {
	journal     []byte
	watch       *disk.Watch
	reports     map[string]fleet.Report // by id
	order       []string
	profile     fleet.StorePath
	bootDefault fleet.StorePath
	codes       map[string]int // exit codes left by switches
	started     map[string]bool
}

// sim is a machine without a machine: what the effects do to it takes several
// moves, and before and after each of them the agent may be killed or the power
// may fail.
type sim struct {
	scenario
	disk    simDisk
	running fleet.StorePath
	booted  fleet.StorePath
	agentOf fleet.StorePath // whose agent's process this is
	now     states.Moment
	live    map[string]func() // switches under way, and how they end when left alone

	mu      sync.Mutex
	points  int // passed since the simulation began
	stopAt  map[int]fault
	stopped bool
	stop    context.CancelFunc
	last    fault
}

// fault is how an agent's life ends.
type fault string

const (
	kill    fault = "kill"    // the agent alone
	power   fault = "power"   // the machine
	restart fault = "restart" // asked for by the agent itself
	booting fault = "booting" // likewise
	finish  fault = "finish"  // there is nothing left to do
)

func newSim(s scenario) *sim {
	m := &sim{scenario: s, running: oldPath, booted: oldPath, agentOf: oldPath, live: map[string]func(){}, stopAt: map[int]fault{}}
	m.now = states.Moment{WallMs: 1_000_000, Boot: 100, BootID: "boot-1"}
	m.disk = simDisk{profile: oldPath, bootDefault: oldPath, reports: map[string]fleet.Report{}, codes: map[string]int{}, started: map[string]bool{}}
	j := states.New()
	j.Current = &states.System{Path: oldPath, Digest: fleet.SHA256([]byte("old")), Line: "main", Sequence: 1}
	j.Trust.Floor = &trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 1, Digest: j.Current.Digest}}}
	m.disk.journal = encode(j)
	return m
}

func encode(j states.Journal) []byte {
	b, err := json.Marshal(j)
	if err != nil {
		panic(err) // a journal is made of plain values
	}
	return b
}

// point is a place where the agent's life may end; it reports whether it goes
// on. Nothing happens to the machine after its end.
func (m *sim) point() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.points++
	m.now.Boot += 0.01
	m.now.WallMs += 10
	if f, ok := m.stopAt[m.points]; ok {
		m.end(f)
	}
	return !m.stopped
}

func (m *sim) end(f fault) {
	m.stopped, m.last = true, f
	m.stop()
}

// pass lets time go by, in which the watchdog may act.
func (m *sim) pass(seconds float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range int(seconds) + 1 {
		m.now.Boot++
		m.now.WallMs += 1000
		w := m.disk.watch
		if w == nil || !w.Due(m.now.BootID, m.now.Boot) {
			continue
		}
		w.Fired, w.Done, w.Message = true, true, "rolled back"
		m.disk.profile, m.disk.bootDefault, m.running = w.Previous, w.Previous, w.Previous
	}
}

func (m *sim) save(j states.Journal) error {
	if !m.point() {
		return errors.New("stopped")
	}
	if m.full && m.running == newPath && j.Step.State() != fleet.AgentRollingBack {
		return errors.New("no space left on device")
	}
	m.disk.journal = encode(j)
	m.point()
	return nil
}

func (m *sim) report(r fleet.Report) error {
	if !m.point() {
		return errors.New("stopped")
	}
	if _, ok := m.disk.reports[r.ID]; !ok {
		m.disk.order = append(m.disk.order, r.ID)
	}
	m.disk.reports[r.ID] = r
	m.point()
	return nil
}

func (m *sim) Generations() fleet.Generations {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fleet.Generations{Running: m.running, Booted: m.booted, BootDefault: m.disk.profile}
}

func (m *sim) Now() states.Moment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *sim) Interrupts(states.Journal) (states.Input, bool) { return nil, false }
func (m *sim) Wake() <-chan struct{}                          { return nil }

func (m *sim) Fired(context.Context) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.disk.watch; w != nil && w.Done {
		return w.Message, true
	}
	return "", false
}

var simOrder = states.Order{Kind: states.Apply, Order: fleet.Order{Digest: fleet.SHA256([]byte("new")), Rollout: "r1", Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000}}

func (m *sim) Idle(_ context.Context, j states.Journal) states.Input {
	if !j.Did(simOrder) {
		return states.Ordered{Order: simOrder}
	}
	order := states.Order{Kind: states.Revert, Order: fleet.Order{Digest: simOrder.Digest, Rollout: "r1", Attempt: 1}}
	if m.revert && j.Current.Path == newPath && !j.Did(order) {
		return states.Ordered{Order: order}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stopped {
		m.end(finish)
	}
	return nil
}

// do makes one move of an effect, unless the agent has ended.
func (m *sim) do(f func()) bool {
	if !m.point() {
		return false
	}
	m.mu.Lock()
	f()
	m.mu.Unlock()
	return m.point()
}

func (m *sim) Perform(_ context.Context, j states.Journal) states.Input {
	w := j.Work
	switch j.Step {
	case states.Judge:
		h := fleet.Header{Line: "main", Sequence: 2, Policy: fleet.Policy{ConfirmWindowMs: 20_000, RevertWindowMs: 3600_000}}
		a := trust.Accepted{Digest: simOrder.Digest, Header: h, Line: "main", Entry: fleet.Entry{StorePath: newPath}}
		return m.answer(states.Accepted{Release: a})
	case states.Prepare:
		return m.answer(states.Prepared{Generations: m.Generations(), Baseline: []string{"control-plane"}, Reboot: m.reboot, MayReboot: true})
	case states.Arm:
		o := disk.Watch{Previous: w.Previous.Path, BootID: w.BootID, Deadline: w.WatchUntil, AfterBoot: 90}
		if w.Action == states.ActionBoot {
			o.Deadline = 0
		}
		m.do(func() { m.disk.watch = &o })
	case states.Profile:
		m.do(func() { m.disk.profile = newPath })
	case states.RollbackProfile:
		m.do(func() {
			if o := m.disk.watch; o != nil {
				o.BootID, o.Deadline = m.now.BootID, m.now.Boot+100
			}
		})
		m.do(func() { m.disk.profile = w.Previous.Path })
	case states.Switch:
		return m.switchTo(w, newPath)
	case states.RollbackSwitch:
		return m.switchTo(w, w.Previous.Path)
	case states.AwaitReboot, states.RollbackReboot:
		if m.point() {
			m.mu.Lock()
			m.end(booting)
			m.mu.Unlock()
		}
		return nil
	case states.HandOver:
		m.do(func() {
			if o := m.disk.watch; o != nil {
				o.BootID, o.Deadline = w.BootID, w.ConfirmUntil+5
			}
		})
		return m.handOver()
	case states.RollbackHandOver:
		return m.handOver()
	case states.Confirm:
		if !m.cut || m.Generations().Running == oldPath {
			return m.answer(states.Confirmed{By: "control-plane"})
		}
		m.pass(w.ConfirmUntil - m.Now().Boot)
		return m.answer(states.Unconfirmed{Message: "nothing answered"})
	case states.Disarm:
		m.do(func() { m.disk.watch = nil })
	case states.Verify:
		if m.Generations().Running != newPath {
			return m.answer(states.Failed{Reason: fleet.ReasonChangedLocally})
		}
		if m.checks {
			return m.answer(states.Healthy{})
		}
		return m.answer(states.Unhealthy{Reason: fleet.ReasonCheckFailed, Message: "app is failed"})
	case states.Report:
		return m.reportOutcome(j)
	}
	return m.answer(states.Done{})
}

func (m *sim) answer(in states.Input) states.Input {
	if !m.point() {
		return nil
	}
	return in
}

func (m *sim) reportOutcome(j states.Journal) states.Input {
	w := j.Work
	r := fleet.Report{ID: states.Seen{Machine: "web-01"}.Outcome(j).ID, Kind: fleet.ReportOutcome, Outcome: w.Outcome, Reason: w.Reason}
	if m.report(r) != nil {
		return nil
	}
	m.do(func() { m.disk.watch = nil })
	return m.answer(states.Done{})
}

// handOver restarts the agent if another one is declared by what runs.
func (m *sim) handOver() states.Input {
	if m.agent && m.agentOf != m.Generations().Running {
		if m.point() {
			m.mu.Lock()
			m.end(restart)
			m.mu.Unlock()
		}
		return nil
	}
	return m.answer(states.Done{})
}

// switchTo runs a system's switch in a unit of its own, which goes on without
// the agent.
func (m *sim) switchTo(w *states.Work, path fleet.StorePath) states.Input {
	m.mu.Lock()
	_, ended := m.disk.codes[w.Unit]
	_, alive := m.live[w.Unit]
	begun := m.disk.started[w.Unit]
	m.mu.Unlock()
	bad := path == newPath
	code := 0
	if bad {
		code = m.code
	}
	moves := []func(){
		func() { m.disk.started[w.Unit] = true },
		func() { m.disk.bootDefault = path },
	}
	if w.Action == states.ActionSwitch && !(bad && m.half) {
		moves = append(moves, func() { m.running = path })
	}
	if bad && m.hang {
		moves = append(moves, func() {})
	} else {
		moves = append(moves, func() { m.disk.codes[w.Unit] = code })
	}
	if !ended && !alive && !begun {
		for i := range moves {
			rest := moves[i:]
			m.mu.Lock()
			m.live[w.Unit] = func() {
				for _, f := range rest {
					f()
				}
			}
			m.mu.Unlock()
			if !m.do(moves[i]) {
				return nil
			}
		}
		m.mu.Lock()
		delete(m.live, w.Unit)
		m.mu.Unlock()
	}
	code, ended = m.disk.codes[w.Unit]
	if !ended {
		if bad && m.hang {
			m.pass(w.SwitchUntil - m.Now().Boot)
			return m.answer(states.Switched{Generations: m.Generations(), Code: -1, TimedOut: true})
		}
		return m.answer(states.Switched{Generations: m.Generations(), Code: -1})
	}
	return m.answer(states.Switched{Generations: m.Generations(), Code: code})
}

// next lets the machine live on until an agent begins again.
func (m *sim) next() {
	switch m.last {
	case kill, restart:
		for name, rest := range m.live { // the switch does not care
			rest()
			delete(m.live, name)
		}
		m.now.Boot += 2
	case power, booting:
		m.live = map[string]func(){}
		m.now = states.Moment{WallMs: m.now.WallMs + 60_000, Boot: 5, BootID: fmt.Sprintf("boot-%d", m.now.WallMs)}
		m.running = m.disk.bootDefault
		if m.bootBad {
			m.running = oldPath
		}
		m.booted = m.running
	}
	m.stopped = false
	// An agent that ends at once: only the watchdog can help.
	for range 1000 {
		if !m.crash || m.running != newPath {
			break
		}
		m.pass(10)
	}
	m.agentOf = m.running
}
