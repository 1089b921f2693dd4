// SPDX-License-Identifier: MIT

package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// conclude queues the outcome and tidies up. It is the last step: all of it
// can be done again.
func (m *Machine) conclude(j states.Journal) states.Input {
	work := j.Work
	var errs []error
	r := m.Seen().Outcome(j)
	errs = append(errs, m.Outbox.Put(r), m.history.Add(r), m.watch.Remove(), host.Sweep(disk.Dir(m.Agent.StateDir).Switches()))
	switch {
	case work.Outcome.Success():
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Target.Path), m.writeRelease(work))
		if work.Previous.Path != "" && work.Previous.Path != work.Target.Path {
			errs = append(errs, nix.SetRoot(nix.RootsDir, "last-good", work.Previous.Path))
		}
	case work.Outcome.OnPrevious() && work.Previous.Path != "":
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Previous.Path))
		if work.Order.Kind == states.Revert {
			errs = append(errs, m.restoreRelease())
		}
	}
	errs = append(errs, nix.RemoveRoot(nix.RootsDir, "target"), nix.RemoveRoot(nix.RootsDir, "previous"))
	if err := errors.Join(errs...); err != nil {
		m.log.Error("the attempt's end is not tidy", "error", err)
	}
	return states.Done{}
}

// releaseFile is what programs on the machine may read about what runs.
type releaseFile struct {
	Machine   fleet.MachineID `json:"machine"`
	Digest    fleet.Digest    `json:"digest"`
	Name      string          `json:"name,omitempty"`
	Line      fleet.Line      `json:"line"`
	Sequence  fleet.Sequence  `json:"sequence"`
	StorePath fleet.StorePath `json:"storePath"`
	Source    fleet.Source    `json:"source"`
}

// writeRelease writes what is known of the release that went live, and keeps
// what was known of the one before.
func (m *Machine) writeRelease(work *states.Work) error {
	b, err := json.MarshalIndent(releaseFile{
		m.Agent.MachineID, work.Target.Digest, work.Target.Name, work.Target.Line, work.Target.Sequence, work.Target.Path, work.Accepted.Header.Source,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode release: %w", err)
	}
	now := filepath.Join(m.Agent.StateDir, "release.json")
	if old, err := os.ReadFile(now); err == nil && string(old) != string(b) {
		if err := disk.WriteFile(filepath.Join(m.Agent.StateDir, "release-last-good.json"), old, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(disk.WriteFile(now, b, 0o644), disk.WriteFile(filepath.Join(m.Agent.RunDir, "release.json"), b, 0o644))
}

// restoreRelease brings back what was known of the release before.
func (m *Machine) restoreRelease() error {
	b, err := os.ReadFile(filepath.Join(m.Agent.StateDir, "release-last-good.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(disk.Remove(filepath.Join(m.Agent.StateDir, "release.json")), disk.Remove(filepath.Join(m.Agent.RunDir, "release.json")))
	}
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	return errors.Join(disk.WriteFile(filepath.Join(m.Agent.StateDir, "release.json"), b, 0o644), disk.WriteFile(filepath.Join(m.Agent.RunDir, "release.json"), b, 0o644))
}
