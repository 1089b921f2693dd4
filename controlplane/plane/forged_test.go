// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// applied waits until the engine has seen every report.
func (w *world) applied() {
	w.tb.Helper()
	for range 1000 {
		if waiting := must[[]store.Inbox](w.tb)(w.store.WaitingReports(w.tb.Context(), 1)); len(waiting) == 0 {
			return
		}
		rest(100 * time.Millisecond)
	}
	w.tb.Fatal("reports wait for ever")
}

// reports counts the reports of a machine that are kept.
func (w *world) reports(id fleet.MachineID) (n int) {
	w.tb.Helper()
	page := fleet.PageRequest{Limit: fleet.MaxLimit}
	for {
		p := must[api.Page[fleet.Report]](w.tb)(w.plane().MachineReports(w.tb.Context(), alice, id, page))
		n += len(p.Items)
		if page.Cursor = p.Next; p.Next == "" {
			return n
		}
	}
}

// The audit trail holds the outcomes of orders that were given, each once:
// what a machine makes up it keeps as reports only.
func TestSubmitReports_ForgedOnesLeaveNoAudit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01")
		digest := w.register("web-01")
		in := quiet(w, "web-01").checkIn()
		in.WaitMs = 0
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in))
		id := w.rollOut(digest, allAtOnce)
		if o := must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in)); o.Apply == nil || o.Apply.Attempt != 1 {
			t.Fatalf("the orders are %+v", o)
		}
		before := must[fleet.AuditHead](t)(w.plane().History.AuditHead(t.Context()))
		send := func(n int, forge func(i int, r *fleet.Report)) {
			t.Helper()
			for from := 0; from < n; from += plane.MaxReports {
				var batch []fleet.Report
				for i := from; i < min(n, from+plane.MaxReports); i++ {
					r := fleet.Report{ID: rand.Text(), Machine: "web-01", Kind: fleet.ReportRefusal, Reason: fleet.ReasonBadSignature}
					forge(i, &r)
					batch = append(batch, r)
				}
				if reply := must[api.ReportsReply](t)(w.plane().SubmitReports(t.Context(), "web-01", batch)); len(reply.Accepted) != len(batch) {
					t.Fatalf("accepted %d of %d: %v", len(reply.Accepted), len(batch), reply.Reasons)
				}
			}
			w.applied()
		}
		outcome := func(r *fleet.Report) {
			r.Kind, r.Outcome, r.Rollout, r.Attempt, r.Digest = fleet.ReportOutcome, fleet.OutcomeRefused, id, 1, digest
		}
		send(10_000, func(int, *fleet.Report) {})
		send(500, func(i int, r *fleet.Report) {
			switch outcome(r); i % 4 {
			case 0:
				r.Kind, r.Outcome = fleet.ReportDrift, ""
			case 1:
				r.Attempt = 2
			case 2:
				r.Digest = fleet.SHA256(nil)
			case 3:
				r.Rollout = "01J00000000000000000000000"
			}
		})
		if after := must[fleet.AuditHead](t)(w.plane().History.AuditHead(t.Context())); after != before {
			t.Errorf("forged reports made %d audit entries", after.Size-before.Size)
		}
		if kept := w.reports("web-01"); kept != 2000 {
			t.Errorf("%d reports are kept, want the newest 2000", kept)
		}
		// The order that was given has one end, however often it is told.
		send(500, func(_ int, r *fleet.Report) { outcome(r) })
		outcomes := must[api.Page[fleet.AuditEntry]](t)(w.plane().History.Audit(t.Context(), fleet.AuditFilter{Action: fleet.ActionReportOutcome}, fleet.PageRequest{}))
		if len(outcomes.Items) != 1 {
			t.Errorf("%d outcomes in the audit trail, want 1", len(outcomes.Items))
		}
	})
}

// The audit trail also holds, once, how an attempt ended whose time was over.
func TestSubmitReports_LateOutcomesAreAuditedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01")
		digest := w.register("web-01")
		in := quiet(w, "web-01").checkIn()
		in.WaitMs = 0
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in))
		id := w.rollOut(digest, allAtOnce)
		w.until(id, fleet.RolloutPaused) // at the machine's deadline
		for range 3 {
			var batch []fleet.Report
			for range 100 {
				batch = append(batch, fleet.Report{
					ID: rand.Text(), Machine: "web-01", Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeRolledBack, Reason: fleet.ReasonWatchdog,
					Rollout: id, Attempt: 1, Digest: digest,
				})
			}
			must[api.ReportsReply](t)(w.plane().SubmitReports(t.Context(), "web-01", batch))
			w.applied()
		}
		outcomes := must[api.Page[fleet.AuditEntry]](t)(w.plane().History.Audit(t.Context(), fleet.AuditFilter{Action: fleet.ActionReportOutcome}, fleet.PageRequest{}))
		if len(outcomes.Items) != 1 {
			t.Errorf("%d outcomes in the audit trail, want 1", len(outcomes.Items))
		}
	})
}
