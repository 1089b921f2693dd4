// SPDX-License-Identifier: MIT

package fleet

// Reason says why a machine refused, held, failed or rolled back: one closed
// list, the same on the wire, in the store and in --json. Released reasons
// never change their meaning.
type Reason string

// Reasons of the trust rules. Each ends in a refusal, a report and an
// unchanged system.
const (
	ReasonMalformed       Reason = "malformed"         // not strict JSON, or an invalid value
	ReasonTooLarge        Reason = "too-large"         // a document, entry or list beyond its limit
	ReasonCriticalField   Reason = "critical-field"    // crit names a field that this version does not know
	ReasonWrongType       Reason = "wrong-type"        // the envelope's payloadType is that of another kind of document
	ReasonNotSigned       Reason = "not-signed"        // no signature at all, and signatures are required
	ReasonUnknownKey      Reason = "unknown-key"       // signed, but by no key of the role
	ReasonBadSignature    Reason = "bad-signature"     // names a key of the role, but the bytes are not what it signed
	ReasonThreshold       Reason = "threshold-not-met" // fewer distinct keys of the role signed than it asks for
	ReasonNoRoot          Reason = "no-root"           // no root document to judge by
	ReasonRootChain       Reason = "root-chain"        // a root that does not follow the one trusted now
	ReasonWrongFleet      Reason = "wrong-fleet"       // a document of another fleet
	ReasonWrongLine       Reason = "wrong-line"        // a release of a line this machine is not on
	ReasonOlderDocument   Reason = "older-document"    // a timestamp or revocation list older than one seen before
	ReasonStaleTimestamp  Reason = "stale-timestamp"   // the timestamp the root demands is missing or past its time
	ReasonWithheld        Reason = "withheld"          // the timestamp names a revocation list that was not delivered
	ReasonRevoked         Reason = "revoked"           // the release, or all of its line below a sequence, is revoked
	ReasonExpired         Reason = "expired"           // past the time its signer gave it
	ReasonClockBehind     Reason = "clock-behind"      // own clock is over 5 minutes behind the highest signed time seen
	ReasonProofMismatch   Reason = "proof-mismatch"    // the entry is not in the signed header's tree
	ReasonWrongMachine    Reason = "wrong-machine"     // another machine's entry, or a grant for others
	ReasonWrongSystem     Reason = "wrong-system"      // built for another platform
	ReasonBadStorePath    Reason = "bad-store-path"    // not a path directly in the Nix store
	ReasonBelowFloor      Reason = "below-floor"       // sequence below the machine's floor
	ReasonConflict        Reason = "sequence-conflict" // another release with the sequence of the floor
	ReasonFloorUnknown    Reason = "floor-unknown"     // state was lost, or the token had no floor; wants a grant or adopt-floor
	ReasonGrantTooLong    Reason = "grant-too-long"    // a grant good for more than 24 hours
	ReasonUnsigned        Reason = "unsigned-mode"     // unsigned mode away from loopback, or with a root pinned
	ReasonNarHashMismatch Reason = "nar-hash-mismatch" // the fetched system's archive is not the entry's
	ReasonClosureMismatch Reason = "closure-mismatch"  // the fetched closure is not the entry's
	ReasonClosureDiffers  Reason = "closure-differs"   // a path in use here is not as signed; wants nixfleet-agent repair PATH
	ReasonNoWatchdog      Reason = "no-watchdog"       // the system has no watchdog and its entry does not say detach
	ReasonRevertRepeated  Reason = "revert-repeated"   // an order to leave a release for an older one that was reverted before
	ReasonRevertLate      Reason = "revert-late"       // a revert order after the signed window
	ReasonRevertUnknown   Reason = "revert-unknown"    // a revert order for a release that is not the one running here
	ReasonNoLastGood      Reason = "no-last-good"      // no earlier system is recorded to roll back to
)

// Reasons of an attempt on a machine.
const (
	ReasonFetchFailed    Reason = "fetch-failed"      // no cache gave the closure
	ReasonFetchStalled   Reason = "fetch-stalled"     // the copy made no progress for the stall limit
	ReasonBadCacheSig    Reason = "cache-signature"   // a path lacks a signature by the release's cache keys
	ReasonDiskFull       Reason = "disk-full"         // too little room for the closure, or to keep state
	ReasonBootFull       Reason = "boot-full"         // too little room on the boot partition
	ReasonPathVanished   Reason = "path-vanished"     // the fetched system went away before it was activated
	ReasonProfileFailed  Reason = "profile-failed"    // the system profile could not be set
	ReasonActivation     Reason = "activation-failed" // switch-to-configuration exited 2, or left the old system running
	ReasonUnitsFailed    Reason = "units-failed"      // units failed that were well before
	ReasonSwitchTimeout  Reason = "switch-timeout"    // the switch did not end in time and was killed
	ReasonSwitchKilled   Reason = "switch-killed"     // the switch ended without an exit code
	ReasonCheckFailed    Reason = "check-failed"      // a required check failed after its retries
	ReasonCheckTimeout   Reason = "check-timeout"     // a required check did not pass in time
	ReasonNoNetwork      Reason = "no-network"        // nothing that answered before the switch answered after it
	ReasonWatchdog       Reason = "watchdog"          // the watchdog rolled the machine back: the new system's agent did not confirm in time
	ReasonInterrupted    Reason = "interrupted"       // the machine lost power or the agent was killed; the old system runs
	ReasonBootedOld      Reason = "booted-old"        // the machine booted another system than the one staged
	ReasonHeldLocally    Reason = "held-locally"      // a file in /run/nixfleet/inhibit.d holds it
	ReasonRebootNeeded   Reason = "reboot-needed"     // kernel, initrd, parameters or inhibitors changed
	ReasonRevertOrdered  Reason = "revert-ordered"    // the control plane ordered the machine to roll back
	ReasonPreviousFailed Reason = "previous-failed"   // the previous system's own activation failed
	ReasonChangedLocally Reason = "changed-locally"   // someone switched the machine by hand
)

// Reasons that the control plane gives.
const (
	ReasonHealthyDeadline  Reason = "healthy-deadline"  // not healthy in time after it was offered
	ReasonProgressDeadline Reason = "progress-deadline" // the rollout made no progress in time
	ReasonOffline          Reason = "offline"           // the machine did not answer, and the policy says fail
	ReasonLifecycle        Reason = "lifecycle"         // put into maintenance or decommissioned on the way
	ReasonSkipped          Reason = "skipped"           // by an operator, or offline with policy skip
	ReasonSuperseded       Reason = "superseded"        // another rollout took the machine over
	ReasonCancelled        Reason = "cancelled"         // the rollout was cancelled before the machine was offered it
	ReasonRollbackDeadline Reason = "rollback-deadline" // a machine that rolls back did not report the end in time
	ReasonRevertDeadline   Reason = "revert-deadline"   // a machine that was ordered to roll back did not report the end in time
	ReasonUnknownOutcome   Reason = "unknown-outcome"   // the machine reported an outcome that the control plane does not know
)

// Valid reports whether r is one of the reasons above.
func (r Reason) Valid() bool {
	switch r {
	case ReasonFetchFailed, ReasonFetchStalled, ReasonBadCacheSig, ReasonDiskFull, ReasonBootFull, ReasonPathVanished,
		ReasonProfileFailed, ReasonActivation, ReasonUnitsFailed, ReasonSwitchTimeout, ReasonSwitchKilled,
		ReasonCheckFailed, ReasonCheckTimeout, ReasonNoNetwork, ReasonWatchdog, ReasonInterrupted, ReasonBootedOld,
		ReasonHeldLocally, ReasonRebootNeeded, ReasonRevertOrdered, ReasonPreviousFailed, ReasonChangedLocally,
		ReasonHealthyDeadline, ReasonProgressDeadline, ReasonOffline, ReasonLifecycle, ReasonSkipped,
		ReasonSuperseded, ReasonCancelled, ReasonRollbackDeadline, ReasonRevertDeadline,
		ReasonUnknownOutcome:
		return true
	}
	switch r {
	case ReasonMalformed, ReasonTooLarge, ReasonCriticalField, ReasonWrongType, ReasonNotSigned, ReasonUnknownKey,
		ReasonBadSignature, ReasonThreshold, ReasonNoRoot, ReasonRootChain, ReasonWrongFleet, ReasonWrongLine,
		ReasonOlderDocument, ReasonStaleTimestamp, ReasonWithheld, ReasonRevoked, ReasonExpired, ReasonClockBehind,
		ReasonProofMismatch, ReasonWrongMachine, ReasonWrongSystem, ReasonBadStorePath, ReasonBelowFloor,
		ReasonConflict, ReasonFloorUnknown, ReasonGrantTooLong, ReasonUnsigned,
		ReasonNarHashMismatch, ReasonClosureMismatch, ReasonClosureDiffers, ReasonNoWatchdog, ReasonRevertRepeated, ReasonRevertLate,
		ReasonRevertUnknown, ReasonNoLastGood:
		return true
	}
	return false
}

// Holds reports whether the same release may be accepted later without being
// signed anew: the machine waits, and says why, instead of refusing for good.
func (r Reason) Holds() bool {
	switch r {
	case ReasonNoRoot, ReasonStaleTimestamp, ReasonWithheld, ReasonClockBehind, ReasonFloorUnknown:
		return true
	}
	return false
}
