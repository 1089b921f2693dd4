// SPDX-License-Identifier: MIT

// Package api is the contract between the control plane and its callers: the
// list of operations, what agents and operators send and get, how errors
// travel, and a client for each side.
//
// It imports fleet, a library for back-off and the standard library only, and
// never decides anything.
package api

import "github.com/arcanesys/nixfleet/fleet"

// Verb is what an operator does to a running rollout.
type Verb string

// The verbs.
const (
	VerbPause   Verb = "pause"   // offer nothing more; running work ends
	VerbResume  Verb = "resume"  // go on; failures up to now no longer count
	VerbCancel  Verb = "cancel"  // end it; machines not offered stay, machines switched stay
	VerbApprove Verb = "approve" // let the waiting batch open
	VerbRetry   Verb = "retry"   // another attempt of machines that failed or were skipped
	VerbSkip    Verb = "skip"    // go on without these machines
	VerbRevert  Verb = "revert"  // order switched machines to roll back
)

// Valid reports whether v is one of the verbs.
func (v Verb) Valid() bool {
	switch v {
	case VerbPause, VerbResume, VerbCancel, VerbApprove, VerbRetry, VerbSkip, VerbRevert:
		return true
	}
	return false
}

// Page is a part of a list. Next is the cursor of the page after it, "" on the
// last.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`

	leftOut []string // what could not be read of a reply
}

// Info says what is at the other end. It is public and names no machine.
type Info struct {
	Version string `json:"version"`
	FleetID string `json:"fleetId"` // "" before a root is pinned
	Mode    string `json:"mode"`    // normal, restored
	Time    int64  `json:"time"`    // Unix milliseconds
	// Frozen says that no machine is ordered anything new; getFreeze has the reason.
	Frozen      bool  `json:"frozen"`
	FrozenUntil int64 `json:"frozenUntil,omitempty"` // Unix milliseconds; 0: until an operator ends it
}

// BootstrapRequest exchanges the one-time secret for the first admin key.
type BootstrapRequest struct {
	Secret string `json:"secret"`
	Owner  string `json:"owner"`
}

// KeyRequest asks for a new API key.
type KeyRequest struct {
	Owner     string      `json:"owner"`
	Role      fleet.Role  `json:"role"`
	Tags      []fleet.Tag `json:"tags,omitempty"`
	ExpiresAt int64       `json:"expiresAt,omitempty"` // Unix milliseconds; 0: never
}

// NewKey is a key with its secret, which is shown this once.
type NewKey struct {
	Key    fleet.Key `json:"key"`
	Secret string    `json:"secret"`
}

// Document carries a signed DSSE envelope as its own bytes.
type Document struct {
	Envelope []byte `json:"envelope"` // base64 in JSON
}

// ReleaseRequest registers a release: the signed header and the entries'
// bytes, sorted by machine id.
type ReleaseRequest struct {
	Envelope []byte   `json:"envelope"`
	Entries  [][]byte `json:"entries"`
}

// ReleaseDetail is a release as it was registered.
type ReleaseDetail struct {
	fleet.Release
	Envelope []byte   `json:"envelope"`
	Entries  [][]byte `json:"entries"`
}

// LineHead is the newest release that a line has had, also when it was deleted.
// Only what the envelope says was signed.
type LineHead struct {
	Line     fleet.Line     `json:"line"`
	Sequence fleet.Sequence `json:"sequence"`
	Digest   fleet.Digest   `json:"digest"`
	Envelope []byte         `json:"envelope"` // its signed header
}

// MachineRequest makes a machine known.
type MachineRequest struct {
	ID        fleet.MachineID `json:"id"`
	Lifecycle fleet.Lifecycle `json:"lifecycle,omitempty"` // pending if empty
	Tags      []fleet.Tag     `json:"tags,omitempty"`
}

// LifecycleRequest sets a machine's lifecycle; IfVersion as in TagsRequest.
type LifecycleRequest struct {
	Lifecycle fleet.Lifecycle `json:"lifecycle"`
	IfVersion int64           `json:"ifVersion,omitempty"`
}

// TagsRequest sets the operators' tags; IfVersion, when not 0, must be the
// machine's version, else the code is fleet.Changed. The header If-Match does the
// same with a machine's ETag.
type TagsRequest struct {
	Tags      []fleet.Tag `json:"tags"`
	IfVersion int64       `json:"ifVersion,omitempty"`
}

// RenameRequest gives a machine another name; IfVersion as in TagsRequest.
type RenameRequest struct {
	To        fleet.MachineID `json:"to"`
	IfVersion int64           `json:"ifVersion,omitempty"`
}

// TokenRequest asks for an enrolment token.
type TokenRequest struct {
	TTLSeconds int64 `json:"ttlSeconds,omitempty"` // 24 h if 0
	Replace    bool  `json:"replace,omitempty"`    // the name is in use: its certificate ends when the token is used
}

// Token is an enrolment token, as the control plane makes it: without a floor.
type Token struct {
	Token     string          `json:"token"`
	Machine   fleet.MachineID `json:"machine"`
	ExpiresAt int64           `json:"expiresAt"`
}

// RolloutRequest starts or plans a rollout.
type RolloutRequest struct {
	Spec   fleet.RolloutSpec `json:"spec"`
	DryRun bool              `json:"dryRun,omitempty"`
}

// Plan is what a rollout would do, or does: its batches, who is left out and
// why (H11).
type Plan struct {
	Batches [][]fleet.MachineID `json:"batches"`
	// Tolerated is how many failures each batch tolerates. Like the batches it is
	// frozen: machines that leave or are skipped change neither.
	Tolerated []int     `json:"tolerated"`
	LeftOut   []LeftOut `json:"leftOut"`
	// Begins is when the first machines may begin, in Unix milliseconds, by the
	// rollout's windows; 0: at once.
	Begins int64 `json:"begins,omitempty"`
	// Gates are what the gates say of the first batch now; of a dry run.
	Gates   []fleet.GateStatus `json:"gates,omitempty"`
	Changes fleet.PlanSummary  `json:"changes"`
}

// LeftOut is a machine that takes no part in a rollout.
type LeftOut struct {
	Machine fleet.MachineID `json:"machine"`
	Why     string          `json:"why"`
}

// Waiting says why a part of a rollout has not ended, by when it must, and what
// an operator can do.
type Waiting struct {
	Machine  fleet.MachineID `json:"machine,omitempty"` // empty: the rollout, or the batch
	Batch    int             `json:"batch"`             // from 0; -1: the rollout
	State    string          `json:"state"`
	Why      string          `json:"why"`
	Deadline int64           `json:"deadline"` // Unix milliseconds; 0: none
	// Until is when the engine expects to go on by itself, in Unix milliseconds; 0:
	// not known, or not by itself.
	Until int64  `json:"until,omitempty"`
	Do    string `json:"do,omitempty"` // a command, where there is one
}

// RolloutDetail is a rollout with its batches; Plan is set when it was just
// planned or created.
type RolloutDetail struct {
	fleet.Rollout
	Batches []fleet.Batch `json:"batches"`
	Plan    *Plan         `json:"plan,omitempty"`
}

// VerbRequest says which machines a verb is about (retry, skip, revert), and
// why; empty means all that it can apply to. IfVersion, when not 0, must be the
// rollout's version, else the code is fleet.Changed; If-Match does the same.
type VerbRequest struct {
	Machines  []fleet.MachineID `json:"machines,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	IfVersion int64             `json:"ifVersion,omitempty"`
}

// Event is a change, as the event stream tells it. Exactly one of the pointers and
// Removed is set; none in the first event of a connection, which says that the stream
// has begun. Where it cannot go on after the event that the reader named, Reset
// says so: what is known of the fleet has to be read anew.
type Event struct {
	ID         int64             `json:"id"` // rises; a stream can be resumed after it
	At         int64             `json:"at"`
	Reset      string            `json:"reset,omitempty"`
	Rollout    *fleet.Rollout    `json:"rollout,omitempty"`
	Batch      *fleet.Batch      `json:"batch,omitempty"`
	Assignment *fleet.Assignment `json:"assignment,omitempty"`
	Machine    *fleet.Machine    `json:"machine,omitempty"`
	Report     *fleet.Report     `json:"report,omitempty"`  // not of progress in a rollout, which its assignment tells
	Removed    fleet.MachineID   `json:"removed,omitempty"` // a machine that is known no more
}
