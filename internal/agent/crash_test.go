// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// run runs agents on the machine, one after the other, until there is nothing
// left to do.
func (m *sim) run(ctx context.Context) error {
	for range 40 {
		inner, stop := context.WithCancel(ctx)
		m.stop = stop
		var j states.Journal
		if err := json.Unmarshal(m.disk.journal, &j); err != nil {
			stop()
			return err
		}
		e := &Engine{Save: m.save, Report: m.report, Changed: func(states.Journal) {}, Effects: m, Machine: "web-01", Log: slog.New(slog.DiscardHandler)}
		e.Run(inner, j)
		stop()
		if m.last == finish {
			return nil
		}
		m.next()
	}
	return fmt.Errorf("stuck: journal %s", m.disk.journal)
}

// wrong reports what must not be at the end.
func (m *sim) wrong() error {
	var j states.Journal
	if err := json.Unmarshal(m.disk.journal, &j); err != nil {
		return err
	}
	var outcomes []fleet.Report
	for _, id := range m.disk.order {
		if r := m.disk.reports[id]; r.Kind == fleet.ReportOutcome {
			outcomes = append(outcomes, r)
		}
	}
	want := 1
	if m.revert && len(outcomes) > 0 && outcomes[0].Outcome.Success() {
		want = 2
	}
	switch {
	case m.running != oldPath && m.running != newPath:
		return fmt.Errorf("%q runs", m.running)
	case m.disk.profile != m.running || m.disk.bootDefault != m.running:
		return fmt.Errorf("%s runs, the profile is %s, the boot default %s", m.running, m.disk.profile, m.disk.bootDefault)
	case m.disk.watch != nil:
		return fmt.Errorf("the watchdog is armed: %+v", *m.disk.watch)
	case len(outcomes) != want:
		return fmt.Errorf("%d outcomes, want %d: %+v", len(outcomes), want, outcomes)
	case !m.full && j.Step != states.Idle:
		return fmt.Errorf("at %s", j.Step)
	case m.agent && m.agentOf != m.running:
		return fmt.Errorf("%s runs with the agent of %s", m.running, m.agentOf)
	case !m.full && (j.Current == nil || j.Current.Path != m.running):
		return fmt.Errorf("%s runs, and the journal says %+v", m.running, j.Current)
	}
	o := outcomes[len(outcomes)-1].Outcome
	if o.Success() != (m.running == newPath) {
		return fmt.Errorf("outcome %s, and %s runs", o, m.running)
	}
	return nil
}

var scenarios = []scenario{
	{name: "good", checks: true, outcome: fleet.OutcomeLive},
	{name: "bad checks", outcome: fleet.OutcomeRolledBack},
	{name: "activation fails", code: 2, half: true, outcome: fleet.OutcomeRolledBack},
	{name: "activation fails late", code: 2, outcome: fleet.OutcomeRolledBack},
	{name: "units fail", code: 4, checks: true, outcome: fleet.OutcomeLive},
	{name: "switch hangs", hang: true, outcome: fleet.OutcomeRolledBack},
	{name: "network lost", checks: true, cut: true, outcome: fleet.OutcomeRolledBack},
	{name: "agent replaced", checks: true, agent: true, outcome: fleet.OutcomeLive},
	{name: "agent replaced, bad checks", agent: true, outcome: fleet.OutcomeRolledBack},
	{name: "new agent crashes", agent: true, crash: true, outcome: fleet.OutcomeRolledBack},
	{name: "reboot needed", checks: true, reboot: true, outcome: fleet.OutcomeLive},
	{name: "reboot needed, bad checks", reboot: true, outcome: fleet.OutcomeRolledBack},
	{name: "reboot needed, boots the old", checks: true, reboot: true, bootBad: true, outcome: fleet.OutcomeRolledBack},
	{name: "reverted by order", checks: true, revert: true, outcome: fleet.OutcomeReverted},
	{name: "disk full after the switch", checks: true, full: true, outcome: fleet.OutcomeLive},
}

// A01 A02 A03 A12: the agent is killed, or the power fails, before and after
// each write and each move of an effect, once and twice: the machine always
// comes to rest on the new system or the old one, as it is reported, and never
// needs a person.
func TestEngine_SurvivesItsEndAtEveryPoint(t *testing.T) {
	var sum tally
	result := os.Getenv("NIXFLEET_CRASH_RESULT") // make crash-sim: more second ends
	stride := 41
	if result != "" {
		stride = 5
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSim(s)
				if err := m.run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := m.wrong(); err != nil {
					t.Fatalf("undisturbed: %v", err)
				}
				last := m.disk.reports[m.disk.order[len(m.disk.order)-1]]
				if last.Outcome != s.outcome {
					t.Fatalf("undisturbed: outcome %s %s, want %s", last.Outcome, last.Reason, s.outcome)
				}
				points := m.points
				sum.Points += points
				for a := 1; a <= points; a++ {
					for _, f := range []fault{kill, power} {
						sum.crash(t, s, map[int]fault{a: f})
						if testing.Short() {
							continue
						}
						for b := a + 1 + a%stride; b <= points+20; b += stride {
							for _, g := range []fault{kill, power} {
								sum.crash(t, s, map[int]fault{a: f, b: g})
							}
						}
					}
				}
			})
		})
	}
	line, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	if result != "" {
		if err := os.WriteFile(result, append(line, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tally counts what the simulation has seen: places at which a life can end,
// lives, those that never came to rest, and those that did so wrongly.
type tally struct {
	Points int `json:"points"`
	Runs   int `json:"runs"`
	Stuck  int `json:"stuck"`
	Wrong  int `json:"wrong"`
}

func (n *tally) crash(t *testing.T, s scenario, at map[int]fault) {
	t.Helper()
	m := newSim(s)
	m.stopAt = at
	n.Runs++
	if err := m.run(t.Context()); err != nil {
		n.Stuck++
		t.Errorf("%v: %v", at, err)
		return
	}
	err := m.wrong()
	if err == nil && s.outcome == fleet.OutcomeLive && onlyKills(at) && !m.full && m.running != newPath {
		err = fmt.Errorf("a good release is not live after the agent was killed")
	}
	if err != nil {
		n.Wrong++
		t.Errorf("%v: %v", at, err)
	}
}

func onlyKills(at map[int]fault) bool {
	for _, f := range at {
		if f != kill {
			return false
		}
	}
	return true
}
