// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
	"github.com/arcanesys/nixfleet/internal/wiretest"
)

// sent is a report that a machine sends, whole.
func sent(id string, status fleet.HealthCheckStatus) fleet.Report {
	e := trusttest.Entry("web-01", "first")
	return fleet.Report{
		ID: id, Machine: "web-01", Kind: fleet.ReportOutcome, At: 1, Rollout: "r1", Attempt: 1, Digest: fleet.SHA256([]byte("r")), StorePath: e.StorePath,
		BootID: "boot-1", Outcome: fleet.OutcomeLive, Reason: fleet.ReasonCheckFailed, Message: "m", Confirmed: "control-plane", Failed: []string{"a.service"},
		Checks: []fleet.HealthCheckResult{
			{Name: "a", Kind: fleet.HealthCheckUnit, Status: fleet.HealthCheckPassing, Required: true, Observed: "o", At: 1, DurationMs: 1, Passes: 1},
			{Name: "b", Kind: fleet.HealthCheckUnit, Status: status, Required: true, Observed: "o", At: 1, DurationMs: 1, Failures: 1},
		},
		Generations: fleet.Generations{Running: e.StorePath, Booted: e.StorePath, BootDefault: e.StorePath},
	}
}

// The wire rule for reports: whatever one of them has in whatever place, the others are
// stored, and it is stored or refused by itself, with a reason. What cannot be read, or
// is a word of a later version, is never taken for good.
func TestReports_WhatIsWrongInOneStaysThere(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	c := w.thief(admin, "web-01")
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		if n%100 == 0 { // a machine's budget
			w.advance(3600e9)
		}
		status := rapid.SampledFrom([]fleet.HealthCheckStatus{fleet.HealthCheckFailing, fleet.HealthCheckPending, ""}).Draw(t, "status")
		at := rapid.IntRange(0, 2).Draw(t, "at")
		var ids []string
		var list []json.RawMessage
		var path string
		for i := range 3 {
			ids = append(ids, fmt.Sprintf("%d-%d", n, i))
			b := must[[]byte](w.tb)(json.Marshal(sent(ids[i], status)))
			if i == at {
				b, path = wiretest.Change(t, b)
			}
			list = append(list, b)
		}
		body := must[[]byte](w.tb)(json.Marshal(map[string]any{"reports": list, "later": []int{1}}))
		code, answer := w.send(c, api.PathReports, bytes.NewReader(body))
		var reply api.ReportsReply
		if err := json.Unmarshal(answer, &reply); code != 200 || err != nil {
			if code == 403 && bytes.Contains(body, []byte(`"machine":"splendid"`)) {
				return // that of another machine (E07)
			}
			t.Fatalf("changed %s in\n%s\nanswer %d %s", path, body, code, answer)
		}
		for i, id := range ids {
			accepted := slices.Contains(reply.Accepted, id)
			if i != at && !accepted {
				t.Fatalf("changed %s of report %d in\n%s\nreport %d was not stored: %s", path, at, body, i, answer)
			}
			if i == at && !accepted && (len(reply.Rejected) != 1 || reply.Reasons[reply.Rejected[0]] == "") && !strings.HasPrefix(path, "id") {
				t.Fatalf("changed %s in\n%s\nit was neither stored nor refused with a reason: %s", path, body, answer)
			}
		}
		if len(reply.Accepted)+len(reply.Rejected) != 3 {
			t.Fatalf("changed %s in\n%s\nanswer %s", path, body, answer)
		}
		stored := must[api.Page[fleet.Report]](w.tb)(admin.MachineReports(w.ctx(), "web-01", fleet.PageRequest{Limit: 3}))
		for _, r := range stored.Items {
			if fleet.HealthOf(r.Checks) == fleet.Healthy || !slices.ContainsFunc(r.Checks, func(c fleet.HealthCheckResult) bool { return c.Required }) {
				t.Fatalf("changed %s in\n%s\nstored as healthy: %+v", path, body, r)
			}
		}
	})
}

// The wire rule for check-ins: whatever one has in whatever place, the machine gets its
// orders, what it says otherwise is taken in, and it is never healthier for it.
func TestCheckIn_WhatIsWrongInOneFieldStaysThere(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	c := w.thief(admin, "web-01")
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		if n%100 == 0 {
			w.advance(3600e9)
		}
		in := checkIn("web-01")
		in.AgentVersion, in.Waiting, in.Tags, in.RunsRelease, in.Drift, in.PollMs = fmt.Sprint(n), "w", []fleet.Tag{"a", "b"}, fleet.SHA256(nil), true, 1000
		in.Checks = sent("1", rapid.SampledFrom([]fleet.HealthCheckStatus{fleet.HealthCheckFailing, fleet.HealthCheckPending, ""}).Draw(t, "status")).Checks
		in.Documents.Root, in.Epoch, in.Have, in.EvidenceKey = fleet.SHA256(nil), "e", "h", "k"
		body, path := wiretest.Change(t, must[[]byte](w.tb)(json.Marshal(in)), "machine", "waitMs")
		code, answer := w.send(c, api.PathCheckIn, bytes.NewReader(body))
		var orders api.Orders
		if err := json.Unmarshal(answer, &orders); code != 200 || err != nil || orders.Etag == "" {
			t.Fatalf("changed %s in\n%s\nanswer %d %s", path, body, code, answer)
		}
		m := must[fleet.Machine](w.tb)(admin.Machine(w.ctx(), "web-01"))
		if m.Health == fleet.Healthy || path != "agentVersion" && m.AgentVersion != in.AgentVersion {
			t.Fatalf("changed %s in\n%s\nthe machine is %+v", path, body, m)
		}
	})
}
