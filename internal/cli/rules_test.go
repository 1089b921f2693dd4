// SPDX-License-Identifier: MIT

package cli

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// hold serves the freeze of the fleet.
func (p *plane) hold(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		var req api.FreezeRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
		p.freeze = &fleet.Freeze{Reason: req.Reason, Until: req.Until, By: "key:alice", At: 1}
	}
	if p.freeze == nil {
		refuse(w, fleet.Errorf(fleet.NotFound, "the fleet is not frozen"))
		return
	}
	reply(w, *p.freeze)
	if r.Method == http.MethodDelete {
		p.freeze = nil
	}
}

// preset serves the rollout policies.
func (p *plane) preset(w http.ResponseWriter, r *http.Request, name []string) {
	if len(name) == 0 {
		reply(w, p.policies)
		return
	}
	i := slices.IndexFunc(p.policies, func(v fleet.RolloutPolicy) bool { return v.Name == name[0] })
	switch {
	case r.Method == http.MethodPut:
		var req api.PolicyRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || i >= 0 && !req.Replace {
			refuse(w, fleet.Errorf(fleet.Conflict, "there is one: %v", err))
			return
		}
		p.policies = []fleet.RolloutPolicy{{Name: name[0], Spec: req.Spec, CreatedBy: "key:alice", CreatedAt: 1}}
		reply(w, p.policies[0])
	case i < 0:
		refuse(w, fleet.Errorf(fleet.NotFound, "there is no policy %s", name[0]))
	default:
		reply(w, p.policies[i])
		if r.Method == http.MethodDelete {
			p.policies = slices.Delete(p.policies, i, i+1)
		}
	}
}

func TestPolicy_IsSavedAndUsed(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	p.releases = []fleet.Release{{Digest: fleet.SHA256(nil), Header: fleet.Header{Line: "main", Sequence: 1}}}
	u.mustRun(command.ExitUsage, "policy", "create", "careful", "--batches", "100%,1")
	u.mustRun(command.ExitUsage, "policy", "create", "Careful!")
	u.mustRun(command.ExitUsage, "policy", "create", "careful", "--window", "0 3 * * *")
	if len(p.policies) != 0 {
		t.Fatalf("a wrong command line saved %+v", p.policies)
	}
	if r := u.mustRun(0, "policy", "create", "careful", "--batches", "1,100%", "--soak", "30m"); r.out != "saved policy careful\n" {
		t.Errorf("said %q", r.out)
	}
	u.mustRun(command.ExitError, "policy", "create", "careful", "--soak", "1m", "--batches", "1,100%")
	u.mustRun(0, "policy", "create", "careful", "--soak", "20m", "--batches", "1,100%", "--replace")
	for words, want := range map[string]string{"policy list": "careful  staged", "policy show careful": `"soakMs": 1200000`, "policy list --json": `"name":"careful"`} {
		if r := u.mustRun(0, strings.Fields(words)...); !strings.Contains(r.out, want) {
			t.Errorf("%s: %q has no %q", words, r.out, want)
		}
	}
	u.mustRun(0, "rollout", "create", "--policy", "careful", "--max-failures", "1")
	if s := p.asked.Spec; s.Policy != "careful" || s.Strategy != fleet.Staged || s.SoakMs != 20*60e3 || s.MaxFailures.N != 1 || s.Release != fleet.SHA256(nil) {
		t.Errorf("asked for %+v", s)
	}
	u.mustRun(0, "policy", "delete", "careful")
	u.mustRun(command.ExitError, "rollout", "create", "--policy", "careful")
}

// timetable serves one schedule.
func (p *plane) timetable(w http.ResponseWriter, r *http.Request, name []string) {
	s := fleet.Schedule{Name: "nightly", Cron: "30 2 * * 1-5 Europe/Paris", Policy: "careful", Line: "main", CreatedAt: 1, LastAt: 2, LastWhy: "all run it", NextAt: time.Date(2026, 12, 1, 1, 30, 0, 0, time.UTC).UnixMilli()}
	if len(name) == 0 {
		reply(w, []fleet.Schedule{s})
		return
	}
	if r.Method == http.MethodPut {
		p.schedule = &api.ScheduleRequest{}
		if err := json.NewDecoder(r.Body).Decode(p.schedule); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
	}
	reply(w, s)
}

func TestSchedule_SaysWhenItBeginsNext(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	u.mustRun(command.ExitUsage, "schedule", "create", "nightly", "--cron", "30 2 * *", "--policy", "careful")
	u.mustRun(command.ExitUsage, "schedule", "create", "nightly", "--cron", "30 2 * * *")
	u.mustRun(command.ExitUsage, "schedule", "create", "nightly", "--cron", "30 2 * * *", "--policy", "careful", "--tolerance", "1s")
	if p.schedule != nil {
		t.Fatalf("a wrong command line saved %+v", p.schedule)
	}
	r := u.mustRun(0, "schedule", "create", "nightly", "--cron", "30 2 * * 1-5 Europe/Paris", "--policy", "careful", "--line", "edge", "--tolerance", "2h")
	if q := *p.schedule; q.Cron != "30 2 * * 1-5 Europe/Paris" || q.Policy != "careful" || q.Line != "edge" || q.ToleranceMs != 7200_000 || !strings.Contains(r.out, "2026-12-01") {
		t.Errorf("asked for %+v, said %q", q, r.out)
	}
	if r := u.mustRun(0, "schedule", "list"); !strings.Contains(r.out, "2026-12-01") || !strings.Contains(r.out, "left out: all run it") {
		t.Errorf("list: %q", r.out)
	}
	if r := u.mustRun(0, "schedule", "list", "--json"); !strings.Contains(r.out, `"nextAt":1796088600000`) {
		t.Errorf("list --json: %q", r.out)
	}
	u.mustRun(0, "schedule", "delete", "nightly")
}

// budgets serves one disruption budget.
func (p *plane) budgets(w http.ResponseWriter, r *http.Request, name []string) {
	b := api.BudgetDetail{
		Budget: fleet.Budget{Name: "web", Select: []string{"@web"}, Max: fleet.Amount{N: 20, Percent: true}}, Limit: 2, Machines: 10,
		Disrupted: []api.Disrupted{{Machine: "web-03", Why: "unhealthy"}},
	}
	if len(name) == 0 {
		reply(w, []api.BudgetDetail{b})
		return
	}
	if r.Method == http.MethodPut {
		p.budget = &api.BudgetRequest{}
		if err := json.NewDecoder(r.Body).Decode(p.budget); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
	}
	reply(w, b)
}

func TestBudget_SaysHowItStands(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	for _, words := range []string{"web", "web --on @web --max 0", "web --on @web --max 20percent", "Web --on @web", "web --on ["} {
		u.mustRun(command.ExitUsage, append([]string{"budget", "create"}, strings.Fields(words)...)...)
	}
	if p.budget != nil {
		t.Fatalf("a wrong command line saved %+v", p.budget)
	}
	r := u.mustRun(0, "budget", "create", "web", "--on", "@web,!web-09", "--max", "20%")
	if q := *p.budget; len(q.Select) != 2 || q.Max != (fleet.Amount{N: 20, Percent: true}) || r.out != "budget web: 2 of 10 machines may be disrupted; 1 are\n" {
		t.Errorf("asked for %+v, said %q", q, r.out)
	}
	if r := u.mustRun(0, "budget", "list"); !strings.Contains(r.out, "1 of 2") || !strings.Contains(r.out, "web-03 (unhealthy)") {
		t.Errorf("list: %q", r.out)
	}
	u.mustRun(0, "budget", "delete", "web")
}

func TestFreeze_SendsReasonAndMoment(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	u.mustRun(command.ExitUsage, "freeze")
	u.mustRun(command.ExitUsage, "freeze", "--reason", "incident 7", "--until", "tomorrow")
	if p.freeze != nil {
		t.Fatalf("frozen by a wrong command line: %+v", p.freeze)
	}
	r := u.mustRun(0, "freeze", "--reason", "incident 7", "--until", "2h")
	if left := time.Until(time.UnixMilli(p.freeze.Until)); p.freeze.Reason != "incident 7" || left < 119*time.Minute || left > 2*time.Hour || !strings.Contains(r.out, "incident 7") {
		t.Errorf("frozen by %+v, said %q", p.freeze, r.out)
	}
	u.mustRun(0, "freeze", "--reason", "incident 8", "--until", "2026-12-01T06:00:00+01:00")
	if p.freeze.Until != time.Date(2026, 12, 1, 5, 0, 0, 0, time.UTC).UnixMilli() {
		t.Errorf("frozen until %d", p.freeze.Until)
	}
	if r := u.mustRun(0, "unfreeze"); p.freeze != nil || !strings.Contains(r.out, "incident 8") {
		t.Errorf("unfreeze said %q, left %+v", r.out, p.freeze)
	}
	u.mustRun(command.ExitError, "unfreeze")
}
