// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// endingHost ends the program that asks for the agent's end before the agent,
// as systemd may, for both are in one control group.
type endingHost struct {
	host.Supervisor
	end func() // nil: it does nothing but fail
}

var errTerminated = errors.New("systemctl: signal: terminated")

func (h endingHost) Successor(context.Context) (next, mine bool, err error) { return true, true, nil }
func (h endingHost) Reboot(ctx context.Context) error                       { return h.RestartAgent(ctx) }

func (h endingHost) RestartAgent(context.Context) error {
	if h.end != nil {
		time.AfterFunc(50*time.Millisecond, h.end)
	}
	return errTerminated
}

// A01: that the program which asked for the agent's end was ended with it is no
// failure to end; one that fails by itself is.
func TestHandOver_TheProgramThatAsksMayEndFirst(t *testing.T) {
	for name, perform := range map[string]func(context.Context, *world) states.Input{
		"restart": func(ctx context.Context, w *world) states.Input { return w.replace(ctx, time.Minute) },
		"reboot": func(ctx context.Context, w *world) states.Input {
			return w.reboot(ctx, func(time.Time) bool { return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := testWorld(t, nil)
			w.cfgFile = filepath.Join(w.cfg.StateDir, "agent.toml")
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.sup = endingHost{end: cancel}
				if in := perform(ctx, w); in != nil {
					t.Errorf("ended while asking: %+v", in)
				}
				w.sup = endingHost{}
				if in, ok := perform(t.Context(), w).(states.Failed); !ok || in.Message != errTerminated.Error() {
					t.Errorf("failed to ask: %+v", in)
				}
			})
		})
	}
}

// watched is a machine whose watchdog is going back.
type watched struct {
	*sim
	ended bool
}

func (w *watched) Fired(context.Context) (string, bool) {
	w.ended = true // it was waited for
	return "the watchdog went back", true
}

// A03, A10: the power failed while the watchdog went back, or the old system's
// agent starts before it has ended: one of the two goes back, not both.
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
	e := &engine{
		save: func(j states.Journal) error {
			if saved = append(saved, j); !w.ended {
				t.Errorf("%s while the watchdog goes back", j.Step)
			}
			cancel()
			return nil
		},
		report: m.report, changed: func(states.Journal) {}, effects: w, machine: "web-01", log: slog.New(slog.DiscardHandler),
	}
	e.run(ctx, j)
	if len(saved) == 0 || saved[0].Step != states.RollbackHandOver || saved[0].Work.Reason != fleet.ReasonWatchdog {
		t.Errorf("the journals are %+v", saved)
	}
}
