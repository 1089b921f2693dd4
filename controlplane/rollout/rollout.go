// SPDX-License-Identifier: AGPL-3.0-only

// Package rollout is the rollout engine: it decides which machine may go to a
// release, when, and what happens when one fails.
//
// It is pure: no clock, no I/O, no randomness. Time comes in as Unix
// milliseconds, for records, and as running time, for deadlines; what the fleet
// looks like comes in as World, and what is to be done goes out as Result. The
// caller keeps State durable and calls again at WakeAt.
package rollout

import (
	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// State is a rollout as the store has it: the rollout's row, its batches in
// order, and all its assignments.
type State struct {
	Rollout     fleet.Rollout
	Batches     []fleet.Batch
	Assignments map[fleet.MachineID]fleet.Assignment

	index *index // kept by Apply between steps; follows from the rest
}

// Event is something that happened. One whose ID was seen before must not
// reach Step again; the caller's store sees to that.
type Event struct {
	ID string
	// Exactly one of these is set; a zero Event is a tick.
	Report  *fleet.Report // from a machine's outbox
	Command *Command      // from an operator
	// Superseded names machines that another rollout, By, has taken over.
	Superseded []fleet.MachineID
	By         fleet.RolloutID
	// Changed names a machine whose lifecycle changed (H10), or that is online
	// again.
	Changed fleet.MachineID
	Gate    *GateResult // the answer to a Probe
}

// Probe asks a gate about a batch.
type Probe struct {
	Rollout  fleet.RolloutID
	Release  fleet.Digest
	Batch    int
	Gate     fleet.GateName
	Asked    int // which time it is
	Machines []fleet.MachineID
}

// GateResult is the answer to a Probe.
type GateResult struct {
	Batch   int
	Gate    fleet.GateName
	Asked   int // of the Probe
	Answer  fleet.GateAnswer
	Message string
}

// Command is what an operator orders for a rollout.
type Command struct {
	Verb     api.Verb
	Actor    string
	Machines []fleet.MachineID // empty: all that it can apply to
	Reason   string
	// Part: the actor is not for all machines of the rollout.
	Part bool
}

// World is what the engine may know of the fleet, read in the transaction that
// keeps the result.
type World struct {
	// Machine returns the facts about a machine; false if it is not known (it
	// was deleted, H10).
	Machine func(fleet.MachineID) (Facts, bool)
	// Run is the running time now, in milliseconds: what deadlines, soaks and
	// minHealthy count in. It rises only while the control plane runs, whatever is
	// done to the wall clock, goes on over restarts, and has no fixed beginning.
	Run int64
	// Since is the running time at which the control plane began to listen.
	// Deadlines that are near then count only once machines had time to reconnect
	// and report.
	Since int64
	// Freeze is set while nothing new may be ordered.
	Freeze *fleet.Freeze
	// Budgets returns the disruption budgets that a machine counts in; nil if there
	// are none.
	Budgets func(fleet.MachineID) []*Budget
	// Unfinished says which machines of a selector are not done in another rollout
	// than the one that is named, "" for none.
	Unfinished func(fleet.Selector, fleet.RolloutID) string
}

// Facts are what the engine knows of a machine.
type Facts struct {
	Lifecycle   fleet.Lifecycle
	LastContact int64 // Unix milliseconds; 0: never
	SeenRun     int64 // running time of the last contact; 0: not since the control plane's start
	Online      bool  // see fleet.Machine.Offline
	Running     fleet.StorePath
	RunsRelease fleet.Digest
}

// Result is what a step decided. Rows are whole and new; those that are not
// listed did not change.
type Result struct {
	Rollout     *fleet.Rollout
	Batches     []fleet.Batch
	Assignments []fleet.Assignment
	Audit       []fleet.AuditEvent
	// Wake lists machines whose orders changed: their long polls end.
	Wake []fleet.MachineID
	// EndClaims lists machines whose claim by this rollout ends.
	EndClaims []fleet.MachineID
	// Probes are gates to ask. An answer that gets lost is asked for again.
	Probes []Probe
}
