// SPDX-License-Identifier: MIT

package fleet

import "slices"

// Lifecycle is where a machine is in its life, as its operators see it.
type Lifecycle string

// The stages of a machine's life.
const (
	Pending        Lifecycle = "pending"        // known by name only, or waiting to be adopted
	Provisioning   Lifecycle = "provisioning"   // a token is out or it is being installed
	Active         Lifecycle = "active"         // takes part in rollouts
	Maintenance    Lifecycle = "maintenance"    // left alone for a while
	Decommissioned Lifecycle = "decommissioned" // gone; its certificate is refused
)

// Valid reports whether l is one of the stages.
func (l Lifecycle) Valid() bool {
	switch l {
	case Pending, Provisioning, Active, Maintenance, Decommissioned:
		return true
	}
	return false
}

// lifecycleMoves are the moves an operator may make.
var lifecycleMoves = map[Lifecycle][]Lifecycle{
	Pending:        {Provisioning, Active, Decommissioned},
	Provisioning:   {Active, Pending, Decommissioned},
	Active:         {Maintenance, Decommissioned},
	Maintenance:    {Active, Decommissioned},
	Decommissioned: {Pending},
}

// CheckMove returns nil if a machine may go from l to next; else an error
// whose code is Conflict and whose hint lists the moves there are.
func (l Lifecycle) CheckMove(next Lifecycle) error {
	if !next.Valid() {
		return Errorf(Invalid, "%q is not a lifecycle", clip(string(next), 40)).
			WithHint("one of pending, provisioning, active, maintenance, decommissioned")
	}
	if l == next || slices.Contains(lifecycleMoves[l], next) {
		return nil
	}
	return Errorf(Conflict, "a machine that is %s cannot become %s", l, next).WithHint("from %s it can become %v", l, lifecycleMoves[l])
}

// AgentState is what a machine's agent is doing.
type AgentState string

// The seven states of an agent.
const (
	AgentIdle        AgentState = "idle"         // nothing to do, or waits and says why
	AgentChecking    AgentState = "checking"     // judges a release by the trust rules
	AgentFetching    AgentState = "fetching"     // copies a closure from a cache and verifies it
	AgentApplying    AgentState = "applying"     // switches to a system; the watchdog is armed
	AgentVerifying   AgentState = "verifying"    // runs the checks and confirms that it reaches the network
	AgentRollingBack AgentState = "rolling-back" // activates the previous system
	AgentReporting   AgentState = "reporting"    // an attempt has ended; its report is being queued
)

// Valid reports whether s is one of the seven states.
func (s AgentState) Valid() bool {
	switch s {
	case AgentIdle, AgentChecking, AgentFetching, AgentApplying, AgentVerifying, AgentRollingBack, AgentReporting:
		return true
	}
	return false
}

// Generations are the systems a machine has: what runs, what it booted, and
// what it would boot. A path is empty when the machine did not say.
type Generations struct {
	Running     StorePath `json:"running,omitempty"`
	Booted      StorePath `json:"booted,omitempty"`
	BootDefault StorePath `json:"bootDefault,omitempty"`
}

func (g *Generations) clean(left *[]string) {
	keepValid(&g.Running, "running", left)
	keepValid(&g.Booted, "booted", left)
	keepValid(&g.BootDefault, "bootDefault", left)
}

// CleanStatus cuts what a machine says of itself to its limits, and leaves out
// what is not valid, with a mark in Waiting. A state that this version does not
// know stays.
func (m *Machine) CleanStatus() {
	var left []string
	keepValid(&m.System, "system", &left)
	keepValid(&m.Line, "line", &left)
	keepValid(&m.RunsRelease, "runsRelease", &left)
	m.Generations.clean(&left)
	tags := slices.DeleteFunc(slices.Clone(m.ClaimedTags), func(t Tag) bool { return !t.Valid() })
	if len(tags) != len(m.ClaimedTags) {
		left = append(left, "tags")
	}
	m.ClaimedTags = sortedTags(tags[:min(len(tags), MaxTags)])
	m.State = CleanWord(m.State)
	m.BootID, m.AgentVersion = CleanLine(m.BootID, MaxBootID), CleanLine(m.AgentVersion, 64)
	if m.Inventory != nil {
		v := *m.Inventory
		v.clean(&left)
		m.Inventory = &v
	}
	m.Waiting = noteLeftOut(CleanText(m.Waiting, MaxWaiting), left, MaxWaiting)
	m.Checks = CleanResults(m.Checks)
}

// MaxWaiting bounds Machine.Waiting, in bytes.
const MaxWaiting = 1000

// Machine is what the control plane knows of a machine. Times are Unix
// milliseconds, 0 for never.
type Machine struct {
	ID        MachineID `json:"id"`
	Lifecycle Lifecycle `json:"lifecycle"`
	System    System    `json:"system,omitempty"`
	Line      Line      `json:"line,omitempty"`
	Tags      Tags      `json:"tags"`
	// ClaimedTags are those that the machine says it has. They are shown, and
	// count for nothing.
	ClaimedTags []Tag `json:"claimedTags,omitempty"`

	Generations
	Desired     *Desired            `json:"desired,omitempty"` // nil: hold
	Behind      *Behind             `json:"behind,omitempty"`  // nil: it has nothing to catch up with
	RunsRelease Digest              `json:"runsRelease,omitempty"`
	BootID      string              `json:"bootId,omitempty"`
	State       AgentState          `json:"state,omitempty"`
	Waiting     string              `json:"waiting,omitempty"` // why the agent waits
	Health      Health              `json:"health,omitempty"`  // pending, not healthy, while it is offline
	Checks      []HealthCheckResult `json:"checks"`
	Drift       bool                `json:"drift"`       // runs something else than the agent activated
	NeedsReboot bool                `json:"needsReboot"` // its boot default runs whole only after a reboot
	// Offline: it is not there. It is while its check-in is held and for 20 seconds
	// after; one that holds none, until 2.5 of the intervals that it announces have
	// passed. Of an offline machine it is not known whether it is healthy still.
	Offline bool `json:"offline"`

	AgentVersion string     `json:"agentVersion,omitempty"`
	Inventory    *Inventory `json:"inventory,omitempty"` // nil: the machine never said
	Key          Digest     `json:"key,omitempty"`       // of its public key; a certificate of the control plane's CA counts only with it
	// EvidenceKey is that with which the machine signs evidence. Enrolment sets it.
	EvidenceKey EvidenceKey `json:"evidenceKey,omitempty"`
	// Formerly is the name that the machine had before. What happened under it stays
	// there.
	Formerly    MachineID `json:"formerly,omitempty"`
	CreatedAt   int64     `json:"createdAt"`
	EnrolledAt  int64     `json:"enrolledAt"`
	LastContact int64     `json:"lastContact"`
	Version     int64     `json:"version"` // of the row, for compare-and-swap
}

// Tags are a machine's labels by where they come from; Effective is the union,
// sorted.
type Tags struct {
	Signed    []Tag `json:"signed"`   // of its signed entry in the release in which it was last healthy
	Operator  []Tag `json:"operator"` // set by operators
	Effective []Tag `json:"effective"`
}

// NewTags makes the union of the two lists.
func NewTags(signed, operator []Tag) Tags {
	return Tags{Signed: sortedTags(signed), Operator: sortedTags(operator), Effective: sortedTags(append(slices.Clone(signed), operator...))}
}

// sortedTags returns the tags, each once; never nil.
func sortedTags(tags []Tag) []Tag {
	tags = slices.Clone(tags)
	slices.Sort(tags)
	if tags = slices.Compact(tags); tags == nil {
		return []Tag{}
	}
	return tags
}

// ValidateTags reports the first bad tag of a sorted list; the code is Invalid.
func ValidateTags(tags []Tag) error { return validTags("tags", tags) }

// Desired is the release that a machine should run, and where that comes from.
type Desired struct {
	Digest    Digest    `json:"digest"`
	StorePath StorePath `json:"storePath"`
	Rollout   RolloutID `json:"rollout"`
}
