// SPDX-License-Identifier: AGPL-3.0-only

package enrolment

import "sync"

// serials are the certificates that were revoked here.
type serials struct {
	mu      sync.RWMutex
	revoked map[string]bool
}

func (s *serials) add(numbers ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range numbers {
		s.revoked[n] = true
	}
}

func (s *serials) has(number string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revoked[number]
}
