// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"slices"
	"strconv"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// drain applies the reports that wait, then looks at the rollouts that this
// made due. With more reports than fit it asks for another pass.
func (l *Loop) drain(ctx context.Context) error {
	full := false
	back := l.reconnected.take()
	err := l.pass(ctx, func(ctx context.Context, p *Pass) error {
		waiting, err := p.Tx.WaitingReports(ctx, drainLimit)
		if err != nil {
			return err
		}
		full = len(waiting) == drainLimit
		for _, w := range waiting {
			p.apply(w)
		}
		for _, id := range back {
			p.changed(id)
		}
		if full {
			return nil
		}
		if err := p.endFreeze(ctx); err != nil {
			return err
		}
		p.tickDue()
		return nil
	})
	if err == nil && full {
		l.Wake()
	}
	return err
}

// apply gives a report its effect, once.
func (p *Pass) apply(in store.Inbox) {
	r := in.Report
	p.applied = append(p.applied, in.Seq)
	s, ok := p.loop.active[r.Rollout]
	// What progress changes in a rollout is announced by itself.
	if !ok || r.Kind != fleet.ReportProgress {
		p.events = append(p.events, api.Event{At: p.Now, Report: &r})
	}
	if ok {
		p.step(s, rollout.Event{ID: string(r.Machine) + "/" + r.ID, Report: &r})
	}
}

// told names an order whose outcome is in the audit trail.
type told struct {
	rollout fleet.RolloutID
	machine fleet.MachineID
	attempt int
}

// auditOutcome notes how a machine's attempt ended, if that is what its report
// says: where the engine takes it so, and once for an order that the engine has
// ended before, by a deadline for example. Outcomes of orders that were not
// given, refusals and drift are kept as reports: a machine can make them up
// without end, and the audit trail is for ever.
func (p *Pass) auditOutcome(r fleet.Report, was fleet.Assignment, res rollout.Result) {
	given := was.EverOffered && r.Attempt == was.Attempt && r.Digest == was.Digest
	o := told{r.Rollout, r.Machine, r.Attempt}
	first := was.Outcome == "" && !p.told[o] && !p.loop.told[o]
	ends := slices.ContainsFunc(res.Assignments, func(a fleet.Assignment) bool {
		ended := a.State.Final() || a.State == fleet.AssignHealthy
		return a.Machine == r.Machine && ended && (a.State != was.State || a.Outcome != was.Outcome)
	})
	if r.Kind != fleet.ReportOutcome || !given || !first && !ends {
		return
	}
	p.told[o] = true
	detail := map[string]string{"report": r.ID, "bootId": r.BootID, "attempt": strconv.Itoa(r.Attempt)}
	for k, v := range map[string]string{
		"outcome": string(r.Outcome), "reason": string(r.Reason), "message": r.Message, "rollout": string(r.Rollout),
		"digest": string(r.Digest), "running": string(r.Running),
	} {
		if v != "" {
			detail[k] = v
		}
	}
	p.note("machine:"+string(r.Machine), fleet.ActionReportOutcome, "machine:"+string(r.Machine), detail)
}
