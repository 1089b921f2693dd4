// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// index follows from a State's rows. With it a tick skips machines that nothing
// can happen to.
type index struct {
	order        [][]fleet.MachineID // of each batch, in the order of the plan
	pending      [][]fleet.MachineID // of each batch, in order, a superset of those pending
	atWork       map[fleet.MachineID]bool
	failed       map[fleet.MachineID]bool
	readmittable map[fleet.MachineID]bool // skipped, until the cause is over
	calendar     fleet.Calendar           // of the spec, which was validated
	reboots      fleet.Calendar           // of the spec, beside calendar
	after        []fleet.Selector         // of the spec
}

// indexed returns the state's index, a new one if it has none yet.
func (s *State) indexed() *index {
	if s.index != nil {
		return s.index
	}
	x := &index{
		order: make([][]fleet.MachineID, len(s.Batches)), pending: make([][]fleet.MachineID, len(s.Batches)),
		atWork: map[fleet.MachineID]bool{}, failed: map[fleet.MachineID]bool{}, readmittable: map[fleet.MachineID]bool{},
	}
	x.calendar, _ = s.Rollout.Spec.Calendar()
	x.reboots, _ = s.Rollout.Spec.RebootCalendar()
	x.after, _ = s.Rollout.Spec.Groups()
	for id, a := range s.Assignments {
		x.order[a.Batch] = append(x.order[a.Batch], id)
		x.note(a)
	}
	for i, ids := range x.order {
		sortByHash(s.Rollout.Spec.Release, ids)
		x.pending[i] = stillPending(ids, s.Assignments)
	}
	return x
}

func (x *index) note(a fleet.Assignment) {
	set(x.atWork, a.Machine, atWork(a))
	set(x.failed, a.Machine, hasFailed(a))
	set(x.readmittable, a.Machine, readmittable(a))
}

func set(m map[fleet.MachineID]bool, id fleet.MachineID, in bool) {
	if in {
		m[id] = true
	} else {
		delete(m, id)
	}
}

// atWork reports whether a machine is at work, or rolls back.
func atWork(a fleet.Assignment) bool {
	return a.State.InFlight() || a.State.RollingBack()
}

// readmittable reports whether a machine is skipped only until the cause is
// over.
func readmittable(a fleet.Assignment) bool {
	return a.State == fleet.AssignSkipped && (a.Reason == fleet.ReasonOffline || a.Reason == fleet.ReasonLifecycle)
}

func stillPending(ids []fleet.MachineID, rows map[fleet.MachineID]fleet.Assignment) []fleet.MachineID {
	var list []fleet.MachineID
	for _, id := range ids {
		if rows[id].State == fleet.AssignPending {
			list = append(list, id)
		}
	}
	return list
}

// Apply makes the result of a step the state, in place.
func (s *State) Apply(r Result) {
	s.index = s.indexed()
	if r.Rollout != nil {
		s.Rollout = *r.Rollout
	}
	for _, b := range r.Batches {
		s.Batches[b.Index] = b
	}
	again := map[int]bool{} // batches with machines that are pending again
	for _, a := range r.Assignments {
		if a.State == fleet.AssignPending && s.Assignments[a.Machine].State != fleet.AssignPending {
			again[a.Batch] = true
		}
		s.Assignments[a.Machine] = a
		s.index.note(a)
	}
	for i, list := range s.index.pending {
		switch {
		case again[i]:
			s.index.pending[i] = stillPending(s.index.order[i], s.Assignments)
		case len(list) > 2*s.Batches[i].Counts.Pending+16:
			s.index.pending[i] = stillPending(list, s.Assignments)
		}
	}
}

// members returns the machines of a batch in the order of the plan.
func (st *step) members(batch int) []fleet.MachineID { return st.indexed().order[batch] }

// waiting returns a superset of the pending machines of a batch, in order.
func (st *step) waiting(batch int) []fleet.MachineID {
	if st.requeued {
		return st.members(batch)
	}
	return st.indexed().pending[batch]
}

func (st *step) indexed() *index {
	if st.index == nil {
		st.index = st.state.indexed()
	}
	return st.index
}

// matching returns the machines of a set of the index, as it is after the changes
// of this step, by name.
func (st *step) matching(set map[fleet.MachineID]bool, in func(fleet.Assignment) bool) []fleet.Assignment {
	ids := slices.AppendSeq(make([]fleet.MachineID, 0, len(set)+len(st.changed)), maps.Keys(set))
	for id := range st.changed {
		if !set[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var list []fleet.Assignment
	for _, id := range ids {
		if a, _ := st.assignment(id); in(a) {
			list = append(list, a)
		}
	}
	return list
}

func (st *step) atWork() []fleet.Assignment { return st.matching(st.indexed().atWork, atWork) }
func (st *step) readmittable() []fleet.Assignment {
	return st.matching(st.indexed().readmittable, readmittable)
}

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
