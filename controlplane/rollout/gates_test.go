// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

type gateKey struct {
	batch int
	gate  fleet.GateName
}

// gateWatch remembers, beside the engine, what gates were asked and said.
type gateWatch struct {
	asked  map[gateKey]rollout.Probe // the last question of each gate
	passed map[gateKey]bool          // an answer to it, or an approval after its deadline
}

func (g *gateWatch) note(before rollout.State, ev rollout.Event, res rollout.Result, run int64) {
	if g.asked == nil {
		g.asked, g.passed = map[gateKey]rollout.Probe{}, map[gateKey]bool{}
	}
	if r := ev.Gate; r != nil && r.Answer == fleet.GatePass {
		k := gateKey{r.Batch, r.Gate}
		g.passed[k] = g.passed[k] || g.asked[k].Asked == r.Asked
	}
	if c := ev.Command; c != nil && c.Verb == api.VerbApprove && rollout.Check(before, *c) == nil {
		for _, s := range before.Batches[before.Rollout.Batch].Gates {
			if run >= s.Deadline && before.Rollout.Spec.OnInconclusive == fleet.InconclusiveApproval {
				g.passed[gateKey{before.Rollout.Batch, s.Name}] = true
			}
		}
	}
	for _, b := range res.Batches {
		was := before.Batches[b.Index].State
		resumed := ev.Command != nil && ev.Command.Verb == api.VerbResume
		if b.State == fleet.BatchGated && (was != fleet.BatchGated || resumed) {
			for _, s := range b.Gates {
				delete(g.passed, gateKey{b.Index, s.Name})
				delete(g.asked, gateKey{b.Index, s.Name})
			}
		}
	}
	for _, p := range res.Probes {
		g.asked[gateKey{p.Batch, p.Gate}] = p
	}
}

// checkGates holds that a batch passes only when each of its gates has said so in
// answer to its last question, or was approved after its deadline.
func (m *sim) checkGates(before rollout.State) {
	m.t.Helper()
	for i, b := range m.state.Batches {
		if b.State != fleet.BatchPassed || before.Batches[i].State == fleet.BatchPassed {
			continue
		}
		for _, name := range m.state.Rollout.Spec.Gates {
			if !m.gates.passed[gateKey{i, name}] {
				m.t.Fatalf("batch %d passed, and its gate %s has not: %+v", i, name, b.Gates)
			}
		}
	}
}

// answer gives an answer to the last question of a gate.
func (m *sim) answer(k gateKey, a fleet.GateAnswer, message string) {
	m.t.Helper()
	m.step(rollout.Event{Gate: &rollout.GateResult{Batch: k.batch, Gate: k.gate, Asked: m.gates.asked[k].Asked, Answer: a, Message: message}})
	m.settle()
}

func (m *sim) answerAll(a fleet.GateAnswer) {
	m.t.Helper()
	for i := range m.state.Batches {
		for _, name := range m.state.Rollout.Spec.Gates {
			if k := (gateKey{i, name}); m.gates.asked[k].Asked > 0 && m.state.Batches[i].State == fleet.BatchGated {
				m.answer(k, a, "")
			}
		}
	}
}

// answers draws an answer, to the last question of a gate or to another.
func (d driver) answers(r *rapid.T) {
	names := d.state.Rollout.Spec.Gates
	if len(names) == 0 {
		return
	}
	k := gateKey{d.state.Rollout.Batch, rapid.SampledFrom(names).Draw(r, "gate")}
	res := rollout.GateResult{Batch: k.batch, Gate: k.gate, Asked: d.gates.asked[k].Asked + rapid.SampledFrom([]int{0, 0, 0, -1, 1}).Draw(r, "late")}
	res.Answer = rapid.SampledFrom([]fleet.GateAnswer{fleet.GatePass, fleet.GatePass, fleet.GateFail, fleet.GateInconclusive, "", "maybe"}).Draw(r, "answer")
	d.step(rollout.Event{Gate: &res})
	d.settle()
}

func gated(deadline int64, on fleet.OnInconclusive) fleet.RolloutSpec {
	s := spec("1", "100%")
	s.Gates, s.GateDeadlineMs, s.OnInconclusive = []fleet.GateName{"errors", "change"}, deadline, on
	return s
}

// All gates must pass before a batch does, the last one too; one that says nothing
// is asked again, also after a restart (H15).
func TestStep_PassesABatchWhenAllItsGatesDo(t *testing.T) {
	m := newSim(t, 3, gated(5*minute, fleet.InconclusiveFails))
	m.tick()
	m.live(m.at(0, 0))
	m.wantStates("running = gated: healthy | waiting: pending pending")
	errors, change := gateKey{0, "errors"}, gateKey{0, "change"}
	if p := m.gates.asked[errors]; p.Asked != 1 || len(p.Machines) != 1 || p.Machines[0] != m.at(0, 0) || p.Release != digest("release-2") {
		t.Fatalf("asked %+v", p)
	}
	m.answer(errors, fleet.GatePass, "")
	m.answer(change, fleet.GateInconclusive, "no data")
	m.answer(errors, fleet.GateFail, "late news") // it has passed
	m.wantStates("running = gated: healthy | waiting: pending pending")
	if why := m.state.Rollout.Why; !strings.Contains(why, "gate change, for 5m0s at most: no data") {
		t.Errorf("why: %s", why)
	}
	m.now += second
	m.restart()
	m.tick()
	if p := m.gates.asked[change]; p.Asked != 2 || m.gates.asked[errors].Asked != 1 {
		t.Fatalf("asked %+v", m.gates.asked)
	}
	m.step(rollout.Event{Gate: &rollout.GateResult{Gate: "change", Asked: 1, Answer: fleet.GatePass}}) // to the question before
	m.settle()
	m.wantStates("running = gated: healthy | waiting: pending pending")
	m.answer(change, fleet.GatePass, "")
	m.wantStates("running = passed: healthy | open: offered offered")
	m.live(m.at(1, 0), m.at(1, 1))
	m.wantStates("running = passed: healthy | gated: healthy healthy")
	m.answerAll(fleet.GatePass)
	if m.state.Rollout.State != fleet.RolloutCompleted {
		t.Fatal(m.state.Rollout)
	}
}

func TestStep_FailsABatchWhoseGateFails(t *testing.T) {
	m := newSim(t, 3, gated(5*minute, fleet.InconclusiveApproval))
	m.tick()
	m.live(m.at(0, 0))
	m.answer(gateKey{0, "errors"}, fleet.GateFail, "0.2 errors a second")
	m.wantStates("paused = failed: healthy | waiting: pending pending")
	if why := m.state.Rollout.Why; why != "gate errors of batch 1 failed: 0.2 errors a second" {
		t.Errorf("why: %s", why)
	}
	m.verb(api.VerbResume)
	m.wantStates("running = gated: healthy | waiting: pending pending")
	m.answerAll(fleet.GatePass) // they were asked anew
	m.wantStates("running = passed: healthy | open: offered offered")
}

// No data never passes: at its deadline a gate fails the batch, or it waits for an
// approval of its own, as the spec says.
func TestStep_EndsAGateWithoutAnAnswer(t *testing.T) {
	m := newSim(t, 3, gated(5*minute, fleet.InconclusiveFails))
	m.tick()
	m.live(m.at(0, 0))
	m.answerAll(fleet.GateInconclusive)
	m.sleepTo(start + 6*minute)
	m.wantStates("paused = failed: healthy | waiting: pending pending")

	s := gated(5*minute, fleet.InconclusiveApproval)
	s.Approve = true
	m = newSim(t, 3, s)
	m.tick()
	m.verb(api.VerbApprove) // the first batch
	m.live(m.at(0, 0))
	m.verb(api.VerbApprove)
	m.answer(gateKey{0, "errors"}, fleet.GatePass, "")
	m.wantStates("running = gated: healthy | waiting: pending pending")
	m.sleepTo(start + 6*minute)
	m.wantStates("running = gated: healthy | waiting: pending pending")
	for _, l := range rollout.Explain(m.state, m.world(), m.now) {
		if l.Batch == 0 && l.Machine == "" && (l.Do != "nixfleet rollout approve r1" || !strings.Contains(l.Why, "gate change of batch 1 was inconclusive")) {
			t.Errorf("explained by %+v", l)
		}
	}
	m.answer(gateKey{0, "change"}, fleet.GatePass, "") // too late: an operator has to look
	m.verb(api.VerbApprove)
	m.wantStates("running = passed: healthy | open: offered offered")
	if g := m.state.Batches[0].Gates[1]; g.ApprovedBy != "key:bob" || m.state.Batches[0].Gates[0].ApprovedBy != "" {
		t.Errorf("gates: %+v", m.state.Batches[0].Gates)
	}
}
