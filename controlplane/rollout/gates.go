// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/arcanesys/nixfleet/fleet"
)

// askEvery is the time between two questions to a gate.
const askEvery = 30 * 1000

// beginGates brings a soaked batch to its gates.
func (st *step) beginGates(b *fleet.Batch) {
	b.State, b.Gates = fleet.BatchGated, nil
	for _, name := range st.spec().Gates {
		b.Gates = append(b.Gates, fleet.GateStatus{Name: name, Since: st.run, AskAt: st.run, Deadline: st.run + st.spec().GateDeadlineMs})
	}
}

// gates asks the gates of a batch that have not passed, and says which one holds
// it up, "" for none. One that fails, or is late, fails the batch.
func (st *step) gates(b *fleet.Batch) string {
	b.Gates = slices.Clone(b.Gates)
	waits := ""
	for i := range b.Gates {
		g := &b.Gates[i]
		why := ""
		switch {
		case g.Answer == fleet.GatePass || g.ApprovedBy != "":
			continue
		case g.Answer == fleet.GateFail:
			why = fmt.Sprintf("gate %s of batch %d failed: %s", g.Name, b.Index+1, g.Message)
			st.failBatch(b.Index, why)
			return why
		case st.run < gateDue(*g, st.world):
			why = fmt.Sprintf("batch %d waits for gate %s, for %s at most: %s", b.Index+1, g.Name, span(st.spec().GateDeadlineMs), orElse(g.Message, "it has not answered yet"))
			if st.run >= askDue(*g, st.world) {
				st.ask(b.Index, g)
			}
		case st.spec().OnInconclusive == fleet.InconclusiveApproval:
			g.AskAt = 0
			why = fmt.Sprintf("gate %s of batch %d was inconclusive until its deadline: %s; approve to go on all the same", g.Name, b.Index+1, orElse(g.Message, "it did not answer"))
		default:
			why = fmt.Sprintf("gate %s of batch %d did not pass by its deadline: %s", g.Name, b.Index+1, orElse(g.Message, "it did not answer"))
			st.failBatch(b.Index, why)
			return why
		}
		waits = orElse(waits, why)
	}
	return waits
}

func (st *step) ask(batch int, g *fleet.GateStatus) {
	g.Asked++
	g.AskAt = st.run + askEvery
	st.probes = append(st.probes, Probe{
		Rollout: st.rollout.ID, Release: st.spec().Release, Batch: batch, Gate: g.Name, Asked: g.Asked, Machines: st.members(batch),
	})
}

// gateDue is when a gate's deadline counts: one from before the control plane's
// last start leaves time to ask again.
func gateDue(g fleet.GateStatus, w World) int64 {
	if g.Since < w.Since {
		return max(g.Deadline, w.Since+reportGrace)
	}
	return g.Deadline
}

// askDue is when a gate is asked next. An answer to a question from before the
// control plane's last start may be lost, so it is asked at once (H15).
func askDue(g fleet.GateStatus, w World) int64 {
	if g.AskAt-askEvery < w.Since {
		return min(g.AskAt, w.Since)
	}
	return g.AskAt
}

// gateResult takes in an answer. One to another question than the last has no
// effect; nor has one once the gate has passed, or waits for an approval.
func (st *step) gateResult(r GateResult) {
	if r.Batch < 0 || r.Batch >= len(st.batches) || st.batches[r.Batch].State != fleet.BatchGated {
		return
	}
	b := &st.batches[r.Batch]
	i := slices.IndexFunc(b.Gates, func(g fleet.GateStatus) bool { return g.Name == r.Gate })
	if i < 0 || b.Gates[i].Asked != r.Asked || b.Gates[i].AskAt == 0 || b.Gates[i].Answer == fleet.GatePass || b.Gates[i].Answer == fleet.GateFail {
		return
	}
	b.Gates = slices.Clone(b.Gates)
	g := &b.Gates[i]
	if r.Answer != fleet.GatePass && r.Answer != fleet.GateFail {
		r.Answer = fleet.GateInconclusive
	}
	if g.Answer != r.Answer {
		st.log(EngineActor, fleet.ActionGateAnswer, map[string]string{"batch": strconv.Itoa(r.Batch + 1), "gate": string(r.Gate), "answer": string(r.Answer), "message": r.Message})
	}
	g.Answer, g.Message, g.AnsweredAt = r.Answer, fleet.CleanLine(r.Message, 300), st.now
	if st.rollout.State == fleet.RolloutRunning {
		st.wakeBy(st.run)
	}
}

// gateTimes are when to look at the gates of a batch again.
func gateTimes(b fleet.Batch, w World) (times []int64) {
	for _, g := range b.Gates {
		if g.Answer != fleet.GatePass && g.ApprovedBy == "" && g.AskAt != 0 {
			times = append(times, min(askDue(g, w), gateDue(g, w)))
		}
	}
	return times
}

// gateWantsApproval reports whether a gate was inconclusive until its deadline,
// and an operator may let the batch pass.
func gateWantsApproval(b fleet.Batch) bool {
	return slices.ContainsFunc(b.Gates, wantsApproval)
}

func wantsApproval(g fleet.GateStatus) bool {
	return g.AskAt == 0 && g.ApprovedBy == "" && g.Answer != fleet.GatePass
}

// approveGates lets a batch pass the gates that wait for an approval, and no
// others.
func approveGates(b *fleet.Batch, actor string) {
	b.Gates = slices.Clone(b.Gates)
	for i := range b.Gates {
		if wantsApproval(b.Gates[i]) {
			b.Gates[i].ApprovedBy = actor
		}
	}
}
