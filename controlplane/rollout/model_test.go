// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"flag"
	"fmt"
	"maps"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

var modelDepth = flag.Int("model.depth", 4, "how many events in a row to try")

// Every order of events in a rollout of two machines, up to a depth: no step
// breaks a rule, and from wherever that leads the rollout ends once agents
// obey and an operator lets it go on.
func TestStep_SmallRolloutsExhaustively(t *testing.T) {
	for _, failure := range []fleet.OnFailure{fleet.Pause, fleet.RevertBatch, fleet.RevertAll} {
		t.Run(string(failure), func(t *testing.T) {
			t.Parallel()
			s := spec("1", "100%")
			s.OnFailure, s.Offline, s.MaxParallel = failure, fleet.OfflineSkip, 1
			first := newSim(t, 2, s)
			first.quick = true
			seen := map[string]bool{first.key(): true}
			level := []*sim{first}
			for range *modelDepth {
				var next []*sim
				for _, m := range level {
					for _, move := range moves() {
						n := m.fork()
						if move(n); !seen[n.key()] {
							seen[n.key()] = true
							next = append(next, n)
							n.fork().obey()
						}
					}
				}
				level = next
			}
			if len(seen) < 100 {
				t.Fatalf("only %d states were reached", len(seen))
			}
			t.Logf("%d states", len(seen))
		})
	}
}

// moves are what may happen next, to either machine.
func moves() []func(*sim) {
	list := []func(*sim){
		func(m *sim) { m.tick() },
		func(m *sim) { m.sleepTo(max(m.now, m.state.Rollout.WakeAt+m.ahead)) },
	}
	for _, v := range []api.Verb{api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbRetry, api.VerbRevert} {
		list = append(list, func(m *sim) { m.step(rollout.Event{Command: &rollout.Command{Verb: v, Actor: "key:bob"}}) })
	}
	for _, id := range []fleet.MachineID{"m-00", "m-01"} {
		list = append(list,
			func(m *sim) { m.live(id) },
			func(m *sim) { m.back(id, fleet.ReasonCheckFailed) },
			func(m *sim) { m.progress(id, fleet.AssignApplying) },
			func(m *sim) { m.changed(id, func(f *rollout.Facts) { f.Online = !f.Online }) },
			func(m *sim) { m.changed(id, as(fleet.Maintenance)) },
			func(m *sim) { m.changed(id, as(fleet.Active)) },
			func(m *sim) {
				m.step(rollout.Event{Command: &rollout.Command{Verb: api.VerbSkip, Actor: "key:bob", Machines: []fleet.MachineID{id}}})
			},
			func(m *sim) { m.step(rollout.Event{Superseded: []fleet.MachineID{id}}) },
		)
	}
	return list
}

func (m *sim) fork() *sim {
	n := *m
	n.state, n.facts, n.released = clone(m.state), maps.Clone(m.facts), maps.Clone(m.released)
	n.audit, n.sent = nil, nil
	return &n
}

// key names what matters of a state: moments that differ only in when are the
// same.
func (m *sim) key() string {
	r := m.state.Rollout
	ahead := func(t int64) int64 { // in minutes from now
		return max(0, (t-m.run()+minute-1)/minute)
	}
	k := fmt.Sprint(r.State, r.Batch, r.Acknowledged, ahead(r.WakeAt), r.StartedAt != 0)
	for _, b := range m.state.Batches {
		k += fmt.Sprint(" ", b.State, b.Acknowledged, b.Approved, ahead(b.SoakUntil))
	}
	for i := range r.Machines {
		a, f := m.a(machineID(i)), m.facts[machineID(i)]
		k += fmt.Sprint(" ", a.State, a.Reason, a.Attempt, a.OfferedAt != 0, ahead(a.Deadline), f.Online, f.Lifecycle, f.Running == a.StorePath)
	}
	return k
}
