// SPDX-License-Identifier: MIT

package fleet

// Order names what a machine is asked to do: to activate a release, or to roll
// back from it, as one attempt of an assignment. It grants no authority: what
// it names has to pass the agent's own trust rules.
type Order struct {
	Digest  Digest    `json:"digest"`
	Rollout RolloutID `json:"rollout"`
	Attempt int       `json:"attempt"`
	// MinHealthyMs is how long the health checks have to pass, in
	// milliseconds. An order to roll back has none.
	MinHealthyMs int64 `json:"minHealthyMs,omitempty"`
	// DeadlineMs is how long the attempt may take from now, in milliseconds; 0
	// for no limit.
	DeadlineMs int64 `json:"deadlineMs,omitempty"`
	// Windows and Blackouts are when the machine may begin to switch, and may
	// reboot, as in RolloutRules.
	Windows   []string `json:"windows,omitempty"`
	Blackouts []string `json:"blackouts,omitempty"`
	// Reboot and RebootWindows are whether, and when, it may reboot into the release,
	// if its own policy allows it, as in RolloutRules.
	Reboot        RebootPolicy `json:"reboot,omitempty"`
	RebootWindows []string     `json:"rebootWindows,omitempty"`
}

// DocumentDigests are the digests of a fleet's current trust documents, each
// empty where there is none.
type DocumentDigests struct {
	Root        Digest `json:"root,omitempty"`
	Revocations Digest `json:"revocations,omitempty"`
	Timestamp   Digest `json:"timestamp,omitempty"`
}
