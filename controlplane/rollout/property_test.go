// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

func drawSpec(t *rapid.T) fleet.RolloutSpec {
	amount := rapid.SampledFrom([]fleet.Amount{{}, {N: 1}, {N: 2}, {N: 10, Percent: true}, {N: 50, Percent: true}, {N: 100, Percent: true}})
	s := spec(rapid.SampledFrom([][]string{nil, {"1", "50%", "100%"}, {"1", "1", "1"}, {"25%", "50%"}, {"2", "100%"}, {"3"}}).Draw(t, "batches")...)
	s.MaxFailures = amount.Draw(t, "maxFailures")
	if rapid.Bool().Draw(t, "total?") {
		a := amount.Draw(t, "maxFailuresTotal")
		s.MaxFailuresTotal = &a
	}
	s.OnFailure = rapid.SampledFrom([]fleet.OnFailure{fleet.Pause, fleet.RevertBatch, fleet.RevertAll}).Draw(t, "onFailure")
	s.Offline = rapid.SampledFrom([]fleet.OfflinePolicy{fleet.OfflineWait, fleet.OfflineSkip, fleet.OfflineFail}).Draw(t, "offline")
	s.MaxParallel = rapid.IntRange(0, 3).Draw(t, "maxParallel")
	s.SoakMs = rapid.SampledFrom([]int64{0, 30 * second}).Draw(t, "soak")
	s.StragglerMs = rapid.SampledFrom([]int64{0, 2 * minute}).Draw(t, "straggler")
	s.ProgressDeadlineMs = rapid.SampledFrom([]int64{0, 0, 7 * minute}).Draw(t, "progress")
	s.Approve = rapid.Bool().Draw(t, "approve")
	drawRules(t, &s)
	drawMore(t, &s)
	return s
}

// driver draws what befalls a rollout.
type driver struct {
	*sim
	r *rapid.T
}

func (d driver) machine() fleet.MachineID {
	return machineID(rapid.IntRange(0, d.state.Rollout.Machines-1).Draw(d.r, "machine"))
}

// atWork draws a machine that is at work, or any.
func (d driver) atWork() fleet.MachineID {
	var ids []fleet.MachineID
	for id, a := range d.state.Assignments {
		if a.State.InFlight() || a.State.RollingBack() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return d.machine()
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(d.r, "at work")
}

func (d driver) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": func(*rapid.T) {},
		"time": func(r *rapid.T) {
			d.sleepTo(d.now + rapid.SampledFrom([]int64{1, second, 31 * second, 3 * minute, 11 * minute}).Draw(r, "ms"))
		},
		"tick": func(*rapid.T) { d.tick() },
		"progress": func(r *rapid.T) {
			d.progress(d.atWork(), rapid.SampledFrom([]fleet.AssignmentState{
				fleet.AssignFetching, fleet.AssignApplying, fleet.AssignAwaitingReboot, fleet.AssignVerifying, fleet.AssignRollingBack, fleet.AssignReverting,
			}).Draw(r, "phase"))
		},
		"live":  func(*rapid.T) { d.live(d.atWork()) },
		"live2": func(*rapid.T) { d.live(d.atWork()) },
		"fail": func(r *rapid.T) {
			rep := d.backReport(d.atWork(), fleet.ReasonCheckFailed)
			rep.Outcome = rapid.SampledFrom([]fleet.Outcome{
				fleet.OutcomeRolledBack, fleet.OutcomeReverted, fleet.OutcomeFailed, fleet.OutcomeRefused, fleet.OutcomeRollbackFailed, fleet.OutcomeRevertFailed,
			}).Draw(r, "outcome")
			d.report(rep)
		},
		"forged": func(r *rapid.T) { d.forged(r) },
		"again": func(r *rapid.T) {
			if len(d.sent) > 0 {
				d.report(rapid.SampledFrom(d.sent).Draw(r, "sent"))
			}
		},
		"verb": func(r *rapid.T) {
			v := rollout.Command{Actor: actor(r), Verb: rapid.SampledFrom([]api.Verb{
				api.VerbPause, api.VerbResume, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbApprove, api.VerbRetry, api.VerbSkip, api.VerbRevert,
			}).Draw(r, "verb")}
			if rapid.Bool().Draw(r, "named") {
				v.Machines = []fleet.MachineID{d.machine()}
			}
			refused := rollout.Check(d.state, v) != nil
			res := d.step(rollout.Event{Command: &v})
			if refused && (res.Rollout != nil || res.Batches != nil || res.Assignments != nil || res.Audit != nil) {
				r.Fatalf("%s was refused and changed something", v.Verb)
			}
			d.settle()
		},
		"link": func(r *rapid.T) {
			up := rapid.Bool().Draw(r, "online")
			d.changed(d.machine(), func(f *rollout.Facts) { f.Online, f.LastContact = up, d.now })
		},
		"lifecycle": func(r *rapid.T) {
			l := rapid.SampledFrom([]fleet.Lifecycle{fleet.Active, fleet.Active, fleet.Maintenance, fleet.Decommissioned}).Draw(r, "lifecycle")
			d.changed(d.machine(), as(l))
		},
		"deleted": func(r *rapid.T) {
			if rapid.IntRange(0, 9).Draw(r, "rare") == 0 {
				id := d.machine()
				delete(d.facts, id)
				d.step(rollout.Event{Changed: id})
				d.settle()
			}
		},
		"superseded": func(r *rapid.T) {
			if rapid.IntRange(0, 9).Draw(r, "rare") == 0 {
				d.step(rollout.Event{Superseded: []fleet.MachineID{d.machine(), d.machine()}})
				d.settle()
			}
		},
		"taken":     d.takenOver,
		"reboot":    d.awaitsReboot,
		"gate":      d.answers,
		"disrupt":   d.disrupt,
		"revert":    d.reverts,
		"elsewhere": func(r *rapid.T) { d.elsewhere = rapid.SampledFrom([]string{"", "", "1 machine"}).Draw(r, "left") },
		"freeze":    d.freezes,
		"wallClock": d.wallClock,
		"restart": func(*rapid.T) {
			d.restart()
		},
	}
}

// forged reports success in a way that must not count (H01, H05).
func (d driver) forged(r *rapid.T) {
	rep := d.liveReport(d.atWork())
	switch rapid.IntRange(0, 8).Draw(r, "forgery") {
	case 0:
		rep.Rollout = "r0"
	case 1:
		rep.Attempt++
	case 2:
		rep.Attempt--
	case 3:
		rep.Digest = digest("release-1")
	case 4:
		rep.StorePath = system("other")
	case 5:
		rep.Running = system("other")
	case 6:
		rep.BootDefault = system("other")
	case 7:
		rep.Checks = []fleet.HealthCheckResult{{Name: "app", Required: true, Status: fleet.HealthCheckPending}}
	case 8:
		rep.Checks, rep.Confirmed = nil, ""
	}
	was := d.a(rep.Machine).State
	d.report(rep)
	if now := d.a(rep.Machine).State; now == fleet.AssignHealthy && was != now {
		r.Fatalf("%s became healthy by %+v", rep.Machine, rep)
	}
}

// Whatever befalls a rollout, no step breaks a rule (see rules_test.go), and
// when the trouble ends, agents obey and an operator resumes and approves, the
// rollout ends (H07, H09, H12, H15).
func TestStep_KeepsItsRulesAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := driver{newSim(t, rapid.IntRange(1, 7).Draw(t, "machines"), drawSpec(t)), t}
		d.drawBudgets(t)
		d.converged()
		t.Repeat(d.actions())
		d.obey()
	})
}

// obey plays agents that do what they are told, all online, and an operator
// who lets things go on.
func (m *sim) obey() {
	m.t.Helper()
	m.freeze, m.elsewhere = nil, ""
	for _, b := range m.budgets {
		clear(b.others)
	}
	m.step(rollout.Event{})
	for i := range m.state.Rollout.Machines {
		if _, known := m.facts[machineID(i)]; known {
			m.changed(machineID(i), online)
		}
	}
	for range 400 + 40*m.state.Rollout.Machines { // while a window is closed, a group is looked at every 10 s
		m.settle()
		for _, v := range []api.Verb{api.VerbResume, api.VerbApprove} {
			if v := (rollout.Command{Verb: v, Actor: "key:bob"}); rollout.Check(m.state, v) == nil {
				m.step(rollout.Event{Command: &v})
				m.settle()
			}
		}
		ordered := false
		for i := range m.state.Rollout.Machines {
			id := machineID(i)
			orders := rollout.OrdersFor(m.a(id), m.state.Rollout, m.run())
			ordered = ordered || orders.Apply != nil || orders.Revert != nil
			if orders.Apply != nil {
				m.sleepTo(max(m.now, m.ahead+m.a(id).OfferedRun+orders.Apply.MinHealthyMs))
				m.live(id)
			} else if orders.Revert != nil {
				m.back(id, fleet.ReasonRevertOrdered)
			}
		}
		m.answerAll(fleet.GatePass)
		w := m.state.Rollout.WakeAt
		if m.state.Rollout.State.Final() && w == 0 {
			return
		}
		if !ordered && w != 0 {
			m.sleepTo(w + m.ahead)
		}
	}
	m.t.Fatalf("does not end: %+v\n%+v", m.state.Rollout, rollout.Explain(m.state, m.world(), m.now))
}
