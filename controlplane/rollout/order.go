// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// sortByHash puts machines into the order of a release's plan: as good as
// random, so that canaries differ from release to release, and the same each
// time, so that a preview is what happens.
func sortByHash(seed fleet.Digest, ids []fleet.MachineID) {
	type keyed struct {
		key uint64
		id  fleet.MachineID
	}
	list := make([]keyed, len(ids))
	for i, id := range ids {
		sum := sha256.Sum256([]byte(string(seed) + "\n" + string(id)))
		list[i] = keyed{binary.BigEndian.Uint64(sum[:8]), id}
	}
	slices.SortFunc(list, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id))
	})
	for i, k := range list {
		ids[i] = k.id
	}
}

// planOrder returns the machines of each batch in the order of the plan.
func planOrder(s *State) [][]fleet.MachineID {
	if s.order != nil {
		return s.order
	}
	order := make([][]fleet.MachineID, len(s.Batches))
	for id, a := range s.Assignments {
		order[a.Batch] = append(order[a.Batch], id)
	}
	for _, ids := range order {
		sortByHash(s.Rollout.Spec.Release, ids)
	}
	return order
}
