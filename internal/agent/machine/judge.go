// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// judge fetches the bundle of the release that the order names and applies the
// trust rules.
func (m *Machine) judge(ctx context.Context, j states.Journal) states.Input {
	a, in := m.accept(ctx, j, j.Work.Order.Digest)
	if in != nil {
		return in
	}
	return states.Accepted{Release: a}
}

// accept returns a release that may be fetched, or an input that says why not.
func (m *Machine) accept(ctx context.Context, j states.Journal, d fleet.Digest) (trust.Accepted, states.Input) {
	raw, err := m.Plane.Release(ctx, d)
	if err != nil {
		return trust.Accepted{}, states.Held{Why: "fetch the bundle of release " + d.Short() + ": " + err.Error()}
	}
	bundle, err := trust.ParseBundle(raw)
	if err != nil {
		return trust.Accepted{}, states.Refused{Reason: trust.ReasonOf(err), Message: err.Error()}
	}
	a, r := trust.Accept(m.trustState(j), m.Now().WallMs, bundle)
	if r != nil {
		return trust.Accepted{}, states.Refused{Reason: r.Reason, Message: r.Detail}
	}
	if a.Digest != d {
		return trust.Accepted{}, states.Refused{Reason: fleet.ReasonMalformed, Message: fmt.Sprintf("release %s was ordered and %s was delivered", d.Short(), a.Digest.Short())}
	}
	return a, nil
}

// trustState is the journal's trust state with what the running system declares.
func (m *Machine) trustState(j states.Journal) trust.State {
	s := j.Trust
	s.Machine, s.System, s.Line, s.Unsigned = m.Agent.MachineID, host.System(), m.Agent.Line, m.Agent.Trust.Unsigned
	s.Running = m.Generations().Running
	return s
}
