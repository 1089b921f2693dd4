// SPDX-License-Identifier: MIT

package fleet

import (
	"fmt"
	"strconv"
	"strings"
)

// RolloutID names a rollout: a ULID, or a short name in examples.
type RolloutID string

// Valid reports whether id has 1 to 64 letters, digits or '-'.
func (id RolloutID) Valid() bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	return !strings.ContainsFunc(string(id), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
}

// Strategy is one of three ways to fill the same list of batches.
type Strategy string

// The strategies.
const (
	Canary    Strategy = "canary"      // one machine, or the pinned ones, then the rest
	Staged    Strategy = "staged"      // the batches that the spec lists
	AllAtOnce Strategy = "all-at-once" // one batch
)

// Valid reports whether s is one of the strategies.
func (s Strategy) Valid() bool {
	switch s {
	case Canary, Staged, AllAtOnce:
		return true
	}
	return false
}

// Amount is a count ("3") or a percentage ("25%") of machines, as JSON a
// string.
type Amount struct {
	N       int
	Percent bool
}

// ParseAmount reads "3" or "25%". The error's code is Invalid.
func ParseAmount(s string) (Amount, error) {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || percent && n > 100 || n > MaxEntries || digits != strconv.Itoa(n) {
		return Amount{}, Errorf(Invalid, "%q is not an amount of machines", clip(s, 40)).WithHint(`a count such as "3", or a percentage such as "25%%"`)
	}
	return Amount{N: n, Percent: percent}, nil
}

// String is the inverse of ParseAmount.
func (a Amount) String() string {
	if a.Percent {
		return strconv.Itoa(a.N) + "%"
	}
	return strconv.Itoa(a.N)
}

// MarshalText writes a as ParseAmount reads it.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAmount.
func (a *Amount) UnmarshalText(b []byte) error {
	v, err := ParseAmount(string(b))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

// Of returns how many of n machines a is; a percentage is rounded up.
func (a Amount) Of(n int) int {
	if a.Percent {
		return (n*a.N + 99) / 100
	}
	return a.N
}

// Tolerates returns how many failures among n machines a tolerates; a
// percentage is rounded down.
func (a Amount) Tolerates(n int) int {
	if a.Percent {
		return n * a.N / 100
	}
	return a.N
}

// OnFailure is what a rollout does when failures exceed what is tolerated.
type OnFailure string

// What a rollout does on failure.
const (
	Pause       OnFailure = "pause"        // offer nothing more, wait for an operator
	RevertBatch OnFailure = "revert-batch" // revert the failing batch, then pause
	RevertAll   OnFailure = "revert-all"   // revert all switched machines; the rollout has failed
)

// Valid reports whether f is one of the three.
func (f OnFailure) Valid() bool {
	switch f {
	case Pause, RevertBatch, RevertAll:
		return true
	}
	return false
}

// RolloutSpec is what an operator asks for. It is validated at creation and
// frozen. Durations are in milliseconds.
//
// Shares are those of the frozen plan. A percentage in Batches is of all machines
// of the plan, one in MaxFailures of all machines of the batch. A machine that
// leaves, or is skipped, keeps its place: it counts in the size of its batch and
// of the rollout, no other machine moves up, and as many failures are tolerated
// as before. A batch that is left without a healthy machine waits for an approval.
type RolloutSpec struct {
	Name     string   `json:"name,omitempty"`
	Release  Digest   `json:"release"`
	Select   []string `json:"select"` // selector terms: web-01, web-*, @tag, !not; empty: every machine of the release
	Strategy Strategy `json:"strategy"`
	Batches  []Amount `json:"batches,omitempty"` // staged; cumulative percentages, see Amount
	Canaries []string `json:"canaries,omitempty"`

	MaxFailures      Amount        `json:"maxFailures"`      // tolerated in a batch
	MaxFailuresTotal *Amount       `json:"maxFailuresTotal"` // tolerated in all; nil: no limit of its own
	OnFailure        OnFailure     `json:"onFailure"`
	MaxParallel      int           `json:"maxParallel,omitempty"` // machines at work at once; 0: the whole batch
	Offline          OfflinePolicy `json:"offline"`
	OfflineAfterMs   int64         `json:"offlineAfterMs"`           // how long a machine may be offline before Offline applies
	Approve          bool          `json:"approve,omitempty"`        // each batch, the first too, waits for an approval before it opens
	ApproveByOther   bool          `json:"approveByOther,omitempty"` // by another owner than the rollout's author; implies Approve

	MinHealthyMs       int64 `json:"minHealthyMs"`       // how long the required checks have to pass
	HealthyDeadlineMs  int64 `json:"healthyDeadlineMs"`  // from offered to healthy
	ProgressDeadlineMs int64 `json:"progressDeadlineMs"` // reset at each newly healthy machine; 0: none
	SoakMs             int64 `json:"soakMs"`             // wait after a batch before its gate
	StragglerMs        int64 `json:"stragglerMs"`        // soak starts at the latest so long after the batch opened; 0: when all are done

	Supersede bool `json:"supersede,omitempty"` // take machines over from other rollouts
	// CatchUpOf is set by the control plane alone, in a rollout that it makes for
	// machines that have to catch up (Behind): the rollout that they follow.
	CatchUpOf RolloutID `json:"catchUpOf,omitempty"`

	RolloutRules
}

// Defaults fills in what an operator left out and returns the result.
func (s RolloutSpec) Defaults() RolloutSpec {
	if s.Strategy == "" {
		s.Strategy = Canary
	}
	if s.OnFailure == "" {
		s.OnFailure = Pause
	}
	if s.Offline == "" {
		s.Offline = OfflineWait
	}
	if s.Select == nil {
		s.Select = []string{}
	}
	s.Approve = s.Approve || s.ApproveByOther
	s.RolloutRules = s.RolloutRules.defaults()
	for _, d := range []struct {
		field *int64
		value int64
	}{{&s.OfflineAfterMs, 5 * 60e3}, {&s.MinHealthyMs, 10e3}, {&s.HealthyDeadlineMs, 15 * 60e3}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return s
}

// Validate reports the first thing wrong with s; the code is Invalid.
func (s RolloutSpec) Validate() error {
	const day = 24 * 3600 * 1000
	switch {
	case !s.Release.Valid():
		return Errorf(Invalid, "rollout: release %q is not a digest", clip(string(s.Release), 100))
	case !s.Strategy.Valid():
		return Errorf(Invalid, "rollout: strategy %q is not canary, staged or all-at-once", clip(string(s.Strategy), 40))
	case s.Strategy == Staged && len(s.Batches) == 0:
		return Errorf(Invalid, "rollout: strategy staged needs batches").WithHint(`such as "1,25%%,100%%"`)
	case s.Strategy != Staged && len(s.Batches) > 0:
		return Errorf(Invalid, "rollout: batches go with strategy staged only")
	case s.Strategy != Canary && len(s.Canaries) > 0:
		return Errorf(Invalid, "rollout: canaries go with strategy canary only")
	case len(s.Batches) > 1000 || len(s.Select) > 1000 || len(s.Canaries) > 1000 || len(s.Name) > 120:
		return Errorf(Invalid, "rollout: more than 1000 batches, selector terms or canaries, or a name of more than 120 bytes")
	case !s.OnFailure.Valid():
		return Errorf(Invalid, "rollout: onFailure %q is not pause, revert-batch or revert-all", clip(string(s.OnFailure), 40))
	case !s.Offline.Valid():
		return Errorf(Invalid, "rollout: offline %q is not wait, skip or fail", clip(string(s.Offline), 40))
	case s.MaxParallel < 0:
		return Errorf(Invalid, "rollout: maxParallel must not be negative")
	}
	last := 0
	for i, b := range s.Batches {
		if b.N == 0 {
			return Errorf(Invalid, "rollout: batch %d of %q is empty", i+1, b)
		}
		if b.Percent {
			if b.N <= last {
				return Errorf(Invalid, "rollout: batch %d: %s is not above the %d%% before it", i+1, b, last).
					WithHint("percentages are cumulative shares of the machines: 1,25%%,100%%")
			}
			last = b.N
		} else if last == 100 {
			return Errorf(Invalid, "rollout: batch %d comes after 100%%", i+1)
		}
	}
	for _, d := range []struct {
		name     string
		value    int64
		min, max int64
	}{
		{"offlineAfter", s.OfflineAfterMs, 0, 30 * day}, {"minHealthy", s.MinHealthyMs, 1, day},
		{"healthyDeadline", s.HealthyDeadlineMs, 1000, 7 * day}, {"progressDeadline", s.ProgressDeadlineMs, 0, 30 * day},
		{"soak", s.SoakMs, 0, 30 * day}, {"straggler", s.StragglerMs, 0, 30 * day},
	} {
		if d.value < d.min || d.value > d.max {
			return Errorf(Invalid, "rollout: %s of %d ms must be between %d and %d ms", d.name, d.value, d.min, d.max)
		}
	}
	if err := s.RolloutRules.validate(); err != nil {
		return err
	}
	if s.MinHealthyMs >= s.HealthyDeadlineMs {
		return Errorf(Invalid, "rollout: minHealthy (%d ms) must be below healthyDeadline (%d ms), else no machine can be healthy in time", s.MinHealthyMs, s.HealthyDeadlineMs)
	}
	return nil
}

// RolloutState is where a rollout stands.
type RolloutState string

// The states of a rollout; the last four are final.
const (
	RolloutScheduled  RolloutState = "scheduled"  // created; no batch has opened yet
	RolloutRunning    RolloutState = "running"    // batches open and pass
	RolloutPaused     RolloutState = "paused"     // offers nothing more until an operator resumes or ends it; running work ends
	RolloutReverting  RolloutState = "reverting"  // switched machines are reverted
	RolloutCompleted  RolloutState = "completed"  // every batch has passed, with no more failures than are tolerated
	RolloutFailed     RolloutState = "failed"     // its machines were reverted, or none of them became healthy
	RolloutCancelled  RolloutState = "cancelled"  // ended by an operator; each machine stays on what it runs
	RolloutSuperseded RolloutState = "superseded" // a later rollout took its machines over
)

// Valid reports whether s is one of the states.
func (s RolloutState) Valid() bool {
	switch s {
	case RolloutScheduled, RolloutRunning, RolloutPaused, RolloutReverting, RolloutCompleted, RolloutFailed, RolloutCancelled, RolloutSuperseded:
		return true
	}
	return false
}

// Final reports whether a rollout in s has ended.
func (s RolloutState) Final() bool {
	switch s {
	case RolloutCompleted, RolloutFailed, RolloutCancelled, RolloutSuperseded:
		return true
	}
	return false
}

// BatchState is where a batch stands.
type BatchState string

// The states of a batch.
const (
	BatchWaiting   BatchState = "waiting"   // for the batch before it
	BatchOpen      BatchState = "open"      // its machines are offered the release
	BatchSoaking   BatchState = "soaking"   // all are done; it is watched for the soak time
	BatchGated     BatchState = "gated"     // soaked; waits for what must hold before it passes, such as an approval
	BatchPassed    BatchState = "passed"    // the next one may open
	BatchFailed    BatchState = "failed"    // more failures than are tolerated, or the rollout ended first
	BatchReverting BatchState = "reverting" // its switched machines are reverted
)

// Valid reports whether s is one of the states.
func (s BatchState) Valid() bool {
	switch s {
	case BatchWaiting, BatchOpen, BatchSoaking, BatchGated, BatchPassed, BatchFailed, BatchReverting:
		return true
	}
	return false
}

// Rollout is one try to bring selected machines to a release. Times are Unix
// milliseconds of the control plane, 0 for not yet.
//
// What is said of times here holds for Batch and Assignment too. A moment that
// has been is kept as the wall clock had it. A moment that is waited for, such as
// WakeAt, is running time in the store and in the engine, and on the wire the
// wall clock's time at which it is expected: running time counts the milliseconds
// in which the control plane ran, and no setting of a clock moves it. Fields
// whose names end in Run are running time, and are not on the wire.
type Rollout struct {
	ID        RolloutID    `json:"id"`
	Spec      RolloutSpec  `json:"spec"`
	State     RolloutState `json:"state"`
	Why       string       `json:"why,omitempty"` // why it waits, paused or ended
	Batch     int          `json:"batch"`         // index of the batch at work, from 0
	Machines  int          `json:"machines"`
	CreatedAt int64        `json:"createdAt"`
	CreatedBy string       `json:"createdBy"`
	StartedAt int64        `json:"startedAt"`
	EndedAt   int64        `json:"endedAt"`
	// ProgressAt is when a machine last became healthy (progressDeadline).
	ProgressAt  int64 `json:"progressAt"`
	ProgressRun int64 `json:"-"`
	// Acknowledged failures no longer count: resume sets it to those present.
	Acknowledged int `json:"acknowledged"`
	// Approved lets the first batch open, if the spec asks for approvals; those of
	// the others are Batch.Approved of the batch before.
	Approved   bool   `json:"approved"`
	ApprovedBy string `json:"approvedBy,omitempty"`
	WakeAt     int64  `json:"wakeAt"` // when the engine looks again by itself, about; 0: never
	Version    int64  `json:"version"`
}

// Batch is a group of machines that go together.
type Batch struct {
	Rollout    RolloutID  `json:"rollout"`
	Index      int        `json:"index"` // from 0
	State      BatchState `json:"state"`
	Why        string     `json:"why,omitempty"`
	Group      int        `json:"group,omitempty"` // 0 for the first of RolloutRules.After, and so on
	Size       int        `json:"size"`            // of the frozen plan; those that left or were skipped count
	Counts     Counts     `json:"counts"`
	OpenedAt   int64      `json:"openedAt"`
	OpenedRun  int64      `json:"-"`
	SoakUntil  int64      `json:"soakUntil"` // about
	EndedAt    int64      `json:"endedAt"`
	Approved   bool       `json:"approved"`
	ApprovedBy string     `json:"approvedBy,omitempty"`
	// Acknowledged is how many of its failures no longer count.
	Acknowledged int `json:"acknowledged"`
	// AcknowledgedBy is the same by type of failure, for RolloutRules.FailureLimits.
	AcknowledgedBy map[string]int `json:"acknowledgedBy,omitempty"`
	// Gates are those of the spec, from when the batch has soaked.
	Gates []GateStatus `json:"gates,omitempty"`
}

// Counts are a batch's machines by what they are doing; they add up to its
// size.
type Counts struct {
	Pending     int `json:"pending"` // pending or held
	InFlight    int `json:"inFlight"`
	Healthy     int `json:"healthy"`
	Failed      int `json:"failed"`      // failed, refused, rolled-back, reverted, and those that could not
	RollingBack int `json:"rollingBack"` // by themselves or by order
	Skipped     int `json:"skipped"`     // skipped or superseded
}

// Add counts n machines in state s.
func (c *Counts) Add(s AssignmentState, n int) {
	switch {
	case s.InFlight():
		c.InFlight += n
	case s.Failure():
		c.Failed += n
	case s == AssignHealthy:
		c.Healthy += n
	case s.RollingBack():
		c.RollingBack += n
	case s == AssignSkipped || s == AssignSuperseded:
		c.Skipped += n
	default:
		c.Pending += n
	}
}

// Assignment is one machine's part in one rollout.
type Assignment struct {
	Rollout   RolloutID       `json:"rollout"`
	Machine   MachineID       `json:"machine"`
	Batch     int             `json:"batch"`
	State     AssignmentState `json:"state"`
	Why       string          `json:"why,omitempty"` // why it waits
	Attempt   int             `json:"attempt"`       // 0 before it is first offered
	Digest    Digest          `json:"digest"`
	StorePath StorePath       `json:"storePath"`

	// PreviousDigest and PreviousPath are what ran before this rollout first
	// touched the machine; set once (H06).
	PreviousDigest Digest    `json:"previousDigest,omitempty"`
	PreviousPath   StorePath `json:"previousPath,omitempty"`

	Outcome Outcome             `json:"outcome,omitempty"` // of the last attempt
	Reason  Reason              `json:"reason,omitempty"`
	Message string              `json:"message,omitempty"`
	Checks  []HealthCheckResult `json:"checks"`

	OfferedAt  int64 `json:"offeredAt"`
	OfferedRun int64 `json:"-"`
	Deadline   int64 `json:"deadline"` // of the present state, about; 0: none
	HealthyAt  int64 `json:"healthyAt"`
	HealthyRun int64 `json:"-"` // orders a machine's healthy assignments
	EndedAt    int64 `json:"endedAt"`
	// EverOffered is set once the machine may have switched in this rollout.
	EverOffered bool `json:"everOffered"`
}

// String names the assignment in messages.
func (a Assignment) String() string {
	return fmt.Sprintf("%s %s attempt %d", a.Machine, a.State, a.Attempt)
}

// PlanSummary counts what a rollout would change.
type PlanSummary struct {
	Machines  int   `json:"machines"`
	Switch    int   `json:"switch"`    // run another system now
	Converged int   `json:"converged"` // run the target already
	Reboot    int   `json:"reboot"`    // of those that switch, need a reboot
	Bytes     int64 `json:"bytes"`     // closure sizes of the distinct target systems
}
