// SPDX-License-Identifier: MIT

package states

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// Seen is what every report contains: the machine, the time, and what runs.
type Seen struct {
	Machine fleet.MachineID
	At      Moment
	fleet.Generations
	// NeedsReboot: the boot default is a system that a switch alone does not bring
	// to run whole.
	NeedsReboot bool
}

// Transition returns the report of a change from one journal to the next, if
// there is one.
func (s Seen) Transition(before, after Journal) (fleet.Report, bool) {
	switch {
	case after.Work != nil && after.Phase() != "" && (before.Work == nil || after.Phase() != before.Phase()):
		r := s.attempt(after, fleet.ReportProgress)
		r.Phase = after.Phase()
		if r.Phase.RollingBack() {
			r.Reason, r.Message, r.Checks = after.Work.Reason, after.Work.Message, after.Work.Checks
		}
		r.ID = s.id(after, string(r.Phase))
		return r, true
	case after.Drift != "" && after.Drift != before.Drift:
		r := s.report(fleet.ReportDrift)
		r.Reason, r.Message = fleet.ReasonChangedLocally, fmt.Sprintf("the machine runs %s, which the agent did not activate", after.Drift)
		r.ID = s.id(after, "drift "+string(after.Drift)+fmt.Sprint(r.At))
		return r, true
	}
	return fleet.Report{}, false
}

// Outcome reports how the attempt ended.
func (s Seen) Outcome(j Journal) fleet.Report {
	w := j.Work
	r := s.attempt(j, fleet.ReportOutcome)
	r.Outcome, r.Reason, r.Message, r.Checks, r.Failed, r.Confirmed = w.Outcome, w.Reason, w.Message, w.Checks, w.Failed, w.Confirmed
	if len(w.Replaced) > 0 {
		r.Message = strings.TrimSpace(r.Message + "\nnot as signed when they were fetched, and replaced: " + strings.Join(w.Replaced, "; "))
	}
	r.ID = s.id(j, "outcome "+string(w.Outcome)) // after a boot it may be another one
	r.Clean()
	return r
}

// Refusal reports a document that was refused outside an attempt.
func (s Seen) Refusal(j Journal, document fleet.Digest, reason fleet.Reason, message string) fleet.Report {
	r := s.report(fleet.ReportRefusal)
	r.Reason, r.Message = reason, message
	r.ID = s.id(j, "refusal "+string(document)+message)
	return r
}

// Deviation reports paths of a release that are not as signed. began is when the
// fetch of the release began.
func (s Seen) Deviation(release fleet.Digest, began Moment, paths []string) fleet.Report {
	r := s.report(fleet.ReportRefusal)
	r.Digest, r.Reason = release, fleet.ReasonClosureMismatch
	r.Message = "not as signed: " + strings.Join(paths, "; ")
	r.ID = s.id(Journal{}, fmt.Sprintln("deviation", release, began, r.Message))
	return r
}

// DamagedFloor reports that a copy of the machine's floor cannot be read.
func (s Seen) DamagedFloor(message string) fleet.Report {
	r := s.report(fleet.ReportRefusal)
	r.Reason, r.Message = fleet.ReasonFloorUnknown, message
	r.ID = s.id(Journal{}, fmt.Sprintln("damaged floor", s.At.BootID, message))
	return r
}

func (s Seen) attempt(j Journal, kind fleet.ReportKind) fleet.Report {
	w := j.Work
	r := s.report(kind)
	r.Rollout, r.Attempt, r.Digest, r.StorePath = w.Order.Rollout, w.Order.Attempt, w.Order.Digest, w.Target.Path
	return r
}

func (s Seen) report(kind fleet.ReportKind) fleet.Report {
	return fleet.Report{Kind: kind, Machine: s.Machine, At: s.At.WallMs, BootID: s.At.BootID, Generations: s.Generations}
}

// id is the same each time the same thing is reported, and differs from the id of
// every other report of this machine.
func (s Seen) id(j Journal, what string) string {
	h := sha256.New()
	fmt.Fprintln(h, s.Machine, what)
	if w := j.Work; w != nil {
		fmt.Fprintln(h, w.Order.Key(), w.Began.WallMs, w.Began.BootID)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
