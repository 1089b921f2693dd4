// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// An operator who reverts the only canary, or all that were healthy, does not let the
// next batch open by that; nor does a failure that comes after a resume.
func TestStep_OpensNoBatchOnTheWordOfARevert(t *testing.T) {
	s := spec("2", "100%")
	s.MaxFailures = fleet.Amount{N: 1}
	m := newSim(t, 4, s)
	m.tick()
	bad, canary := m.at(0, 0), m.at(0, 1)
	m.back(bad, fleet.ReasonCheckFailed)
	m.progress(canary, fleet.AssignVerifying)
	m.verb(api.VerbRevert, canary)
	m.back(canary, fleet.ReasonRevertOrdered)
	m.wantStates("paused = open: rolled-back reverted | waiting: pending pending")
	if why := m.state.Rollout.Why; !strings.Contains(why, string(canary)+" was reverted by order") {
		t.Errorf("paused, as %s", why)
	}
	m.verb(api.VerbResume)
	m.wantStates("running = passed: rolled-back reverted | open: offered offered")

	m = newSim(t, 4, s)
	m.tick()
	m.verb(api.VerbPause)
	m.verb(api.VerbResume)
	m.back(m.at(0, 0), fleet.ReasonCheckFailed)
	m.verb(api.VerbPause)
	m.verb(api.VerbResume)
	m.back(m.at(0, 1), fleet.ReasonCheckFailed)
	m.wantStates("running = gated: rolled-back rolled-back | waiting: pending pending")
}
