// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
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
			if err := p.apply(ctx, w); err != nil {
				return err
			}
		}
		for _, id := range back {
			if err := p.changed(ctx, id); err != nil {
				return err
			}
		}
		if full {
			return nil
		}
		return p.tickDue(ctx)
	})
	if err == nil && full {
		l.Wake()
	}
	return err
}

// apply gives a report its effect, once.
func (p *Pass) apply(ctx context.Context, in store.Inbox) error {
	r := in.Report
	if err := p.Tx.MarkApplied(ctx, in.Seq); err != nil {
		return err
	}
	p.events = append(p.events, api.Event{At: p.Now, Report: &r})
	if err := p.auditReport(ctx, r); err != nil {
		return err
	}
	s, ok := p.loop.active[r.Rollout]
	if !ok {
		return nil
	}
	return p.Step(ctx, s, rollout.Event{ID: string(r.Machine) + "/" + r.ID, Report: &r})
}

func (p *Pass) auditReport(ctx context.Context, r fleet.Report) error {
	var action string
	switch r.Kind {
	case fleet.ReportProgress:
		return nil
	case fleet.ReportOutcome:
		action = fleet.ActionReportOutcome
	case fleet.ReportRefusal:
		action = fleet.ActionReportRefusal
	case fleet.ReportDrift:
		action = fleet.ActionReportDrift
	}
	detail := map[string]string{"report": r.ID, "bootId": r.BootID}
	for k, v := range map[string]string{
		"outcome": string(r.Outcome), "reason": string(r.Reason), "message": r.Message, "rollout": string(r.Rollout),
		"digest": string(r.Digest), "running": string(r.Running),
	} {
		if v != "" {
			detail[k] = v
		}
	}
	if r.Attempt > 0 {
		detail["attempt"] = strconv.Itoa(r.Attempt)
	}
	return p.Audit(ctx, "machine:"+string(r.Machine), action, "machine:"+string(r.Machine), detail)
}
