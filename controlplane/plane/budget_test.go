// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Three rollouts that begin together keep to one budget, which another machine
// that is unhealthy counts in, also over a restart; each is told what it waits for,
// and goes on as soon as a machine of another one is done (H09).
func TestBudgets_HoldOverAllRollouts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		var all []fleet.MachineID
		for i := range 9 {
			all = append(all, fleet.MachineID(fmt.Sprintf("web-%02d", i)))
		}
		w.fleetOf(append(all, "sick-01", "db-01")...)
		digest := w.register(append(all, "db-01")...)
		_, stop := w.agents(append(all, "db-01")...)
		defer stop()
		sick := quiet(w, "sick-01").checkIn()
		sick.WaitMs, sick.PollMs = 0, 3600_000
		sick.Checks[0].Status = fleet.HealthCheckFailing
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "sick-01", sick))
		rest(time.Second)
		_, err := w.plane().PutBudget(t.Context(), alice, "web", api.BudgetRequest{Select: []string{"web-*", "sick-*"}})
		wantCode(t, err, fleet.Invalid)
		b := must[api.BudgetDetail](t)(w.plane().PutBudget(t.Context(), alice, "web", api.BudgetRequest{Select: []string{"web-*", "sick-*"}, Max: fleet.Amount{N: 30, Percent: true}}))
		if b.Limit != 3 || b.Machines != 10 || len(b.Disrupted) != 1 || b.Disrupted[0] != (api.Disrupted{Machine: "sick-01", Why: "unhealthy"}) {
			t.Fatalf("budget: %+v", b)
		}
		var ids []fleet.RolloutID
		began := time.Now()
		for i := range 3 {
			ids = append(ids, w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) {
				for _, m := range all[3*i : 3*i+3] {
					s.Select = append(s.Select, string(m))
				}
			}))
		}
		db := w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) { s.Select = []string{"db-01"} })
		most, waited := 0, ""
		for restarted := false; ; rest(20 * time.Millisecond) {
			work, done := 0, 0
			for _, id := range ids {
				for _, a := range w.assignments(id) {
					switch {
					case a.State.InFlight() || a.State.RollingBack():
						work++
					case a.State == fleet.AssignHealthy:
						done++
					}
				}
			}
			if most = max(most, work); work > 2 {
				t.Fatalf("%d machines are at work beside the unhealthy one, 3 may be disrupted", work)
			}
			if done == len(all) {
				break
			}
			for _, l := range must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, ids[2])) {
				if strings.Contains(l.Why, "budget web") {
					waited = l.Why
				}
			}
			if done >= 4 && !restarted {
				w.restart()
				restarted = true
			}
			if time.Since(began) > 10*time.Minute {
				t.Fatalf("%d of %d are done after 10 minutes: %+v", done, len(all), w.plane().Budgets())
			}
		}
		if most != 2 || waited == "" {
			t.Errorf("at most %d were at work at once, want 2; the last rollout was told %q", most, waited)
		}
		w.until(db, fleet.RolloutCompleted)
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("it took %s: a machine that is done lets the next one begin", took)
		}
		must[fleet.Budget](t)(w.plane().DeleteBudget(context.Background(), alice, "web"))
		if got, want := w.actions("budget."), "key:alice budget.put, key:alice budget.delete"; got != want {
			t.Errorf("audited: %s, want %s", got, want)
		}
	})
}
