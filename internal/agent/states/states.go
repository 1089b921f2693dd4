// SPDX-License-Identifier: MIT

// Package states decides what an agent does next: a journal and an input give
// the next journal. Each step of a journal stands for one effect on the
// machine, which may be done again after a crash; the journal is on disk before
// the effect begins.
//
// It never does I/O and never reads a clock.
package states

import (
	"fmt"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Step is what an agent is doing.
type Step string

// The steps. Those that begin with rollback undo what the others did.
const (
	Idle             Step = "idle"
	Judge            Step = "judge"              // fetch the release's bundle and judge it
	Fetch            Step = "fetch"              // copy the system into the store, compare it
	Prepare          Step = "prepare"            // record what runs, what has failed, what answers
	Arm              Step = "arm"                // the watchdog, before anything changes
	Profile          Step = "profile"            // set the system profile
	Switch           Step = "switch"             // run the system's own switch, or stage it for the next boot
	AwaitReboot      Step = "await-reboot"       // wait until the policy allows it, then reboot
	HandOver         Step = "hand-over"          // to the new system's own agent
	Confirm          Step = "confirm"            // something that answered before the switch answers again
	Disarm           Step = "disarm"             // the watchdog
	Verify           Step = "verify"             // the new system's checks
	RollbackProfile  Step = "rollback-profile"   // set the profile to the previous system
	RollbackSwitch   Step = "rollback-switch"    // run the previous system's own switch
	RollbackReboot   Step = "rollback-reboot"    // into the previous system, if the new one was booted
	RollbackHandOver Step = "rollback-hand-over" // to the previous system's own agent
	Report           Step = "report"             // queue the outcome, clean up
)

// Steps lists all of them.
var Steps = [...]Step{Idle, Judge, Fetch, Prepare, Arm, Profile, Switch, AwaitReboot, HandOver, Confirm, Disarm, Verify, RollbackProfile, RollbackSwitch, RollbackReboot, RollbackHandOver, Report}

// State is the step in the words of the fleet.
func (s Step) State() fleet.AgentState {
	switch s {
	case Judge:
		return fleet.AgentChecking
	case Fetch:
		return fleet.AgentFetching
	case Prepare, Arm, Profile, Switch, AwaitReboot:
		return fleet.AgentApplying
	case HandOver, Confirm, Disarm, Verify:
		return fleet.AgentVerifying
	case RollbackProfile, RollbackSwitch, RollbackReboot, RollbackHandOver:
		return fleet.AgentRollingBack
	case Report:
		return fleet.AgentReporting
	case Idle:
	}
	return fleet.AgentIdle
}

// Phase is what the control plane is told when an attempt reaches s; "" if it is
// told nothing.
func (s Step) Phase() fleet.AssignmentState {
	switch s {
	case Fetch:
		return fleet.AssignFetching
	case Prepare, Arm, Profile, Switch:
		return fleet.AssignApplying
	case AwaitReboot:
		return fleet.AssignAwaitingReboot
	case HandOver, Confirm, Disarm, Verify:
		return fleet.AssignVerifying
	case RollbackProfile, RollbackSwitch, RollbackReboot, RollbackHandOver:
		return fleet.AssignRollingBack
	case Idle, Judge, Report:
	}
	return ""
}

// Moment is a time by the wall clock, and in seconds since the boot that BootID
// names. Deadlines are in seconds since boot; a reboot sets new ones.
type Moment struct {
	WallMs int64   `json:"wallMs"`
	Boot   float64 `json:"boot"`
	BootID string  `json:"bootId"`
}

// since is the time from m to now in seconds.
func (m Moment) since(now Moment) float64 {
	if m.BootID == now.BootID {
		return now.Boot - m.Boot
	}
	return max(float64(now.WallMs-m.WallMs)/1000, now.Boot)
}

// OrderKind says what an order asks for.
type OrderKind string

// The kinds of order.
const (
	Apply  OrderKind = "apply"
	Revert OrderKind = "revert"
)

// Order is an order of the control plane, and which of the two it is.
type Order struct {
	Kind OrderKind `json:"kind"`
	fleet.Order
}

// Key tells orders apart: each is carried out once (H03).
func (o Order) Key() string {
	return fmt.Sprintf("%s %s/%d %s", o.Kind, o.Rollout, o.Attempt, o.Digest)
}

// System is a system of this machine, and the release that brought it; the
// digest is empty for one that no release brought.
type System struct {
	Path     fleet.StorePath `json:"path"`
	Digest   fleet.Digest    `json:"digest,omitempty"`
	Line     fleet.Line      `json:"line,omitempty"`
	Sequence fleet.Sequence  `json:"sequence,omitempty"`
	Name     string          `json:"name,omitempty"`
}

func (s System) mark() *trust.Mark {
	if s.Digest == "" {
		return nil
	}
	return &trust.Mark{Line: s.Line, Sequence: s.Sequence, Digest: s.Digest}
}

// Action is what a system's switch program is asked to do.
type Action string

// The actions.
const (
	ActionSwitch Action = "switch" // now and at the next boot
	ActionBoot   Action = "boot"   // at the next boot only
)

// Work is an attempt under way.
type Work struct {
	Order    Order          `json:"order"`
	Began    Moment         `json:"began"`
	Accepted trust.Accepted `json:"accepted"`
	Target   System         `json:"target"`
	Previous System         `json:"previous"` // what ran when the work began: where a rollback leads (H06)
	Tries    int            `json:"tries,omitempty"`
	BootID   string         `json:"bootId,omitempty"` // of the boot in which it was prepared, or seen last

	Replaced     []string `json:"replaced,omitempty"`  // paths that were not as signed when they were fetched, with their hashes
	Converged    bool     `json:"converged,omitempty"` // the target ran already: nothing is switched (H13)
	FailedBefore []string `json:"failedBefore,omitempty"`
	Baseline     []string `json:"baseline,omitempty"`  // what answered before the switch
	Reboot       bool     `json:"reboot,omitempty"`    // the target needs one
	MayReboot    bool     `json:"mayReboot,omitempty"` // by the machine's policy
	Rebooted     bool     `json:"rebooted,omitempty"`  // the target was booted

	Action        Action  `json:"action,omitempty"`
	Confirm       float64 `json:"confirm,omitempty"`      // seconds in which the network has to answer
	Unit          string  `json:"unit,omitempty"`         // of the switch under way
	SwitchUntil   float64 `json:"switchUntil,omitempty"`  // seconds since boot
	WatchUntil    float64 `json:"watchUntil,omitempty"`   // when the watchdog acts
	ConfirmUntil  float64 `json:"confirmUntil,omitempty"` // when the agent itself rolls back
	VerifyFrom    float64 `json:"verifyFrom,omitempty"`   // start periods count from here
	RollbackTries int     `json:"rollbackTries,omitempty"`
	ProfileOnly   bool    `json:"profileOnly,omitempty"` // nothing was switched yet: a rollback only sets the profile
	RevertKey     string  `json:"revertKey,omitempty"`   // of the order that ended the attempt

	Outcome   fleet.Outcome             `json:"outcome,omitempty"`
	Reason    fleet.Reason              `json:"reason,omitempty"`
	Message   string                    `json:"message,omitempty"`
	Checks    []fleet.HealthCheckResult `json:"checks,omitempty"`
	Failed    []string                  `json:"failed,omitempty"` // units failed now that were not before
	Confirmed string                    `json:"confirmed,omitempty"`
}

// Bounds of what a journal remembers.
const (
	maxDone   = 64
	maxFailed = 16
)

// Format is the version of the journal's form. Upgrade reads older ones.
const Format = 2

// Journal is all that an agent knows after a restart.
type Journal struct {
	Format   int                   `json:"format"`
	Step     Step                  `json:"step"`
	Work     *Work                 `json:"work,omitempty"`
	Waiting  string                `json:"waiting,omitempty"`  // why an idle agent waits
	Current  *System               `json:"current,omitempty"`  // went live here last
	LastGood *System               `json:"lastGood,omitempty"` // ran before Current
	Staged   *System               `json:"staged,omitempty"`   // runs after the next reboot
	Done     []string              `json:"done,omitempty"`     // keys of orders carried out, oldest first
	Failed   []fleet.StorePath     `json:"failed,omitempty"`   // systems that failed here
	Drift    fleet.StorePath       `json:"drift,omitempty"`    // reported already
	Serial   uint64                `json:"serial"`             // of switches and reports: their names never repeat
	Trust    trust.State           `json:"trust"`
	Learned  fleet.DocumentDigests `json:"documents"` // of what Trust was learned from
}

// Phase is that of the journal's step. While a revert order is carried out it is
// reverting.
func (j Journal) Phase() fleet.AssignmentState {
	if p := j.Step.Phase(); p != fleet.AssignRollingBack || j.Work == nil || j.Work.RevertKey == "" {
		return p
	}
	return fleet.AssignReverting
}

// Upgrade turns a journal of an older format into one of this format.
func (j Journal) Upgrade() Journal {
	if j.Format >= Format {
		return j
	}
	// Format 1 had other step names for a rollback, and one outcome for
	// rollbacks and reverts.
	if rest, ok := strings.CutPrefix(string(j.Step), "back-"); ok {
		j.Step = Step("rollback-" + rest)
	}
	if w := j.Work; w != nil && w.RevertKey == "" {
		switch w.Outcome {
		case fleet.OutcomeReverted:
			w.Outcome = fleet.OutcomeRolledBack
		case fleet.OutcomeRevertFailed:
			w.Outcome = fleet.OutcomeRollbackFailed
		default:
		}
	}
	j.Format = Format
	return j
}

// New is the journal of an agent that knows nothing.
func New() Journal { return Journal{Format: Format, Step: Idle} }

// Did reports whether an order was carried out.
func (j Journal) Did(o Order) bool { return slices.Contains(j.Done, o.Key()) }

// RunsRelease is the digest of the release whose system runs, or "".
func (j Journal) RunsRelease(running fleet.StorePath) fleet.Digest {
	for _, s := range []*System{j.Current, j.Staged, j.LastGood} {
		if s != nil && s.Path == running {
			return s.Digest
		}
	}
	return ""
}

// Drifted reports whether the machine runs something that the agent did not
// activate. While an attempt is under way nothing is drift.
func (j Journal) Drifted(running fleet.StorePath) bool {
	return j.Step == Idle && j.Current != nil && running != "" && running != j.Current.Path && (j.Staged == nil || running != j.Staged.Path)
}

// TimestampLife is how much of the timestamp's life is over at now (Unix ms),
// in percent; 0 without one.
func (j Journal) TimestampLife(now int64) int {
	if j.Trust.Timestamp == nil {
		return 0
	}
	t := j.Trust.Timestamp
	return trust.LifeUsed(t.SignedAt, t.Expires, max(now, j.Trust.HighestSignedTime))
}
