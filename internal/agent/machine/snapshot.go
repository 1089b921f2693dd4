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

// Snapshot is what can be told of the machine at any time: the last journal,
// the last results of its checks, its clocks and its systems.
type Snapshot struct {
	machine fleet.MachineID
	log     *slog.Logger
	changed chan struct{}

	mu      sync.Mutex
	journal states.Journal
	checks  []fleet.HealthCheckResult
}

// NewSnapshot begins with a journal.
func NewSnapshot(machine fleet.MachineID, j states.Journal, log *slog.Logger) *Snapshot {
	return &Snapshot{machine: machine, log: log, changed: make(chan struct{}, 1), journal: j}
}

// SetJournal keeps the journal.
func (s *Snapshot) SetJournal(j states.Journal) {
	s.mu.Lock()
	s.journal = j
	s.mu.Unlock()
	s.notify()
}

// SetChecks keeps the results of the checks; only another health counts as a
// change.
func (s *Snapshot) SetChecks(r []fleet.HealthCheckResult) {
	s.mu.Lock()
	news := s.checks == nil || fleet.HealthOf(s.checks) != fleet.HealthOf(r)
	s.checks = r
	s.mu.Unlock()
	if news {
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

// Journal is the last one that was written.
func (s *Snapshot) Journal() states.Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal
}

// Checks are the last results; nil before the first.
func (s *Snapshot) Checks() []fleet.HealthCheckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checks
}

// System is the machine's platform.
func (s *Snapshot) System() fleet.System { return host.System() }

// Generations reads what the machine runs, booted and would boot.
func (s *Snapshot) Generations() fleet.Generations { return nix.Generations() }

// Now reads the clocks.
func (s *Snapshot) Now() states.Moment {
	m, err := host.Now()
	if err != nil {
		s.log.Error("the clock cannot be read", "error", err)
		return states.Moment{WallMs: time.Now().UnixMilli()}
	}
	return m
}

// Seen is what a report says of the machine at present.
func (s *Snapshot) Seen() states.Seen {
	return states.Seen{Machine: s.machine, At: s.Now(), Generations: s.Generations()}
}
