// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// profile makes the target the next generation of the system profile.
func (m *Machine) profile(ctx context.Context, j states.Journal) states.Input {
	return setProfile(ctx, j.Work.Target.Path)
}

// rollbackProfile does the same with the previous system. First it moves the
// watchdog's deadline.
func (m *Machine) rollbackProfile(ctx context.Context, j states.Journal) states.Input {
	m.rearm(j)
	return setProfile(ctx, j.Work.Previous.Path)
}

func setProfile(ctx context.Context, system fleet.StorePath) states.Input {
	if _, err := os.Stat(string(system)); errors.Is(err, fs.ErrNotExist) {
		return states.Failed{Reason: fleet.ReasonPathVanished, Message: err.Error()}
	}
	return done(nix.SetProfile(ctx, system), fleet.ReasonProfileFailed)
}
