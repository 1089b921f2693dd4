// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	start  = int64(1_800_000_000_000)
	second = int64(1000)
	minute = 60 * second
)

// tester is what testing.T and rapid.T share.
type tester interface {
	Helper()
	Fatalf(string, ...any)
}

// sim is a fleet around one rollout. Every step that it makes is checked
// against the rules that hold for any rollout.
type sim struct {
	t         tester
	state     rollout.State
	plan      api.Plan
	facts     map[fleet.MachineID]rollout.Facts
	since     int64 // running time of the control plane's start
	now       int64
	ahead     int64 // of the wall clock, before running time
	freeze    *fleet.Freeze
	gates     gateWatch
	budgets   []simBudget
	history   *history
	released  map[fleet.MachineID]bool
	audit     []fleet.AuditEvent
	last      rollout.Result
	caughtUp  map[fleet.MachineID]*rollout.State // the rollouts in which machines catch up
	quick     bool                               // do not compare states before and after whole
	sent      []fleet.Report                     // every report that was made, to repeat some
	elsewhere string                             // what other rollouts have left of any group
}

func digest(name string) fleet.Digest { return fleet.SHA256([]byte(name)) }

func system(name string) fleet.StorePath {
	h := strings.TrimPrefix(string(digest(name)), "sha256:")
	return fleet.StorePath("/nix/store/" + strings.ReplaceAll(h[:32], "e", "z") + "-nixos-system-" + name)
}

func target(id fleet.MachineID) fleet.StorePath { return system(string(id) + "-new") }

// spec is what most stories start from.
func spec(batches ...string) fleet.RolloutSpec {
	s := fleet.RolloutSpec{Release: digest("release-2"), Strategy: fleet.Staged, MinHealthyMs: 1, HealthyDeadlineMs: 10 * minute}
	for _, b := range batches {
		a, err := fleet.ParseAmount(b)
		if err != nil {
			panic(err)
		}
		s.Batches = append(s.Batches, a)
	}
	if len(batches) == 0 {
		s.Strategy = fleet.AllAtOnce
	}
	return s
}

func machineID(i int) fleet.MachineID { return fleet.MachineID(fmt.Sprintf("m-%02d", i)) }

// input has n active machines, each with a system in the release.
func input(n int, s fleet.RolloutSpec) rollout.Input {
	in := rollout.Input{ID: "r1", Spec: s, By: "key:alice", Now: start, Run: start}
	for i := range n {
		id := machineID(i)
		in.Entries = append(in.Entries, fleet.Entry{ID: id, StorePath: target(id), ClosureSize: 10})
		in.Machines = append(in.Machines, fleet.Machine{ID: id, Lifecycle: fleet.Active, Generations: fleet.Generations{Running: system(string(id) + "-old")}})
	}
	return in
}

func newSim(t tester, n int, s fleet.RolloutSpec) *sim {
	t.Helper()
	in := input(n, s)
	state, plan, err := rollout.Build(in)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	m := &sim{
		t: t, state: state, plan: plan, now: start, since: start,
		facts: map[fleet.MachineID]rollout.Facts{}, released: map[fleet.MachineID]bool{}, history: newHistory(),
	}
	for _, e := range in.Machines {
		m.facts[e.ID] = rollout.Facts{Lifecycle: fleet.Active, LastContact: start, Online: true, Running: e.Running, RunsRelease: digest("release-1")}
	}
	m.checkCounts(state)
	return m
}

func (m *sim) world() rollout.World {
	return rollout.World{Run: m.run(), Since: m.since, Freeze: m.freeze, Budgets: m.holding(), Unfinished: func(fleet.Selector, fleet.RolloutID) string { return m.elsewhere }, Machine: func(id fleet.MachineID) (rollout.Facts, bool) {
		f, ok := m.facts[id]
		if f.SeenRun == 0 {
			f.SeenRun = max(0, f.LastContact-m.ahead)
		}
		return f, ok
	}}
}

// run is the running time now.
func (m *sim) run() int64 { return m.now - m.ahead }

// restart starts the control plane anew: rows are as the store has them.
func (m *sim) restart() { m.state, m.since = clone(m.state), m.run() }

// wall lets the wall clock move by itself: it is set, or the control plane is
// down meanwhile.
func (m *sim) wall(by int64) { m.now, m.ahead = m.now+by, m.ahead+by }

// step feeds one event and checks what came of it.
func (m *sim) step(ev rollout.Event) rollout.Result {
	m.t.Helper()
	before := clone(m.state)
	res := rollout.Step(m.state, ev, m.world(), m.now)
	if !m.quick {
		m.checkPure(before, ev, res)
	}
	m.state.Apply(res)
	m.last = res
	m.audit = append(m.audit, res.Audit...)
	for _, id := range res.EndClaims {
		if m.released[id] {
			m.t.Fatalf("%s was released twice", id)
		}
		m.released[id] = true
	}
	m.gates.note(before, ev, res, m.run())
	m.checkStep(before, ev, res)
	if !m.quick {
		m.history.check(m, before, ev, res)
	}
	return res
}

// checkPure holds that a step does not touch its state, and that a state that
// the store has just read gives the same result (H15).
func (m *sim) checkPure(before rollout.State, ev rollout.Event, res rollout.Result) {
	m.t.Helper()
	if d := cmp.Diff(before, m.state, cmpopts.IgnoreUnexported(rollout.State{})); d != "" {
		m.t.Fatalf("step modified its state (-before +after):\n%s", d)
	}
	if d := cmp.Diff(res, rollout.Step(before, ev, m.world(), m.now)); d != "" {
		m.t.Fatalf("the same step gave another result:\n%s", d)
	}
}

// clone copies a state as a store would read it back: rows only.
func clone(s rollout.State) rollout.State {
	return rollout.State{Rollout: s.Rollout, Batches: slices.Clone(s.Batches), Assignments: maps.Clone(s.Assignments)}
}

// tick ticks until nothing is due.
func (m *sim) tick() {
	m.t.Helper()
	m.step(rollout.Event{})
}

// settle ticks at this moment as the caller of the engine does: while WakeAt
// asks for it.
func (m *sim) settle() {
	m.t.Helper()
	for range 3 {
		if w := m.state.Rollout.WakeAt; w == 0 || w > m.run() {
			return
		}
		m.tick()
	}
	m.t.Fatalf("the engine asks for ticks without end at the same moment")
}

// sleepTo lets time pass until now is at least t, waking as asked.
func (m *sim) sleepTo(t int64) {
	m.t.Helper()
	for w := m.state.Rollout.WakeAt; w != 0 && w+m.ahead <= t; w = m.state.Rollout.WakeAt {
		m.now = max(m.now, w+m.ahead)
		m.tick()
	}
	m.now = t
	m.catchUp()
}

// catchUp begins the rollout of machines that have to catch up and are there, as the
// control plane does.
func (m *sim) catchUp() {
	m.t.Helper()
	in := rollout.Input{By: rollout.EngineActor, Now: m.now, Run: m.run()}
	var ids []fleet.MachineID
	for _, id := range rollout.Behind(m.state) {
		if f, known := m.facts[id]; m.caughtUp[id] == nil && known && f.Online && f.Lifecycle == fleet.Active {
			ids = append(ids, id)
			in.Entries = append(in.Entries, fleet.Entry{ID: id, StorePath: target(id)})
			in.Machines = append(in.Machines, fleet.Machine{ID: id, Lifecycle: f.Lifecycle})
		}
	}
	if len(ids) == 0 {
		return
	}
	release := fleet.Release{Digest: m.state.Rollout.Spec.Release, Header: fleet.Header{Expires: m.now + 1}}
	follow, d := rollout.CatchUp([]rollout.Past{{Rollout: m.state.Rollout, Release: release}}, m.world(), m.now)
	if d.Why != "" {
		return
	}
	in.ID, in.Spec = "catch-up-"+fleet.RolloutID(ids[0]), rollout.CatchUpSpec(follow.Rollout, ids)
	s, _, err := rollout.Build(in)
	if err != nil {
		m.t.Fatalf("plan the rollout with which %v catch up: %v", ids, err)
	}
	s.Apply(rollout.Step(s, rollout.Event{}, m.world(), m.now))
	for _, id := range ids {
		if m.caughtUp == nil {
			m.caughtUp = map[fleet.MachineID]*rollout.State{}
		}
		m.caughtUp[id] = &s
	}
}

// a is a machine's assignment, in the rollout that it is in last.
func (m *sim) a(id fleet.MachineID) fleet.Assignment {
	if s, ok := m.caughtUp[id]; ok {
		return s.Assignments[id]
	}
	return m.state.Assignments[id]
}

// at returns the machine at a place of the plan, as batch.place from 0.
func (m *sim) at(batch, place int) fleet.MachineID { return m.plan.Batches[batch][place] }

// reporter makes a report of the present attempt of a machine.
func (m *sim) reporter(id fleet.MachineID) fleet.Report {
	a := m.a(id)
	return fleet.Report{
		Machine: id, Rollout: a.Rollout, Attempt: a.Attempt, Digest: a.Digest, StorePath: a.StorePath, BootID: "b",
		Generations: fleet.Generations{Running: m.facts[id].Running, Booted: m.facts[id].Running, BootDefault: m.facts[id].Running},
	}
}

func (m *sim) report(r fleet.Report) {
	m.t.Helper()
	m.sent = append(m.sent, r)
	m.step(rollout.Event{Report: &r})
	m.settle()
}

func (m *sim) progress(id fleet.MachineID, phase fleet.AssignmentState) {
	m.t.Helper()
	r := m.reporter(id)
	r.Kind, r.Phase = fleet.ReportProgress, phase
	m.report(r)
}

var passing = []fleet.HealthCheckResult{{Name: "app", Kind: fleet.HealthCheckUnit, Required: true, Status: fleet.HealthCheckPassing}}

// live reports that a machine runs the release and is well.
func (m *sim) live(ids ...fleet.MachineID) {
	m.t.Helper()
	for _, id := range ids {
		m.now += 5
		m.report(m.liveReport(id))
	}
}

func (m *sim) liveReport(id fleet.MachineID) fleet.Report {
	f, r := m.facts[id], m.reporter(id)
	f.Running = r.StorePath
	m.facts[id] = f
	r.Kind, r.Outcome, r.Checks, r.Confirmed = fleet.ReportOutcome, fleet.OutcomeLive, passing, "control-plane"
	r.Running, r.BootDefault = r.StorePath, r.StorePath
	return r
}

// back reports that a machine runs its old system again, for a reason.
func (m *sim) back(id fleet.MachineID, reason fleet.Reason) {
	m.t.Helper()
	m.now += 5
	m.report(m.backReport(id, reason))
}

func (m *sim) backReport(id fleet.MachineID, reason fleet.Reason) fleet.Report {
	f := m.facts[id]
	if p := m.a(id).PreviousPath; p != "" {
		f.Running = p
	}
	m.facts[id] = f
	r := m.reporter(id)
	r.Kind, r.Outcome, r.Reason, r.Message = fleet.ReportOutcome, fleet.OutcomeRolledBack, reason, "app.service is failed"
	if reason == fleet.ReasonRevertOrdered {
		r.Outcome = fleet.OutcomeReverted
	}
	return r
}

func (m *sim) verb(v api.Verb, ids ...fleet.MachineID) {
	m.t.Helper()
	verb := rollout.Command{Verb: v, Actor: "key:bob", Machines: ids}
	if err := rollout.Check(m.state, verb); err != nil {
		m.t.Fatalf("%s: %v", v, err)
	}
	m.step(rollout.Event{Command: &verb})
	m.settle()
}

func (m *sim) changed(id fleet.MachineID, edit func(*rollout.Facts)) {
	m.t.Helper()
	f := m.facts[id]
	edit(&f)
	m.facts[id] = f
	m.step(rollout.Event{Changed: id})
	m.settle()
}

func offline(f *rollout.Facts) { f.Online = false }
func online(f *rollout.Facts)  { f.Online = true }

func as(l fleet.Lifecycle) func(*rollout.Facts) { return func(f *rollout.Facts) { f.Lifecycle = l } }

// wantStates compares the states of batches and machines, in the order of the
// plan, with "batch: machine machine | batch: machine".
func (m *sim) wantStates(want string) {
	m.t.Helper()
	var parts []string
	for i, ids := range m.plan.Batches {
		s := string(m.state.Batches[i].State) + ":"
		for _, id := range ids {
			s += " " + string(m.a(id).State)
		}
		parts = append(parts, s)
	}
	if got := string(m.state.Rollout.State) + " = " + strings.Join(parts, " | "); got != want {
		m.t.Fatalf("got  %s\nwant %s\nwhy: %s", got, want, m.state.Rollout.Why)
	}
}

func (m *sim) actions() string {
	var s []string
	for _, e := range m.audit {
		a := e.Action
		if b := e.Detail["batch"]; b != "" {
			a += "(" + b + ")"
		}
		s = append(s, a)
	}
	return strings.Join(s, " ")
}

func utc(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") }
