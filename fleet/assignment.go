// SPDX-License-Identifier: MIT

package fleet

// AssignmentState is where one machine stands in one rollout.
type AssignmentState string

// The states of an assignment.
const (
	AssignPending        AssignmentState = "pending"         // its batch is not open, or it waits for a slot
	AssignOffered        AssignmentState = "offered"         // the machine may fetch and switch; it has not answered yet
	AssignFetching       AssignmentState = "fetching"        // copies the closure from a cache and verifies it
	AssignApplying       AssignmentState = "applying"        // switches
	AssignAwaitingReboot AssignmentState = "awaiting-reboot" // is the boot default; runs after a reboot
	AssignVerifying      AssignmentState = "verifying"       // switched; its required checks have to pass for minHealthy
	AssignHealthy        AssignmentState = "healthy"         // runs the release, and its required checks pass
	AssignHeld           AssignmentState = "held"            // waits for something outside the rollout
	AssignFailed         AssignmentState = "failed"          // never switched, or not healthy in time
	AssignRefused        AssignmentState = "refused"         // the machine's trust rules forbid the release
	AssignRollingBack    AssignmentState = "rolling-back"    // rolls back by itself
	AssignRolledBack     AssignmentState = "rolled-back"     // rolled back by itself; the previous system runs
	AssignRollbackFailed AssignmentState = "rollback-failed" // could not roll back: needs a person
	AssignReverting      AssignmentState = "reverting"       // was ordered to roll back
	AssignReverted       AssignmentState = "reverted"        // rolled back by order; the previous system runs
	AssignRevertFailed   AssignmentState = "revert-failed"   // could not do what it was ordered: needs a person
	AssignSkipped        AssignmentState = "skipped"         // the rollout goes on without it
	AssignSuperseded     AssignmentState = "superseded"      // a later rollout took it over
)

// Valid reports whether s is one of the states.
func (s AssignmentState) Valid() bool {
	switch s {
	case AssignPending, AssignHeld, AssignHealthy:
		return true
	}
	return s.InFlight() || s.Failure() || s.RollingBack() || s == AssignSkipped || s == AssignSuperseded
}

// InFlight reports whether a machine in s is at work on the release: it holds
// a slot and has a deadline.
func (s AssignmentState) InFlight() bool {
	switch s {
	case AssignOffered, AssignFetching, AssignApplying, AssignAwaitingReboot, AssignVerifying:
		return true
	}
	return false
}

// RollingBack reports whether a machine in s is on its way to the previous
// system, by itself or by order. It has a deadline, and holds no slot.
func (s AssignmentState) RollingBack() bool { return s == AssignRollingBack || s == AssignReverting }

// Failure reports whether s counts against the tolerated failures.
func (s AssignmentState) Failure() bool {
	switch s {
	case AssignFailed, AssignRefused, AssignRolledBack, AssignRollbackFailed, AssignReverted, AssignRevertFailed:
		return true
	}
	return false
}

// Final reports whether the assignment has ended.
func (s AssignmentState) Final() bool {
	return s == AssignHealthy || s.Failure() || s == AssignSkipped || s == AssignSuperseded
}
