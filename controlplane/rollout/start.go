// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// start lets a scheduled rollout begin, unless something is to be waited for.
func (st *step) start() {
	if wantsFirstApproval(st.rollout) {
		st.rollout.Why = whyFirstApproval(st.rollout)
		return
	}
	if !st.mayOpen(0) {
		return
	}
	st.rollout.State, st.rollout.StartedAt, st.rollout.Why = fleet.RolloutRunning, st.now, ""
	st.open(0)
}

// wantsFirstApproval reports whether a rollout waits, or will once it is resumed,
// for the approval of its first batch.
func wantsFirstApproval(r fleet.Rollout) bool {
	return r.StartedAt == 0 && r.Spec.Approve && !r.Approved
}

func whyFirstApproval(r fleet.Rollout) string {
	if r.Spec.ApproveByOther {
		return fmt.Sprintf("waits for the approval of another owner than %s before batch 1 opens", r.CreatedBy)
	}
	return "waits for approval before batch 1 opens"
}

// approve lets the batch open that waits for it.
func (st *step) approve(c Command) {
	if wantsFirstApproval(st.rollout) {
		st.rollout.Approved, st.rollout.ApprovedBy = true, c.Actor
	} else {
		b := &st.batches[st.rollout.Batch]
		b.Approved, b.ApprovedBy = true, c.Actor
		approveGates(b, c.Actor)
	}
	st.logCommand(fleet.ActionRolloutApprove, c, nil)
}
