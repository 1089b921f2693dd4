// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// rule is a kind of what rollouts have to keep to. What is saved under a name is
// one of two values, a or b.
type rule struct {
	most   int // that are kept
	put    func(w *world, name, value string, replace bool) error
	remove func(w *world, name string) error
	list   func(w *world) map[string]string
	write  func(ctx context.Context, tx *store.Tx, name string) error
}

var rules = map[string]rule{
	"policy": {
		most: 200,
		put: func(w *world, name, value string, replace bool) error {
			_, err := w.plane().PutPolicy(w.tb.Context(), alice, name, api.PolicyRequest{Spec: fleet.RolloutSpec{SoakMs: map[string]int64{"a": 1, "b": 2}[value]}, Replace: replace})
			return err
		},
		remove: func(w *world, name string) error {
			_, err := w.plane().DeletePolicy(w.tb.Context(), alice, name)
			return err
		},
		list: func(w *world) map[string]string {
			out := map[string]string{}
			for _, p := range must[[]fleet.RolloutPolicy](w.tb)(w.plane().Policies(w.tb.Context())) {
				out[p.Name] = map[int64]string{1: "a", 2: "b"}[p.Spec.SoakMs]
			}
			return out
		},
		write: func(ctx context.Context, tx *store.Tx, name string) error {
			return tx.PutPolicy(ctx, fleet.RolloutPolicy{Name: name, Spec: fleet.RolloutSpec{SoakMs: 1}, CreatedBy: "key:alice"})
		},
	},
	"schedule": {
		most: 200,
		put: func(w *world, name, value string, replace bool) error {
			in := api.ScheduleRequest{Cron: map[string]string{"a": "1 1 1 1 *", "b": "2 2 2 2 *"}[value], Policy: "lasting", Replace: replace}
			_, err := w.plane().PutSchedule(w.tb.Context(), alice, name, in)
			return err
		},
		remove: func(w *world, name string) error {
			_, err := w.plane().DeleteSchedule(w.tb.Context(), alice, name)
			return err
		},
		list: func(w *world) map[string]string {
			out := map[string]string{}
			for _, s := range w.plane().Schedules() {
				out[s.Name] = map[string]string{"1 1 1 1 *": "a", "2 2 2 2 *": "b"}[s.Cron]
			}
			return out
		},
		write: func(ctx context.Context, tx *store.Tx, name string) error {
			return tx.PutSchedule(ctx, fleet.Schedule{Name: name, Cron: "1 1 1 1 *", Policy: "lasting", Line: "main", ToleranceMs: 1, CreatedBy: "key:alice", LastAt: time.Now().UnixMilli()})
		},
	},
	"budget": {
		most: 100,
		put: func(w *world, name, value string, replace bool) error {
			in := api.BudgetRequest{Select: []string{"web-*"}, Max: fleet.Amount{N: map[string]int{"a": 1, "b": 2}[value]}, Replace: replace}
			_, err := w.plane().PutBudget(w.tb.Context(), alice, name, in)
			return err
		},
		remove: func(w *world, name string) error {
			_, err := w.plane().DeleteBudget(w.tb.Context(), alice, name)
			return err
		},
		list: func(w *world) map[string]string {
			out := map[string]string{}
			for _, b := range w.plane().Budgets() {
				out[b.Name] = map[int]string{1: "a", 2: "b"}[b.Max.N]
			}
			return out
		},
		write: func(ctx context.Context, tx *store.Tx, name string) error {
			return tx.PutBudget(ctx, fleet.Budget{Name: name, Select: []string{"web-*"}, Max: fleet.Amount{N: 1}, CreatedBy: "key:alice"})
		},
	},
}

// A rule stays as it is if it is asked for again, gives way only where that is said,
// and there are never more of a kind than its bound.
func TestRules_GiveWayOnlyWhereThatIsSaid(t *testing.T) {
	for kind, r := range rules {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			if err := w.store.Write(t.Context(), func(tx *store.Tx) error {
				if kind == "policy" {
					return nil
				}
				return rules["policy"].write(t.Context(), tx, "lasting")
			}); err != nil {
				t.Fatal(err)
			}
			audited := 0
			step := func(what string, err error, want fleet.Code, writes bool, have map[string]string) {
				t.Helper()
				before := audited
				audited = strings.Count(w.actions(kind+"."), kind+".")
				if d := cmp.Diff(have, r.list(w)); fleet.ErrorCode(err) != want || d != "" || (audited > before) != writes {
					t.Errorf("%s: %v, want code %q; %d audited, before %d; (-want +got):\n%s", what, err, want, audited, before, d)
				}
			}
			step("the first", r.put(w, "one", "a", false), "", true, map[string]string{"one": "a"})
			step("the same", r.put(w, "one", "a", false), "", false, map[string]string{"one": "a"})
			step("another of its name", r.put(w, "one", "b", false), fleet.Conflict, false, map[string]string{"one": "a"})
			step("in its place", r.put(w, "one", "b", true), "", true, map[string]string{"one": "b"})
			step("without a name", r.put(w, "No_Such", "a", false), fleet.Invalid, false, map[string]string{"one": "b"})
			step("deleting what is not there", r.remove(w, "two"), fleet.NotFound, false, map[string]string{"one": "b"})

			all := map[string]string{"one": "b"}
			err := w.store.Write(t.Context(), func(tx *store.Tx) error {
				for i := 1; i < r.most; i++ {
					name := fmt.Sprintf("r-%03d", i)
					if err := r.write(t.Context(), tx, name); err != nil {
						return err
					}
					all[name] = "a"
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			w.restart()
			step("one too many", r.put(w, "two", "a", false), fleet.TooLarge, false, all)
			all["one"] = "a"
			step("in place of another", r.put(w, "one", "a", true), "", true, all)
			delete(all, "one")
			step("deleting it", r.remove(w, "one"), "", true, all)
			all = maps.Clone(all)
			all["two"] = "a"
			step("in the free place", r.put(w, "two", "a", false), "", true, all)
		})
	}
}

// A policy that would be refused for every rollout is not saved.
func TestPutPolicy_RefusesWhatLeavesNoTime(t *testing.T) {
	w := newWorld(t)
	for blackout, says := range map[string]string{"0 * * * * 2h": "leave no time", "* * * * * 2h": "times an hour", "0 3 * * * 2h": ""} {
		_, err := w.plane().PutPolicy(t.Context(), alice, "p", api.PolicyRequest{Spec: fleet.RolloutSpec{RolloutRules: fleet.RolloutRules{Blackouts: []string{blackout}}}})
		if (err == nil) != (says == "") || err != nil && (fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v", blackout, err)
		}
	}
}

// A budget in the database that cannot be read is no reason to go on without it: no
// other one is saved or deleted, and the control plane does not start.
func TestBudgets_AreNotLeftOutIfOneCannotBeRead(t *testing.T) {
	w := newWorld(t)
	budget := rules["budget"]
	if err := budget.put(w, "one", "a", false); err != nil {
		t.Fatal(err)
	}
	put := func(sel string) {
		t.Helper()
		if err := w.store.Write(t.Context(), func(tx *store.Tx) error {
			return tx.PutBudget(t.Context(), fleet.Budget{Name: "broken", Select: []string{sel}, Max: fleet.Amount{N: 1}, CreatedBy: "key:alice"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	put("no selector!")
	state := func() string {
		return fmt.Sprint(w.actions("budget."), must[[]fleet.Budget](t)(w.store.Budgets(t.Context())))
	}
	before := state()
	for what, err := range map[string]error{"another": budget.put(w, "two", "a", false), "in its place": budget.put(w, "one", "b", true), "deleted": budget.remove(w, "one")} {
		if err == nil || state() != before {
			t.Errorf("%s: %v; %s, before %s", what, err, state(), before)
		}
	}
	w.stop()
	st := must[*store.Store](t)(store.Open(t.Context(), store.Options{Path: w.path}))
	p, err := plane.Open(t.Context(), plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: w.now, Version: "test", EpochKey: w.epochKey})
	if err == nil {
		t.Error("it starts")
		_ = p.Close() // it never ran
	}
	if err = st.Close(); err != nil {
		t.Error(err)
	}
}

// A schedule says why it left a rollout out; what could not be read is no reason: it
// begins once that can be read again (H15).
func TestSchedules_SayWhyTheyBeginNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01")
		policy := func(sel string) {
			t.Helper()
			must[fleet.RolloutPolicy](t)(w.plane().PutPolicy(t.Context(), alice, "fast", api.PolicyRequest{Spec: fleet.RolloutSpec{Select: []string{sel}}, Replace: true}))
		}
		policy("@nobody")
		must[fleet.Schedule](t)(w.plane().PutSchedule(t.Context(), alice, "hourly", api.ScheduleRequest{Cron: "0 * * * *", Policy: "fast", ToleranceMs: 600_000}))
		check := func(at, why string, began int) {
			t.Helper()
			w.sleepUntil(at)
			list := must[api.Page[fleet.Rollout]](t)(w.plane().Rollouts(t.Context(), alice, fleet.RolloutFilter{}, fleet.PageRequest{})).Items
			if s := w.plane().Schedules()[0]; len(list) != began || !strings.Contains(s.LastWhy, why) || (why == "") != (s.LastWhy == "") {
				t.Errorf("at %s: %d rollouts, want %d; left out because %q, want %q", at, len(list), began, s.LastWhy, why)
			}
		}
		digest := w.register("web-01")
		check("01:01", "no machine matches", 0)
		policy("web-*")
		must[fleet.Release](t)(w.plane().DeleteRelease(t.Context(), alice, digest))
		check("02:01", "there is no release", 0)
		digest = w.register("web-01")
		revoked := fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: w.now().UnixMilli(), Releases: []fleet.Digest{digest}}
		must[api.Document](t)(w.plane().Documents.PutRevocations(t.Context(), alice, api.Document{Envelope: w.sign(fleet.TypeRevocations, trusttest.Payload(t, revoked), w.root)}))
		check("03:01", "is revoked", 0)
		w.register("web-01")

		db := must[*sql.DB](t)(sql.Open("sqlite", w.path+"?_pragma=busy_timeout(10000)"))
		defer db.Close()
		rename := func(from, to string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
				t.Fatal(err)
			}
		}
		rename("release_line", "lost")
		check("04:02", "is revoked", 0)
		rename("lost", "release_line")
		check("04:09", "", 1)
	})
}
