// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// endingHost ends the program that asks for the agent's end before the agent, as
// systemd may: both are in one control group.
type endingHost struct {
	host.Supervisor
	end func() // nil: the request only fails
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

// A01: if the program that asked for the agent's end was ended with it, nothing has
// failed. If it fails by itself, it has.
func TestHandOver_TheProgramThatAsksMayEndFirst(t *testing.T) {
	for name, perform := range map[string]func(context.Context, *Machine) states.Input{
		"restart": func(ctx context.Context, m *Machine) states.Input { return m.replace(ctx, time.Minute) },
		"reboot": func(ctx context.Context, m *Machine) states.Input {
			return m.reboot(ctx, func(time.Time) bool { return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t, nil)
			m.ConfigFile = filepath.Join(m.Agent.StateDir, "agent.toml")
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				m.Supervisor = endingHost{end: cancel}
				if in := perform(ctx, m); in != nil {
					t.Errorf("ended while asking: %+v", in)
				}
				m.Supervisor = endingHost{}
				if in, ok := perform(t.Context(), m).(states.Failed); !ok || in.Message != errTerminated.Error() {
					t.Errorf("failed to ask: %+v", in)
				}
			})
		})
	}
}
