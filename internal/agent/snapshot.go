// SPDX-License-Identifier: MIT

package agent

import (
	"sync"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// snapshot is what the engine has told of itself last.
type snapshot struct {
	mu      sync.Mutex
	journal states.Journal
	moved   chan struct{}
}

func (s *snapshot) set(j states.Journal) {
	s.mu.Lock()
	s.journal = j
	s.mu.Unlock()
	s.ring()
}

// ring tells that there may be something new to say.
func (s *snapshot) ring() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

func (s *snapshot) get() states.Journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal
}

// checked keeps what the checks say; a change for better or worse is told at
// once.
func (w *world) checked(r []fleet.HealthCheckResult) {
	before := w.health()
	if w.checks.Store(&r); w.health() != before {
		w.snapshot.ring()
	}
}

func (w *world) health() fleet.Health {
	r := w.checks.Load()
	if r == nil {
		return ""
	}
	return fleet.HealthOf(*r)
}
