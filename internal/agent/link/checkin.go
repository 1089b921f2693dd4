// SPDX-License-Identifier: MIT

package link

import (
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// checkIn describes the machine.
func (l *Link) checkIn(wait time.Duration) api.CheckIn {
	j, seen := l.Machine.Journal(), l.Machine.Seen()
	c := api.CheckIn{
		Machine: l.Agent.MachineID, AgentVersion: l.Version, System: l.Machine.System(), Line: l.Agent.Line, BootID: seen.At.BootID,
		State: j.Step.State(), Waiting: l.waiting(j.Waiting), Tags: l.Agent.Tags,
		Drift: j.Drifted(seen.Running), RunsRelease: j.RunsRelease(seen.Running), Checks: l.Machine.Checks(),
		Documents:   fleet.DocumentDigests{Root: j.Learned.Root, Revocations: j.Learned.Revocations, Timestamp: j.Learned.Timestamp},
		EvidenceKey: l.evidence, WaitMs: wait.Milliseconds(), Generations: seen.Generations, NeedsReboot: seen.NeedsReboot,
		PollMs: int64(l.Agent.ControlPlane.PollSeconds * 1000), Inventory: l.inventory(),
	}
	if v, given := l.reply(); given {
		if v.PollAfterMs > 0 {
			c.PollMs = v.PollAfterMs
		}
		c.Epoch = v.Epoch
		if wait > 0 {
			c.Have = v.Etag
		}
	}
	if wait == 0 && l.Agent.ControlPlane.LongPollSeconds > 0 { // the next one follows soon
		c.PollMs = settleTime.Milliseconds()
	}
	return c
}

// news is the part of a check-in whose change is told at once.
type news struct {
	state   fleet.AgentState
	waiting string
	drift   fleet.StorePath
	health  fleet.Health
}

func (l *Link) news() news {
	j := l.Machine.Journal()
	n := news{state: j.Step.State(), waiting: j.Waiting, drift: j.Drift}
	if r := l.Machine.Checks(); r != nil {
		n.health = fleet.HealthOf(r)
	}
	return n
}
