// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// What cannot be saved is not answered as if it were: neither what is wrong, nor what
// would take the place of another.
func TestRules_AreAnsweredAsTheyAreKept(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	none := func(_ any, err error) error { return err }
	must[fleet.RolloutPolicy](t)(admin.PutPolicy(t.Context(), "p", api.PolicyRequest{}))
	budget := func(most int, sel ...string) error {
		return none(admin.PutBudget(t.Context(), "one", api.BudgetRequest{Select: sel, Max: fleet.Amount{N: most}}))
	}
	schedule := func(cron, policy string) error {
		return none(admin.PutSchedule(t.Context(), "one", api.ScheduleRequest{Cron: cron, Policy: policy}))
	}
	for _, c := range []struct {
		what string
		got  error
		want fleet.Code
	}{
		{"a budget of nothing", budget(0, "@web"), fleet.Invalid},
		{"a budget", budget(1, "@web"), ""},
		{"the same", budget(1, "@web"), ""},
		{"another of its name", budget(2, "@web"), fleet.Conflict},
		{"a schedule without a time", schedule("whenever", "p"), fleet.Invalid},
		{"a schedule without a policy", schedule("0 3 * * *", "none"), fleet.NotFound},
		{"a schedule", schedule("0 3 * * *", "p"), ""},
		{"the same", schedule("0 3 * * *", "p"), ""},
		{"another of its name", schedule("0 4 * * *", "p"), fleet.Conflict},
		{"a policy that a schedule uses", none(admin.DeletePolicy(t.Context(), "p")), fleet.Conflict},
	} {
		wantCode(t, c.what, c.got, c.want)
	}
	if b, s := must[[]api.BudgetDetail](t)(admin.Budgets(t.Context())), must[[]fleet.Schedule](t)(admin.Schedules(t.Context())); len(b) != 1 || b[0].Max.N != 1 || len(s) != 1 || s[0].Cron != "0 3 * * *" {
		t.Errorf("budgets %+v, schedules %+v", b, s)
	}
}

// A policy is checked when it is saved, survives a restart, and is frozen into the
// rollouts that are made from it: replacing or deleting it changes none (H14).
func TestPolicies_AreCheckedWhenSavedAndFrozenIntoRollouts(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	w.enrolled(admin, "web-01")
	staged := fleet.RolloutSpec{Strategy: fleet.Staged, Batches: []fleet.Amount{{N: 1}, {N: 100, Percent: true}}, SoakMs: 60_000}
	for name, edit := range map[string]func(*fleet.RolloutSpec){
		"a gate that there is not": func(s *fleet.RolloutSpec) { s.Gates = []fleet.GateName{"none"} },
		"a window without a zone":  func(s *fleet.RolloutSpec) { s.Windows = []string{"0 3 * * * 2h Europe/Atlantis"} },
		"a blackout too often":     func(s *fleet.RolloutSpec) { s.Blackouts = []string{"* * * * * 2h"} },
		"no time left":             func(s *fleet.RolloutSpec) { s.Blackouts = []string{"0 * * * * 2h"} },
		"a release":                func(s *fleet.RolloutSpec) { s.Release = fleet.SHA256(nil) },
		"batches of nothing":       func(s *fleet.RolloutSpec) { s.Batches = []fleet.Amount{{}} },
	} {
		s := staged
		edit(&s)
		_, err := admin.PutPolicy(t.Context(), "careful", api.PolicyRequest{Spec: s})
		wantCode(t, name, err, fleet.Invalid)
	}
	_, err := admin.PutPolicy(t.Context(), "Careful!", api.PolicyRequest{Spec: staged})
	wantCode(t, "a bad name", err, fleet.Invalid)
	saved := must[fleet.RolloutPolicy](t)(admin.PutPolicy(t.Context(), "careful", api.PolicyRequest{Spec: staged}))
	if again := must[fleet.RolloutPolicy](t)(admin.PutPolicy(t.Context(), "careful", api.PolicyRequest{Spec: staged})); !cmp.Equal(saved, again) {
		t.Errorf("the same once more: %+v", again)
	}
	w.stop()
	w.start()
	admin = w.operator(w.secretOfAdmin)
	if list := must[[]fleet.RolloutPolicy](t)(admin.Policies(t.Context())); len(list) != 1 || !cmp.Equal(list[0], saved) {
		t.Errorf("after a restart: %+v, want %+v", list, saved)
	}
	p := must[fleet.RolloutPolicy](t)(admin.Policy(t.Context(), "careful"))
	release := w.release(admin, 1, "", "web-01").Digest
	made := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: p.For(release, "")}))
	other := staged
	other.SoakMs = 1
	_, err = admin.PutPolicy(t.Context(), "careful", api.PolicyRequest{Spec: other})
	wantCode(t, "another of its name", err, fleet.Conflict)
	must[fleet.RolloutPolicy](t)(admin.PutPolicy(t.Context(), "careful", api.PolicyRequest{Spec: other, Replace: true}))
	if p := must[fleet.RolloutPolicy](t)(admin.Policy(t.Context(), "careful")); p.Spec.SoakMs != 1 {
		t.Errorf("replaced: %+v", p)
	}
	must[fleet.RolloutPolicy](t)(admin.DeletePolicy(t.Context(), "careful"))
	_, err = admin.Policy(t.Context(), "careful")
	wantCode(t, "a policy that was deleted", err, fleet.NotFound)
	if r := must[api.RolloutDetail](t)(admin.Rollout(t.Context(), made.ID)); r.Spec.Policy != "careful" || r.Spec.SoakMs != 60_000 {
		t.Errorf("the rollout has changed: %+v", r.Spec)
	}
	var trail []string
	for _, e := range must[api.Page[fleet.AuditEntry]](t)(admin.Audit(t.Context(), fleet.AuditFilter{Subject: "policy:careful"}, fleet.PageRequest{})).Items {
		v := must[fleet.AuditEvent](t)(e.Event())
		trail = append(trail, v.Actor+" "+v.Action)
	}
	if d := cmp.Diff([]string{"key:root policy.put", "key:root policy.put", "key:root policy.delete"}, trail); d != "" {
		t.Error(d)
	}
}
