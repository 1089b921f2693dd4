// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// drifts are n reports of a machine, from a number on.
func drifts(id fleet.MachineID, from, n int) (reports []fleet.Report) {
	for i := range n {
		reports = append(reports, fleet.Report{ID: fmt.Sprint("d", from+i), Machine: id, Kind: fleet.ReportDrift})
	}
	return reports
}

// A check-in that carries reports is answered at once, and each of them by itself: it
// is stored, or rejected with a reason, or it was one too many and is not named. One of
// another machine is refused with all that came along (E07).
func TestCheckIn_CarriesReports(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.enrolled(admin, "web-01")
	ci := checkIn("web-01")
	ci.Have = must[api.Orders](t)(m.CheckIn(t.Context(), ci)).Etag
	ci.WaitMs = 300_000
	ci.Reports = append([]fleet.Report{{ID: "bad", Machine: "web-01", Kind: fleet.ReportOutcome}}, drifts("web-01", 0, api.MaxRiding+5)...)
	o := must[api.Orders](t)(m.CheckIn(t.Context(), ci))
	if o.Etag != ci.Have || o.Reports == nil || len(o.Reports.Accepted) != api.MaxRiding-1 || !cmp.Equal(o.Reports.Rejected, []string{"bad"}) || o.Reports.Reasons["bad"] == "" {
		t.Fatalf("orders %q instead of %q, acknowledged %+v", o.Etag, ci.Have, o.Reports)
	}
	again := must[api.Orders](t)(m.CheckIn(t.Context(), ci)) // the reply was lost
	if d := cmp.Diff(o.Reports, again.Reports); d != "" {
		t.Errorf("the same again is answered otherwise -was +is:\n%s", d)
	}
	stored := must[api.Page[fleet.Report]](t)(admin.MachineReports(t.Context(), "web-01", fleet.PageRequest{}))
	if len(stored.Items) != api.MaxRiding-1 || stored.Items[0].ID != fmt.Sprint("d", api.MaxRiding-2) {
		t.Errorf("%d reports are stored, the last %+v", len(stored.Items), stored.Items)
	}
	ci.State, ci.Reports = fleet.AgentVerifying, append(drifts("web-01", 100, 1), drifts("web-02", 0, 1)...)
	_, err := m.CheckIn(t.Context(), ci)
	wantCode(t, "a report of another machine", err, fleet.Forbidden)
	if v := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); v.State == fleet.AgentVerifying {
		t.Error("the check-in counts that carried it")
	}
}

// A machine over its budget for reports is told so where it sends them by themselves.
// Its check-ins are answered, and carry none.
func TestCheckIn_OverTheBudgetForReportsIsAnswered(t *testing.T) {
	w := newWorld(t)
	m := w.enrolled(w.admin(), "web-01")
	for i := range 2 {
		must[api.ReportsReply](t)(m.Reports(t.Context(), drifts("web-01", 500*i, 500)))
	}
	ci := checkIn("web-01")
	ci.Reports = drifts("web-01", 1000, 10)
	if o := must[api.Orders](t)(m.CheckIn(t.Context(), ci)); o.Reports != nil || o.Etag == "" {
		t.Errorf("acknowledged %+v", o.Reports)
	}
	w.advance(time.Minute)
	if o := must[api.Orders](t)(m.CheckIn(t.Context(), ci)); o.Reports == nil || len(o.Reports.Accepted) != 10 {
		t.Errorf("a minute later acknowledged %+v, want all", o.Reports)
	}
}
