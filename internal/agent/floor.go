// SPDX-License-Identifier: MIT

package agent

import (
	"log/slog"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// leaveFloor returns what leaves the floor of an enrolment token for the agent to
// adopt. The token lies on the machine by a person's hand, so its floor counts as
// one that a person set there. A floor that the machine has, or that a person has
// left, stays; a token's floor that does not count leaves it unknown.
func leaveFloor(cfg config.Agent, journal func() states.Journal, log *slog.Logger) link.FloorTold {
	return func(told *api.TokenFloor) error {
		j, file := journal(), disk.Dir(cfg.StateDir).Floor()
		if j.Trust.Floor != nil || file.Left() {
			return nil
		}
		floor, err := tokenFloor(cfg, j.Trust.Root, told, time.Now())
		if err != nil {
			log.Warn("the machine is enrolled and does not know its floor: it accepts no release but the one it runs", "error", err,
				"hint", "on this machine: nixfleet-agent adopt-floor --sequence N, with the sequence that nixfleet release list shows, or 0 for any release")
			return nil
		}
		return file.Write(floor)
	}
}

// leaveAnyFloor returns what lets an agent that does not know its floor accept any
// release as its first, because the person who enrols the machine says so.
func leaveAnyFloor(cfg config.Agent, j states.Journal) link.FloorTold {
	return func(*api.TokenFloor) error {
		if j.Trust.Floor != nil {
			return nil
		}
		return disk.Dir(cfg.StateDir).Floor().Write(trust.Floor{})
	}
}

// tokenFloor returns the floor that a token sets: the newest release of the
// machine's line, if its header verifies against the machine's own root, or none
// if there was no release yet.
func tokenFloor(cfg config.Agent, root *fleet.Root, told *api.TokenFloor, now time.Time) (trust.Floor, error) {
	switch {
	case told == nil:
		return trust.Floor{}, fleet.Errorf(fleet.NotFound, "the enrolment token carries no floor")
	case told.Line != cfg.Line:
		return trust.Floor{}, fleet.Errorf(fleet.Refused, "the enrolment token is for line %s, and this machine is on %s", told.Line, cfg.Line)
	case told.Expires <= now.UnixMilli():
		return trust.Floor{}, fleet.Errorf(fleet.Refused, "the enrolment token's floor has expired")
	case len(told.Release) == 0:
		return trust.Floor{}, nil
	case root == nil && !cfg.Trust.Unsigned:
		return trust.Floor{}, fleet.Errorf(fleet.Refused, "the machine has no root document to check the enrolment token's release with")
	}
	h, digest, err := trust.CheckHeader(told.Release, root)
	if err != nil {
		return trust.Floor{}, fleet.Errorf(fleet.Refused, "the enrolment token's release: %w", err)
	}
	if h.Line != cfg.Line {
		return trust.Floor{}, fleet.Errorf(fleet.Refused, "the enrolment token's release is of line %s, and this machine is on %s", h.Line, cfg.Line)
	}
	return trust.Floor{Lines: map[fleet.Line]trust.Mark{h.Line: {Line: h.Line, Sequence: h.Sequence, Digest: digest}}}, nil
}
