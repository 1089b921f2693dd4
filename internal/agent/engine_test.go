// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"log/slog"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// watched is a machine whose watchdog is rolling back.
type watched struct {
	*sim
	ended bool
}

func (w *watched) Fired(context.Context) (string, bool) {
	w.ended = true // it was waited for
	return "the watchdog rolled back", true
}

// A03, A10: the power failed while the watchdog rolled back, or the old system's
// agent starts before it has finished: only one of the two rolls back.
func TestEngine_WaitsForTheWatchdogBeforeItLooksWhatRuns(t *testing.T) {
	m := newSim(scenario{})
	w := &watched{sim: m}
	var saved []states.Journal
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m.stop = cancel
	j := states.New()
	old := m.Generations().Running
	j.Step = states.HandOver
	j.Work = &states.Work{Order: simOrder, BootID: "an earlier boot", Previous: states.System{Path: old}, Target: states.System{Path: "/nix/store/00000000000000000000000000000000-new"}}
	e := &Engine{
		Save: func(j states.Journal) error {
			if saved = append(saved, j); !w.ended {
				t.Errorf("%s while the watchdog rolls back", j.Step)
			}
			cancel()
			return nil
		},
		Report: m.report, Changed: func(states.Journal) {}, Effects: w, Machine: "web-01", Log: slog.New(slog.DiscardHandler),
	}
	e.Run(ctx, j)
	if len(saved) == 0 || saved[0].Step != states.RollbackHandOver || saved[0].Work.Reason != fleet.ReasonWatchdog {
		t.Errorf("the journals are %+v", saved)
	}
}
