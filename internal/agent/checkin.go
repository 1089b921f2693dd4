// SPDX-License-Identifier: MIT

package agent

import (
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// checkIn says how the machine is now.
func (w *world) checkIn(wait time.Duration) api.CheckIn {
	j, g, now := w.snapshot.get(), w.Generations(), w.Now()
	c := api.CheckIn{
		Machine: w.cfg.MachineID, AgentVersion: w.version, System: w.trustState(j).System, Line: w.cfg.Line, BootID: now.BootID,
		State: j.Step.State(), Waiting: fleet.CleanText(j.Waiting, 500), Tags: w.cfg.Tags, Drift: j.Drifted(g.Running), RunsRelease: j.RunsRelease(g.Running),
		Documents: fleet.DocumentDigests{Root: j.Learned.Root, Revocations: j.Learned.Revocations, Timestamp: j.Learned.Timestamp},
		WaitMs:    wait.Milliseconds(), Generations: g,
	}
	if r := w.checks.Load(); r != nil {
		c.Checks = *r
	}
	if v, any := w.orders.get(); any {
		c.Epoch = v.Epoch
		if wait > 0 {
			c.Have = v.Etag
		}
	}
	return c
}
