// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/arcanesys/nixfleet/controlplane/dbfiles"
	"github.com/arcanesys/nixfleet/controlplane/diskspace"
	"github.com/arcanesys/nixfleet/fleet"
)

// condition is how the store is: what the last commits met, and what looking at
// the file found.
type condition struct {
	trouble atomic.Pointer[error] // of the last commit; nil: none
	damage  atomic.Pointer[error] // found in the file; stays
}

func load(p *atomic.Pointer[error]) error {
	if e := p.Load(); e != nil {
		return *e
	}
	return nil
}

// Trouble returns why the store takes no writes, or should not be relied on: a
// full disk, one that fails, a damaged file. The error's code is StorageFull or
// StorageFailed, and its text names the folder. It is nil again when a write has
// gone well and there is room.
func (s *Store) Trouble() error {
	if err := load(&s.condition.damage); err != nil {
		return &fleet.Error{Code: fleet.StorageFailed, Message: fmt.Sprintf("%s (%s)", err, s.path), Hint: fleet.ErrorHint(err), Err: err}
	}
	if err := load(&s.condition.trouble); err != nil {
		return dbfiles.Located(err, s.path)
	}
	return nil
}

// note takes in how a transaction ended.
func (s *Store) note(err error) {
	switch code := fleet.ErrorCode(err); {
	case code == fleet.StorageFull || code == fleet.StorageFailed:
		s.condition.trouble.Store(&err)
	case err == nil && s.condition.trouble.Load() != nil:
		if fleet.ErrorCode(load(&s.condition.trouble)) == fleet.StorageFull {
			if space, e := diskspace.Of(filepath.Dir(s.path)); e == nil && space.Full() {
				return
			}
		}
		s.condition.trouble.Store(nil)
	}
}
