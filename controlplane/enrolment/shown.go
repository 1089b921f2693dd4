// SPDX-License-Identifier: AGPL-3.0-only

package enrolment

import (
	"sync"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// shown are certificates of another CA, in memory: all that have ended, and of
// each machine the last one that is known to be kept.
type shown struct {
	mu    sync.RWMutex
	ended map[store.Shown]bool
	kept  map[fleet.MachineID]string
}

func newShown() *shown {
	return &shown{ended: map[store.Shown]bool{}, kept: map[fleet.MachineID]string{}}
}

func (s *shown) end(certificates ...store.Shown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range certificates {
		s.ended[c] = true
	}
}

func (s *shown) hasEnded(c store.Shown) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ended[c]
}

func (s *shown) keep(c store.Shown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[c.Machine] = c.Serial
}

func (s *shown) isKept(c store.Shown) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.kept[c.Machine] == c.Serial
}
