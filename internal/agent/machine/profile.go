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

func (m *Machine) profile(ctx context.Context, system fleet.StorePath) states.Input {
	if _, err := os.Stat(string(system)); errors.Is(err, fs.ErrNotExist) {
		return states.Failed{Reason: fleet.ReasonPathVanished, Message: err.Error()}
	}
	return done(nix.SetProfile(ctx, system), fleet.ReasonProfileFailed)
}
