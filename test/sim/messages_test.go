// SPDX-License-Identifier: MIT

package sim

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// client is another client with a machine's certificate, for messages that the
// network repeats.
func (m *machine) client() (*api.AgentClient, error) {
	cert, err := tls.LoadX509KeyPair(m.conf.Identity.CertFile, m.conf.Identity.KeyFile)
	if err != nil {
		return nil, err
	}
	conf := m.w.plane.tls()
	conf.Certificates = []tls.Certificate{cert}
	return api.NewAgentClient(api.AgentClientConfig{BaseURL: m.conf.ControlPlane.URL, TLS: conf, DialContext: m.at.dial})
}

// repeat sends reports of a machine once more.
func (w *world) repeat(m *machine, reports []fleet.Report) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	defer c.Close()
	reply, err := c.Reports(context.Background(), reports)
	if err == nil {
		w.ledger.accepted(m.id, reply.Accepted)
		if len(reply.Rejected) > 0 {
			w.violated(nothingLost, "reports of %s are rejected: %v", m.id, reply.Reasons)
		}
	}
	return err
}

// repeatSome sends some reports again, at once or late. One that the agent has not
// delivered yet comes before its time.
func (w *world) repeatSome(f fault, r *rand.Rand, late time.Duration) bool {
	m := w.machines[f.machine]
	reports := w.ledger.some(m.id, 1+f.n, r)
	if len(reports) == 0 {
		return false
	}
	w.later(late, func() { _ = w.repeat(m, reports) }) // it may be lost
	return true
}

// lateOutcome rolls the newest release out to a machine, and cuts it off while it
// verifies, until its deadline is over and an operator has it tried again: what it
// then reports is of the attempt before.
func (w *world) lateOutcome(m *machine) {
	w.admin.create(fleet.RolloutSpec{
		Release: w.releases[len(w.releases)-1], Strategy: fleet.AllAtOnce, Select: []string{string(m.id)}, OnFailure: fleet.Pause,
		MinHealthyMs: 5000, HealthyDeadlineMs: 90_000, Supersede: true, Name: fmt.Sprintf("late-%d", time.Now().UnixNano()),
	})
	verifies := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.process != nil && m.process.snap.Journal().Step == states.Verify
	}
	for n := 0; !verifies(); n++ {
		if time.Sleep(time.Second); n == 200 || w.healed.Load() {
			return
		}
	}
	m.at.setCut(refusing)
	for range 30 {
		if time.Sleep(10 * time.Second); w.healed.Load() {
			break
		}
		if w.admin.retry(m.id) {
			w.count(outcomeLate)
			break
		}
	}
	m.at.setCut(connected)
}

// repeatCheckIn has a machine's check-in arrive twice, the second time late.
func (w *world) repeatCheckIn(f fault) bool {
	m := w.machines[f.machine]
	m.mu.Lock()
	p := m.process
	m.mu.Unlock()
	if p == nil {
		return false
	}
	j, seen := p.snap.Journal(), p.snap.Seen()
	in := api.CheckIn{
		Machine: m.id, AgentVersion: "sim", System: p.snap.System(), Line: m.conf.Line, BootID: seen.At.BootID, State: j.Step.State(),
		RunsRelease: j.RunsRelease(seen.Running), Drift: j.Drifted(seen.Running), Checks: p.snap.Checks(), Generations: seen.Generations,
	}
	w.later(f.long/50, func() {
		if c, err := m.client(); err == nil {
			_, _ = c.CheckIn(context.Background(), in) // it may be lost
			c.Close()
		}
	})
	return true
}
