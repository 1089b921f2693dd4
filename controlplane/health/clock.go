// SPDX-License-Identifier: AGPL-3.0-only

package health

import (
	"context"
	"fmt"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// clockShown is for how long the doctor shows that the wall clock moved.
const clockShown = 7 * 24 * time.Hour

// clockFindings says whether the wall clock moved lately (H20).
func (i *Inspector) clockFindings(ctx context.Context) ([]Finding, error) {
	e, ok, err := i.loop.Store.LastAudit(ctx, fleet.ActionControlPlaneClock)
	if err != nil || !ok || i.loop.Clock.Now().Sub(time.UnixMilli(e.At)) > clockShown {
		return nil, err
	}
	return []Finding{{
		"warning", "clock", fmt.Sprintf("the wall clock moved by %s, from %s to %s: %s; no deadline moved with it", e.Detail["by"], e.Detail["from"], e.Detail["to"], e.Detail["why"]),
		"compare with a good clock, and let one time service set it; certificates, documents and schedules go by it",
	}}, nil
}
