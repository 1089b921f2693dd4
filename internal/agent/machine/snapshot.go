// SPDX-License-Identifier: MIT

package machine

import (
	"log/slog"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// Snapshot is what is known of the machine at any time: the last journal, the last
// results of its checks, its clocks and its systems.
type Snapshot struct {
	// Host is where clocks and systems are read; this machine's. It may be replaced
	// before the snapshot is used.
	Host    Host
	machine fleet.MachineID
	log     *slog.Logger
	changed chan struct{}

	mu      sync.Mutex
	journal states.Journal
	checks  []fleet.HealthCheckResult
	reboot  rebootNeed

	inventory inventory
}

// rebootNeed is whether a machine with these systems needs a reboot.
type rebootNeed struct {
	of     fleet.Generations
	needed bool
}

// Host reads a machine's clocks and systems.
type Host struct {
	Now         func() (states.Moment, error)
	Generations func() fleet.Generations
}

// NewSnapshot makes one with a journal and no results.
func NewSnapshot(machine fleet.MachineID, j states.Journal, log *slog.Logger) *Snapshot {
	return &Snapshot{Host: Host{host.Now, nix.Generations}, machine: machine, log: log, changed: make(chan struct{}, 1), journal: j}
}

// SetJournal replaces the journal.
func (s *Snapshot) SetJournal(j states.Journal) {
	s.mu.Lock()
	s.journal = j
	s.mu.Unlock()
	s.notify()
}

// SetChecks replaces the results of the checks. Only a change of health counts as
// one.
func (s *Snapshot) SetChecks(r []fleet.HealthCheckResult) {
	s.mu.Lock()
	changed := s.checks == nil || fleet.HealthOf(s.checks) != fleet.HealthOf(r)
	s.checks = r
	s.mu.Unlock()
	if changed {
		s.notify()
	}
}

func (s *Snapshot) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Changed tells that journal or health may have changed.
func (s *Snapshot) Changed() <-chan struct{} { return s.changed }

// Journal is the last journal that was written.
func (s *Snapshot) Journal() states.Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal
}

// Checks are the last results of the checks; nil before the first.
func (s *Snapshot) Checks() []fleet.HealthCheckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checks
}

// System is the machine's platform.
func (s *Snapshot) System() fleet.System { return host.System() }

// Generations reads which systems run, were booted, and will be booted.
func (s *Snapshot) Generations() fleet.Generations { return s.Host.Generations() }

// Now reads the clocks.
func (s *Snapshot) Now() states.Moment {
	m, err := s.Host.Now()
	if err != nil {
		s.log.Error("the clock cannot be read", "error", err)
		return states.Moment{WallMs: time.Now().UnixMilli()}
	}
	return m
}

// Seen is what a report contains now.
func (s *Snapshot) Seen() states.Seen {
	g := s.Generations()
	return states.Seen{Machine: s.machine, At: s.Now(), Generations: g, NeedsReboot: s.needsReboot(g)}
}

// needsReboot reads again only after a change.
func (s *Snapshot) needsReboot(g fleet.Generations) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g == s.reboot.of || g.BootDefault == "" {
		return s.reboot.needed && g.BootDefault != ""
	}
	needed, err := needsReboot(string(g.BootDefault))
	if err != nil {
		s.log.Warn("whether a reboot is needed cannot be read", "error", err)
		return false
	}
	s.reboot = rebootNeed{of: g, needed: needed}
	return needed
}
