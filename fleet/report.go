// SPDX-License-Identifier: MIT

package fleet

import (
	"strings"
	"unicode"
)

// Outcome is how an attempt ended.
type Outcome string

// The outcomes of an attempt.
const (
	OutcomeLive           Outcome = "live"            // runs, is the boot default, checks pass
	OutcomeLiveDegraded   Outcome = "live-degraded"   // live, and units are failed that were not before
	OutcomeStagedReboot   Outcome = "staged-reboot"   // is the boot default; the old kernel runs, by policy
	OutcomeRolledBack     Outcome = "rolled-back"     // by itself; the previous system runs
	OutcomeRollbackFailed Outcome = "rollback-failed" // could not roll back: needs a person
	OutcomeReverted       Outcome = "reverted"        // rolled back by order; the previous system runs
	OutcomeRevertFailed   Outcome = "revert-failed"   // could not do what it was ordered: needs a person
	OutcomeFailed         Outcome = "failed"          // never switched; the old system runs
	OutcomeRefused        Outcome = "refused"         // the trust rules forbid it; the old system runs
)

// Valid reports whether o is one of the outcomes.
func (o Outcome) Valid() bool {
	switch o {
	case OutcomeLive, OutcomeLiveDegraded, OutcomeStagedReboot, OutcomeRolledBack, OutcomeRollbackFailed,
		OutcomeReverted, OutcomeRevertFailed, OutcomeFailed, OutcomeRefused:
		return true
	}
	return false
}

// Success reports whether the machine is on the release.
func (o Outcome) Success() bool {
	return o == OutcomeLive || o == OutcomeLiveDegraded || o == OutcomeStagedReboot
}

// OnPrevious reports whether the previous system runs again after an attempt
// that had switched, by the machine's own decision or by order.
func (o Outcome) OnPrevious() bool { return o == OutcomeRolledBack || o == OutcomeReverted }

// ReportKind says what a report tells.
type ReportKind string

// The kinds of report.
const (
	ReportProgress ReportKind = "progress" // an attempt has entered Phase
	ReportOutcome  ReportKind = "outcome"  // an attempt has ended with Outcome
	ReportRefusal  ReportKind = "refusal"  // a document, a prefetch or a store path was refused
	ReportDrift    ReportKind = "drift"    // the system was changed by another hand
)

// Valid reports whether k is one of the kinds.
func (k ReportKind) Valid() bool {
	switch k {
	case ReportProgress, ReportOutcome, ReportRefusal, ReportDrift:
		return true
	}
	return false
}

// Limits of a report, in bytes and items. Longer text is cut by the agent, and
// again by the control plane (A15).
const (
	MaxMessage     = 4096
	MaxFailedUnits = 64
	MaxChecks      = 128
	MaxBootID      = 64
)

// Report is what an agent tells. It names rollout, attempt, release, store
// path and boot, so that a report of another system can never pass a gate
// (H01). It is queued on the machine's disk, sent in order and applied once,
// by ID.
type Report struct {
	ID        string              `json:"id"` // unique on the machine: boot-independent, from the outbox
	Machine   MachineID           `json:"machine"`
	Kind      ReportKind          `json:"kind"`
	At        int64               `json:"at"` // Unix milliseconds, the agent's clock
	Rollout   RolloutID           `json:"rollout,omitempty"`
	Attempt   int                 `json:"attempt,omitempty"`
	Digest    Digest              `json:"digest,omitempty"`    // the release in question
	StorePath StorePath           `json:"storePath,omitempty"` // its entry's path
	BootID    string              `json:"bootId"`
	Phase     AssignmentState     `json:"phase,omitempty"` // progress: fetching, applying, awaiting-reboot, verifying, rolling-back, reverting
	Outcome   Outcome             `json:"outcome,omitempty"`
	Reason    Reason              `json:"reason,omitempty"`
	Message   string              `json:"message,omitempty"` // for people
	Checks    []HealthCheckResult `json:"checks,omitempty"`
	Failed    []string            `json:"failedUnits,omitempty"` // units failed now that were not before
	Confirmed string              `json:"confirmed,omitempty"`   // what answered after the switch: control-plane, a beacon, checks-only
	Generations
}

// Clean cuts text to its limits, keeps words that it does not know, and leaves
// out what is not valid, with a mark in Message: no report is lost for what it
// says (A15). The id stays: it is what the report is acknowledged by.
func (r *Report) Clean() {
	var left []string
	keepValid(&r.StorePath, "storePath", &left)
	r.Generations.clean(&left)
	r.Message = noteLeftOut(CleanText(r.Message, MaxMessage), left, MaxMessage)
	r.Kind, r.Phase, r.Outcome, r.Reason = CleanWord(r.Kind), CleanWord(r.Phase), CleanWord(r.Outcome), CleanWord(r.Reason)
	r.BootID, r.Confirmed = CleanLine(r.BootID, MaxBootID), CleanLine(r.Confirmed, 256)
	r.Checks = CleanResults(r.Checks)
	r.Failed = r.Failed[:min(len(r.Failed), MaxFailedUnits)]
	for i := range r.Failed {
		r.Failed[i] = CleanLine(r.Failed[i], 256)
	}
}

// CleanText makes s valid UTF-8 without control characters other than newline
// and tab, and cuts its middle out so that it has at most limit bytes.
func CleanText(s string, limit int) string {
	const gap = "\n[...]\n"
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				return -1
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
	}
	if len(s) > 4*limit { // do not scan megabytes to keep a page
		s = s[:2*limit] + s[len(s)-2*limit:]
	}
	if s = clean(s); len(s) <= limit {
		return s
	}
	if limit <= len(gap) {
		return strings.ToValidUTF8(s[:limit], "")
	}
	head := (limit - len(gap)) / 3
	tail := limit - len(gap) - head
	return strings.ToValidUTF8(s[:head], "") + gap + strings.ToValidUTF8(s[len(s)-tail:], "")
}

// Validate reports the first thing wrong with r; the code is Invalid. Call
// Clean first. Words that this version does not know are not wrong: a newer
// agent may use them.
func (r *Report) Validate() error {
	switch {
	case len(r.ID) == 0 || len(r.ID) > 64 || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c > '~' }):
		return Errorf(Invalid, "report: id must be 1 to 64 visible ASCII characters")
	case !r.Machine.Valid():
		return Errorf(Invalid, "report %s: bad machine id", r.ID)
	case !IsWord(string(r.Kind)):
		return Errorf(Invalid, "report %s: bad kind %q", r.ID, clip(string(r.Kind), 40))
	case (r.Kind == ReportOutcome) != (r.Outcome != "") || r.Outcome != "" && !IsWord(string(r.Outcome)):
		return Errorf(Invalid, "report %s: bad outcome %q", r.ID, clip(string(r.Outcome), 40))
	case r.Kind == ReportProgress && !IsWord(string(r.Phase)):
		return Errorf(Invalid, "report %s: bad phase %q", r.ID, clip(string(r.Phase), 40))
	case r.Reason != "" && !IsWord(string(r.Reason)):
		return Errorf(Invalid, "report %s: bad reason %q", r.ID, clip(string(r.Reason), 40))
	case r.Rollout != "" && (!r.Rollout.Valid() || r.Attempt < 1 || !r.Digest.Valid()):
		return Errorf(Invalid, "report %s: rollout, attempt and digest go together", r.ID)
	case r.Digest != "" && !r.Digest.Valid():
		return Errorf(Invalid, "report %s: bad digest", r.ID)
	case len(r.BootID) > MaxBootID || len(r.Confirmed) > 256:
		return Errorf(Invalid, "report %s: bootId or confirmed is too long", r.ID)
	}
	for _, p := range []StorePath{r.StorePath, r.Running, r.Booted, r.BootDefault} {
		if p != "" && !p.Valid() {
			return Errorf(Invalid, "report %s: %q is not a store path", r.ID, clip(string(p), 120))
		}
	}
	return nil
}
