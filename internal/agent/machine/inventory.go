// SPDX-License-Identifier: MIT

package machine

import (
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

// bootDriftMs is by how much the time of boot, as the wall clock has it, may move
// without being another.
const bootDriftMs = 120_000

// inventory is what was last said of the machine, with the boot that it is of.
type inventory struct {
	fleet.Inventory
	bootID string
}

// Inventory is what there is to say of the machine beside its systems. What moves
// all the time, as free space does, changes only by steps.
func (s *Snapshot) Inventory() fleet.Inventory {
	now := s.Now()
	free, err := host.Free(fleet.StoreDir)
	if err != nil {
		s.log.Debug("free space cannot be read", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inventory = s.inventory.next(now, host.Kernel(), free)
	return s.inventory.Inventory
}

func (v inventory) next(now states.Moment, kernel string, free int64) inventory {
	booted := (now.WallMs - int64(now.Boot*1000)) / 1000 * 1000
	if now.BootID != v.bootID || max(booted-v.BootedAt, v.BootedAt-booted) > bootDriftMs {
		v.bootID, v.BootedAt = now.BootID, booted
	}
	v.Kernel, v.DiskFree = kernel, steady(v.DiskFree, free)
	return v
}

// steady is free space in steps: what was said last, until it is off by more than a
// tenth and 64 MiB; then the nearest multiple of 64 MiB.
func steady(have, now int64) int64 {
	const step = 64 << 20
	if off := max(have-now, now-have); have > 0 && off <= max(have/10, step) {
		return have
	}
	return (now + step/2) / step * step // the nearest, so that half a step has to come until the next
}
