// SPDX-License-Identifier: MIT

package sim

import (
	"net/http"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// heal ends the trouble.
func (w *world) heal() {
	w.note("the trouble ends")
	w.healed.Store(true)
	w.net.mu.Lock()
	w.net.atAnswer, w.crashNow = nil, 0
	w.net.mu.Unlock()
	w.plane.makeRoom()
	for _, o := range []*operator{w.admin, w.second} {
		o.at.set(func(p *place) { p.lose, p.delay = 0, 0 })
	}
	for _, m := range w.machines {
		m.at.setCut(connected)
		m.at.set(func(p *place) { p.lose, p.delay = 0, 0 })
		m.mu.Lock()
		m.slow, m.fullUntil, m.killIn = 0, time.Time{}, 0
		if !m.on {
			m.bootAt = time.Now()
		}
		m.mu.Unlock()
	}
	for range 600 {
		if w.plane.store != nil {
			break
		}
		w.sleep(time.Second)
	}
	lost := w.second.at.lost
	for _, m := range w.machines {
		lost += m.at.lost
	}
	w.mu.Lock()
	w.faults[answerLost] += lost + w.admin.at.lost
	w.mu.Unlock()
	w.ledger.mu.Lock()
	w.ledger.frozen = 0
	w.ledger.mu.Unlock()
	if status, err := w.admin.call(http.MethodDelete, "/api/v1/freeze", nil, nil); err != nil && status != http.StatusNotFound {
		w.must(err)
	}
	for _, m := range w.machines {
		if !w.ledger.isGone(m.id) {
			w.admin.expect(http.MethodPut, "/api/v1/machines/"+string(m.id)+"/lifecycle", api.LifecycleRequest{Lifecycle: fleet.Active}, nil)
		}
	}
}

// rest waits until the fleet has come to rest, and lets an operator end what waits
// for one.
func (w *world) rest() {
	w.await(60*time.Minute, "without an operator")
	for round := range 20 {
		parts, _ := w.read()
		open := 0
		for _, p := range parts {
			if p.State.Final() {
				continue
			}
			open++
			verb := api.VerbResume
			switch {
			case round >= 10:
				verb = api.VerbCancel
			case p.State == fleet.RolloutRunning || p.State == fleet.RolloutScheduled:
				verb = api.VerbApprove
			}
			by := w.second
			if p.CreatedBy == "key:bob" {
				by = w.admin
			}
			_, err := by.call(http.MethodPost, "/api/v1/rollouts/"+string(p.ID)+"/"+string(verb), api.VerbRequest{}, nil)
			w.note("%s %s: %v", verb, p.ID, err)
		}
		if open == 0 {
			break
		}
		w.await(60*time.Minute, "after an operator went on")
	}
	w.await(30*time.Minute, "at the end")
}

// await waits until the fleet is at rest, for at most d.
func (w *world) await(d time.Duration, when string) {
	calm := 0
	for begin := time.Now(); ; w.sleep(10 * time.Second) {
		w.putRight()
		why := w.waits()
		if why == "" {
			if calm++; calm == 2 {
				return
			}
			continue
		}
		calm = 0
		if time.Since(begin) > d {
			w.violated(everyoneRests, "%s, for %s: %s", when, d, why)
			return
		}
	}
}

// putRight is the person who looks after a machine that has lost the system that its
// agent activated, or that booted one without an agent, or without a network. Nobody
// judges a system that a machine boots by chance.
func (w *world) putRight() {
	for _, m := range w.machines {
		j, _, err := m.files().Journal().Load()
		w.must(err)
		_, armed, _ := m.files().Watch().Read()
		m.mu.Lock()
		running, on, p := m.running, m.on && !m.ending, m.process
		m.mu.Unlock()
		s := w.systemAt(running)
		stuck := !armed && (p == nil && s.deadAgent || j.Step == states.Idle && s.cutsOff)
		if !on || !stuck && !j.Drifted(running) {
			continue
		}
		to := trusttest.Entry(m.id, "first").StorePath
		for _, known := range []*states.System{j.LastGood, j.Current} {
			if known != nil && w.systemAt(known.Path).runs() {
				to = known.Path
			}
		}
		if to == running {
			m.byHand = true // it drifted to the only good one, and is left there
			continue
		}
		w.note("%s is booted into %s by hand", m.id, to)
		m.mu.Lock()
		m.setProfile(to)
		m.bootDefault = to
		m.byHand = m.byHand || j.Current == nil || to != j.Current.Path
		m.mu.Unlock()
		m.powerOff(2*time.Second, false)
	}
}
