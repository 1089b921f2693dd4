// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// report queues the outcome and cleans up. All of it can be repeated.
func (m *Machine) report(_ context.Context, j states.Journal) states.Input {
	work := j.Work
	var errs []error
	r := m.Seen().Outcome(j)
	errs = append(errs, m.Outbox.Put(r), m.dir().History().Add(r), m.dir().Watch().Remove(), host.Sweep(m.dir().Switches()))
	switch {
	case work.Outcome.Success():
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Target.Path), m.writeRelease(work))
		if work.Previous.Path != "" && work.Previous.Path != work.Target.Path {
			errs = append(errs, nix.SetRoot(nix.RootsDir, "last-good", work.Previous.Path))
		}
	case work.Outcome.OnPrevious() && work.Previous.Path != "":
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Previous.Path))
		if work.Order.Kind == states.Revert {
			errs = append(errs, m.dir().Releases(m.Agent.RunDir).Restore())
		}
	}
	errs = append(errs, nix.RemoveRoot(nix.RootsDir, targetRoot), nix.RemoveRoot(nix.RootsDir, "previous"))
	if err := errors.Join(errs...); err != nil {
		m.log.Error("cleaning up after the attempt failed", "error", err)
	}
	return states.Done{}
}

// releaseFile is what programs on the machine may read about the running release.
type releaseFile struct {
	Machine   fleet.MachineID `json:"machine"`
	Digest    fleet.Digest    `json:"digest"`
	Name      string          `json:"name,omitempty"`
	Line      fleet.Line      `json:"line"`
	Sequence  fleet.Sequence  `json:"sequence"`
	StorePath fleet.StorePath `json:"storePath"`
	Source    fleet.Source    `json:"source"`
}

// writeRelease describes the release that went live.
func (m *Machine) writeRelease(work *states.Work) error {
	b, err := json.MarshalIndent(releaseFile{
		m.Agent.MachineID, work.Target.Digest, work.Target.Name, work.Target.Line, work.Target.Sequence, work.Target.Path, work.Accepted.Header.Source,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode release: %w", err)
	}
	return m.dir().Releases(m.Agent.RunDir).Write(b)
}
