// SPDX-License-Identifier: MIT

package fleet

// How many items a page has: DefaultLimit unless asked, at most MaxLimit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// PageRequest asks for one page of a list. Cursor is Next of the page before;
// Limit 0 stands for DefaultLimit.
//
// The tags of this struct and of the filters name the query parameter of a
// field: the server reads and describes the parameters by them, the client
// encodes by them.
type PageRequest struct {
	Cursor string `query:"cursor" maxLength:"200" doc:"Next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Items of a page"`
}

// Size is how many items the page may have.
func (p PageRequest) Size() int {
	if p.Limit <= 0 {
		return DefaultLimit
	}
	return min(p.Limit, MaxLimit)
}

// MachineFilter selects machines. An empty field does not select.
type MachineFilter struct {
	Tag       Tag       `query:"tag" doc:"Only machines with this tag"` // among the effective ones
	Lifecycle Lifecycle `query:"lifecycle" doc:"Only machines with this lifecycle"`
	Health    Health    `query:"health" doc:"Only machines of this health: pending, healthy or unhealthy"`
	Release   Digest    `query:"release" doc:"Only machines that run this release, by its digest"`
	Drift     bool      `query:"drift" doc:"Only machines that run something else than was activated"`
	Offline   bool      `query:"offline" doc:"Only machines that are offline"`
	Behind    bool      `query:"behind" doc:"Only machines that have to catch up: a rollout completed without them because they were offline"`
}

// Validate reports the first thing wrong with f; the code is Invalid.
func (f MachineFilter) Validate() error {
	switch {
	case f.Lifecycle != "" && !f.Lifecycle.Valid():
		return Errorf(Invalid, "%q is not a lifecycle", clip(string(f.Lifecycle), 40))
	case f.Health != "" && !f.Health.Valid():
		return Errorf(Invalid, "%q is not pending, healthy or unhealthy", clip(string(f.Health), 40))
	}
	return nil
}

// ReleaseFilter selects releases. An empty field does not select.
type ReleaseFilter struct {
	Line    Line      `query:"line" doc:"Only releases of this line"`
	Machine MachineID `query:"machine" doc:"Only releases with an entry for this machine"`
}

// RolloutFilter selects rollouts. An empty field does not select.
type RolloutFilter struct {
	State   RolloutState `query:"state" doc:"Only rollouts in this state"`
	Release Digest       `query:"release" doc:"Only rollouts of this release, by its digest"`
	Active  bool         `query:"active" doc:"Only rollouts that have not ended"`
}

// Validate reports the first thing wrong with f; the code is Invalid.
func (f RolloutFilter) Validate() error {
	if f.State != "" && !f.State.Valid() {
		return Errorf(Invalid, "%q is not the state of a rollout", clip(string(f.State), 40))
	}
	return nil
}

// AllBatches, as the batch of an AssignmentFilter, selects every batch.
const AllBatches = -1

// AssignmentFilter selects assignments of a rollout. An empty State does not
// select, nor does AllBatches; batch 0 is the first one.
type AssignmentFilter struct {
	State AssignmentState `query:"state" doc:"Only machines in this state"`
	Batch int             `query:"batch" minimum:"-1" default:"-1" doc:"Only machines of this batch, from 0; -1 for all"`
}

// Validate reports the first thing wrong with f; the code is Invalid.
func (f AssignmentFilter) Validate() error {
	if f.State != "" && !f.State.Valid() {
		return Errorf(Invalid, "%q is not the state of a machine in a rollout", clip(string(f.State), 40))
	}
	return nil
}

// AuditFilter selects audit entries. An empty field does not select. Times are
// Unix milliseconds, Since included and Until not.
type AuditFilter struct {
	Actor   string `query:"actor" doc:"Only what this one did, such as key:alice"`
	Action  string `query:"action" doc:"Only this action"`
	Subject string `query:"subject" doc:"Only what was done to this, such as machine:web-01"`
	Since   int64  `query:"since" minimum:"0" doc:"From this time on, Unix milliseconds"`
	Until   int64  `query:"until" minimum:"0" doc:"Before this time, Unix milliseconds"`
}

// EventFilter selects events. An empty field does not select.
type EventFilter struct {
	Rollout RolloutID `query:"rollout" doc:"Only events of this rollout"`
	Machine MachineID `query:"machine" doc:"Only events of this machine"`
}
