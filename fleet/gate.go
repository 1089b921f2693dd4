// SPDX-License-Identifier: MIT

package fleet

import "regexp"

// GateName names a gate that the control plane's configuration defines: letters,
// digits and '-', up to 40.
type GateName string

var gateName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// Valid reports whether n is a name.
func (n GateName) Valid() bool { return gateName.MatchString(string(n)) }

// GateAnswer is what a gate says of a batch.
type GateAnswer string

// The answers. Anything else counts as inconclusive.
const (
	GatePass         GateAnswer = "pass"
	GateFail         GateAnswer = "fail"
	GateInconclusive GateAnswer = "inconclusive" // no data, no answer, or one that is not known
)

// GateStatus is where a gate of a soaked batch stands. AnsweredAt is in Unix
// milliseconds; the other times are running time in the engine and the store, and
// are shown as the wall clock's time at which they are expected.
type GateStatus struct {
	Name    GateName   `json:"name"`
	Answer  GateAnswer `json:"answer"` // the last one; empty before the first
	Message string     `json:"message,omitempty"`
	// Asked counts how often it was asked; AskAt is when it is asked next.
	Asked      int   `json:"asked"`
	AskAt      int64 `json:"askAt"`
	AnsweredAt int64 `json:"answeredAt"`
	Since      int64 `json:"since"`    // when the batch came to it
	Deadline   int64 `json:"deadline"` // by when it must have passed
	// ApprovedBy is the operator who let the batch pass without an answer.
	ApprovedBy string `json:"approvedBy,omitempty"`
}

// OnInconclusive says what becomes of a batch whose gate has not answered by its
// deadline.
type OnInconclusive string

// What becomes of such a batch.
const (
	InconclusiveFails    OnInconclusive = "fail"
	InconclusiveApproval OnInconclusive = "approve" // it waits for an operator's approval
)

// Valid reports whether o is one of the two.
func (o OnInconclusive) Valid() bool { return o == InconclusiveFails || o == InconclusiveApproval }

// MaxGates bounds the gates of a rollout.
const MaxGates = 20
