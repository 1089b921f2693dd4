// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

func skipOffline(s *fleet.RolloutSpec) {
	s.Offline, s.OfflineAfterMs, s.Strategy = fleet.OfflineSkip, 1000, fleet.AllAtOnce
}

// left is a fleet of web-01 and others, of which only web-01 was there when a release
// was rolled out.
func left(t *testing.T, others ...fleet.MachineID) (w *world, release fleet.Digest, r fleet.RolloutID) {
	t.Helper()
	w = newWorld(t)
	w.pin()
	all := append([]fleet.MachineID{"web-01"}, others...)
	w.fleetOf(all...)
	_, stop := w.agents("web-01")
	t.Cleanup(stop)
	rest(time.Second)
	release = w.register(all...)
	r = w.rollOut(release, skipOffline)
	w.until(r, fleet.RolloutCompleted)
	return w, release, r
}

func (w *world) behind() []fleet.Machine {
	w.tb.Helper()
	return must[api.Page[fleet.Machine]](w.tb)(w.plane().Machines(w.tb.Context(), alice, fleet.MachineFilter{Behind: true}, fleet.PageRequest{Limit: 1000})).Items
}

// wantBehind wants one machine to be behind, and a part of why.
func (w *world) wantBehind(why string) {
	w.tb.Helper()
	if b := w.behind(); len(b) != 1 || !strings.Contains(b[0].Behind.Why, why) {
		for _, m := range b {
			w.tb.Logf("%s: %+v", m.ID, *m.Behind)
		}
		w.tb.Fatalf("%d are behind, want one: %s", len(b), why)
	}
}

// own are the rollouts in which machines caught up, oldest first.
func (w *world) own() []fleet.Rollout {
	w.tb.Helper()
	list := must[api.Page[fleet.Rollout]](w.tb)(w.plane().Rollouts(w.tb.Context(), alice, fleet.RolloutFilter{}, fleet.PageRequest{Limit: 1000})).Items
	list = slices.DeleteFunc(list, func(r fleet.Rollout) bool { return r.Spec.CatchUpOf == "" })
	slices.Reverse(list)
	return list
}

func (w *world) doctor() string {
	w.tb.Helper()
	var lines []string
	for _, f := range must[[]health.Finding](w.tb)(w.plane().Health.Doctor(w.tb.Context())) {
		lines = append(lines, f.Message)
	}
	return strings.Join(lines, "\n")
}

// H12: a machine that was off when a rollout went on without it is brought to the
// newest completed release when it is there again: also after a restart, and once; not
// in maintenance, and not while the fleet is frozen. What it waits for is shown.
func TestCatchUp_BringsAlongWhoWasOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _, first := left(t, "web-02")
		w.wantBehind("offline")
		second := w.register("web-01", "web-02")
		r := w.rollOut(second, skipOffline)
		w.until(r, fleet.RolloutCompleted)
		w.wantBehind("offline")
		if m := w.machine("web-02"); m.Behind.Rollout != r || m.Behind.Line != "main" || m.Behind.Since == 0 {
			t.Errorf("web-02 is behind: %+v", m.Behind)
		}
		explained := must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, r))
		if len(explained) != 1 || explained[0].Machine != "web-02" || !strings.Contains(explained[0].Why, "offline") {
			t.Errorf("the rollout is explained by %+v", explained)
		}
		if e := must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, first)); len(e) != 0 {
			t.Errorf("the one before by %+v", e)
		}
		lifecycle := func(l fleet.Lifecycle) {
			must[fleet.Machine](t)(w.plane().SetLifecycle(t.Context(), alice, "web-02", api.LifecycleRequest{Lifecycle: l}))
		}
		lifecycle(fleet.Maintenance)
		w.restart()
		agents, stopTwo := w.agents("web-02")
		defer stopTwo()
		rest(5 * time.Minute)
		w.wantBehind("maintenance")
		must[fleet.Freeze](t)(w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "holidays"}))
		lifecycle(fleet.Active)
		rest(5 * time.Minute)
		w.wantBehind("frozen by key:alice: holidays")
		if len(agents["web-02"].applied) != 0 || len(w.own()) != 0 {
			t.Errorf("it applied %v, there are %+v", agents["web-02"].applied, w.own())
		}
		must[fleet.Freeze](t)(w.plane().EndFreeze(t.Context(), alice))
		rest(time.Minute)
		own := w.own()
		if len(own) != 1 || own[0].State != fleet.RolloutCompleted || own[0].Spec.Release != second || own[0].CreatedBy != rollout.EngineActor || own[0].Spec.CatchUpOf != r {
			t.Fatalf("rollouts of its own: %+v", own)
		}
		if m := w.machine("web-02"); m.Behind != nil || m.Desired == nil || m.Desired.Digest != second || m.RunsRelease != second {
			t.Errorf("web-02 is %+v", m)
		}
		if e := must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, r)); len(e) != 0 {
			t.Errorf("then the rollout is explained by %+v", e)
		}
		w.restart()
		rest(5 * time.Minute)
		if len(w.behind()) != 0 || len(agents["web-02"].applied) != 1 {
			t.Errorf("behind are %+v, it applied %v", w.behind(), agents["web-02"].applied)
		}
	})
}

// Machines that are online again at once catch up in few rollouts, and none more than
// once: also if the control plane is restarted in the middle.
func TestCatchUp_ManyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ids []fleet.MachineID
		for i := range rollout.CatchUpMost + 100 {
			ids = append(ids, fleet.MachineID(fmt.Sprintf("lab-%03d", i)))
		}
		w, release, _ := left(t, ids...)
		if n := len(w.behind()); n != len(ids) {
			t.Fatalf("%d are behind", n)
		}
		agents, stop := w.agents(ids...)
		defer stop()
		rest(35 * time.Second)
		w.restart()
		for range 60 {
			if rest(10 * time.Second); len(w.behind()) == 0 {
				break
			}
		}
		own := w.own()
		if len(w.behind()) != 0 || len(own) != 2 || own[0].Machines != rollout.CatchUpMost || own[1].Machines != 100 {
			t.Fatalf("%d are behind; rollouts of their own: %+v", len(w.behind()), own)
		}
		for id, a := range agents {
			if n := len(a.applied); n != 1 || w.machine(id).RunsRelease != release {
				t.Errorf("%s applied %d times, runs %s", id, n, w.machine(id).RunsRelease)
			}
		}
	})
}

// A claim holds: a machine that an operator takes along in another rollout has had its
// chance there, whatever comes of it. One that fails in its own rollout is not tried
// again (H03); nor is one that an operator skips in it (H16).
func TestCatchUp_HappensOnce(t *testing.T) {
	for _, by := range []string{"an operator's rollout", "its own", "its own, in which it is skipped"} {
		t.Run(by, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, release, _ := left(t, "web-02")
				if by == "an operator's rollout" { // it waits for the machine
					w.rollOut(release, allAtOnce, func(s *fleet.RolloutSpec) { s.Select = []string{"web-02"} })
				}
				slow := func(a *agent) { a.bad[release], a.before = true, func() { rest(10 * time.Second) } }
				agents, stop := w.agentsThat(slow, "web-02")
				defer stop()
				if by == "its own, in which it is skipped" {
					for len(w.own()) == 0 {
						rest(time.Second)
					}
					must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, w.own()[0].ID, api.VerbSkip, api.VerbRequest{Machines: []fleet.MachineID{"web-02"}}))
				}
				rest(30 * time.Minute)
				own := w.own()
				if n := len(agents["web-02"].applied); n > 1 || len(w.behind()) != 0 {
					t.Errorf("it was tried %d times, behind are %+v", n, w.behind())
				}
				if by != "an operator's rollout" && (len(own) != 1 || own[0].State != fleet.RolloutFailed) || by == "an operator's rollout" && len(own) != 0 {
					t.Errorf("rollouts of its own: %+v", own)
				}
			})
		})
	}
}

// A machine that is there for moments only, and falls silent once it is offered the
// release, is tried after longer and longer waits, and then no more by itself: it is
// still listed, and the doctor says why. An operator's rollout ends it.
func TestCatchUp_BacksOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, release, _ := left(t, "web-02")
		in := (&agent{w: w, id: "web-02"}).checkIn()
		in.WaitMs, in.PollMs = 0, 20_000
		var began []time.Duration
		for start := time.Now(); time.Since(start) < 12*time.Hour; {
			_, _ = w.plane().CheckIn(t.Context(), "web-02", in) // it hears of no offer
			if rest(20 * time.Second); len(w.own()) > len(began) {
				began = append(began, time.Since(start))
				rest(3 * time.Minute)
				w.restart() // nothing of it is forgotten
			}
		}
		if len(began) != 3 || began[1]-began[0] < 4*time.Minute || began[2]-began[1] < 6*time.Minute {
			t.Errorf("rollouts began after %v", began)
		}
		w.wantBehind("fell silent 3 times")
		if d := w.doctor(); !strings.Contains(d, "machine web-02 cannot catch up: it fell silent") {
			t.Errorf("the doctor says %s", d)
		}
		_, stop := w.agents("web-02")
		defer stop()
		w.until(w.rollOut(release, allAtOnce, func(s *fleet.RolloutSpec) { s.Select = []string{"web-02"} }), fleet.RolloutCompleted)
		if len(w.behind()) != 0 || len(w.own()) != 3 {
			t.Errorf("behind are %+v", w.behind())
		}
	})
}

// H12: rollouts in which machines catch up keep to the windows of the one that they
// follow, and to every disruption budget.
func TestCatchUp_KeepsToWindowsAndBudgets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		away := []fleet.MachineID{"web-02", "web-03", "web-04"}
		w.fleetOf(append([]fleet.MachineID{"web-01"}, away...)...)
		_, stop := w.agents("web-01")
		defer stop()
		hour := time.Now().UTC().Truncate(time.Hour)
		rest(time.Minute)
		release := w.register(append([]fleet.MachineID{"web-01"}, away...)...)
		id := w.rollOut(release, skipOffline, func(s *fleet.RolloutSpec) { s.Windows = []string{"0 * * * * 20m"} })
		w.until(id, fleet.RolloutCompleted)
		must[api.BudgetDetail](t)(w.plane().PutBudget(t.Context(), alice, "one", api.BudgetRequest{Select: []string{"web-02", "web-03", "web-04"}, Max: fleet.Amount{N: 2}}))
		rest(time.Until(hour.Add(30 * time.Minute)))
		most, switching := 0, map[fleet.MachineID]bool{}
		var mu sync.Mutex
		agents, stopAll := w.agentsThat(func(a *agent) {
			a.before = func() {
				rest(5 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				if now := w.atWork(away...); len(now) > most {
					most, switching = len(now), now
				}
			}
		}, away...)
		defer stopAll()
		rest(time.Until(hour.Add(59 * time.Minute)))
		for _, a := range agents {
			if len(a.applied) != 0 || len(w.own()) != 0 {
				t.Fatalf("outside the window: %s applied %v, rollouts %+v", a.id, a.applied, w.own())
			}
		}
		rest(time.Until(hour.Add(70 * time.Minute)))
		if len(w.behind()) != 0 {
			t.Errorf("in the window: behind are %+v", w.behind())
		}
		if most != 2 {
			t.Errorf("%v were at work at once, 2 may be", switching)
		}
	})
}

// A machine that becomes active while a rollout runs is brought along once that has
// completed, if the rollout is to do so, selects it, and its release has a system for it.
func TestCatchUp_BringsAlongWhoJoinsLate(t *testing.T) {
	for _, late := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			w.pin()
			w.fleetOf("web-01", "web-04")
			release := w.register("web-01", "web-02", "web-03", "web-04")
			id := w.rollOut(release, allAtOnce, func(s *fleet.RolloutSpec) {
				s.Select, s.Approve, s.LateJoiners = []string{"web-*", "!web-03", "!web-04"}, true, late
			})
			w.fleetOf("web-02", "web-03", "web-05")
			agents, stop := w.agents("web-01", "web-02", "web-03", "web-04", "web-05")
			defer stop()
			rest(time.Minute)
			must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, id, api.VerbApprove, api.VerbRequest{}))
			w.until(id, fleet.RolloutCompleted)
			rest(2 * time.Minute)
			want := map[fleet.MachineID]int{"web-01": 1}
			if late {
				want["web-02"] = 1
			}
			stop()
			for m, a := range agents {
				if len(a.applied) != want[m] {
					t.Errorf("late joiners %t: %s applied %v", late, m, a.applied)
				}
			}
			if own := w.own(); late != (len(own) == 1 && own[0].Machines == 1) || len(w.behind()) != 0 {
				t.Errorf("late joiners %t: rollouts of their own %+v, behind are %+v", late, own, w.behind())
			}
		})
	}
}

// atWork are those of some machines that a rollout has at work.
func (w *world) atWork(ids ...fleet.MachineID) map[fleet.MachineID]bool {
	busy := map[fleet.MachineID]bool{}
	for _, r := range w.own() {
		for id, a := range w.assignments(r.ID) {
			if slices.Contains(ids, id) && a.State.InFlight() {
				busy[id] = true
			}
		}
	}
	return busy
}

// What it would be brought to may be revoked, or have expired, another rollout may
// have been reverted since, or an operator has cancelled its own: then it stays, and
// machine, rollout and doctor say why. The next completed release brings it along.
func TestCatchUp_NotToWhatWentWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		wrong func(w *world, release fleet.Digest)
		why   string
	}{
		"revoked": {func(w *world, release fleet.Digest) {
			list := trusttest.Payload(w.tb, fleet.Revocations{FleetID: "acme", Version: 1, SignedAt: time.Now().UnixMilli(), Releases: []fleet.Digest{release}})
			must[api.Document](w.tb)(w.plane().Documents.PutRevocations(w.tb.Context(), alice, api.Document{Envelope: w.sign(fleet.TypeRevocations, list, w.root)}))
		}, "is revoked"},
		"expired": {func(w *world, _ fleet.Digest) { w.advance(91 * 24 * time.Hour) }, "has expired"},
		"reverted": {func(w *world, _ fleet.Digest) {
			id := w.rollOut(w.register("web-01"), allAtOnce, func(s *fleet.RolloutSpec) { s.MinHealthyMs = 60_000 })
			rest(10 * time.Second) // it is switching
			must[api.RolloutDetail](w.tb)(w.plane().RolloutVerb(w.tb.Context(), alice, id, api.VerbRevert, api.VerbRequest{}))
			w.until(id, fleet.RolloutFailed)
		}, "was reverted after"},
		"cancelled": {func(w *world, _ fleet.Digest) {
			in := (&agent{w: w, id: "web-02"}).checkIn()
			for in.WaitMs = 1000; len(w.own()) == 0; rest(time.Second) {
				must[api.Orders](w.tb)(w.plane().CheckIn(w.tb.Context(), "web-02", in))
			}
			must[api.RolloutDetail](w.tb)(w.plane().RolloutVerb(w.tb.Context(), alice, w.own()[0].ID, api.VerbCancel, api.VerbRequest{}))
		}, "was cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, release, _ := left(t, "web-02")
				tt.wrong(w, release)
				agents, stop := w.agents("web-02")
				defer stop()
				rest(5 * time.Minute)
				w.wantBehind(tt.why)
				if d := w.doctor(); !strings.Contains(d, "machine web-02 cannot catch up") || !strings.Contains(d, tt.why) || len(agents["web-02"].applied) != 0 {
					t.Fatalf("it applied %v; the doctor says %s", agents["web-02"].applied, d)
				}
				if name == "expired" {
					return // the releases of this test are made by the real clock
				}
				next := w.register("web-01", "web-02")
				w.until(w.rollOut(next, allAtOnce, func(s *fleet.RolloutSpec) { s.Select = []string{"web-01"} }), fleet.RolloutCompleted)
				rest(time.Minute)
				if m := w.machine("web-02"); m.Behind != nil || m.RunsRelease != next || len(w.behind()) != 0 || strings.Contains(w.doctor(), "catch up") {
					t.Errorf("web-02 is %+v", m)
				}
			})
		})
	}
}

// What is owed ends with the machine, and what was named in it may be gone: machines
// that were deleted or retired, the rollout and the release that it was skipped in.
func TestCatchUp_OutlivesWhatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, release, r := left(t, "web-02", "web-03")
		must[fleet.Machine](t)(w.plane().SetLifecycle(t.Context(), alice, "web-03", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		w.wantBehind("offline")
		next := w.register("web-01")
		w.until(w.rollOut(next, allAtOnce), fleet.RolloutCompleted)
		must[fleet.Rollout](t)(w.plane().DeleteRollout(t.Context(), alice, r))
		must[fleet.Release](t)(w.plane().DeleteRelease(t.Context(), alice, release))
		w.restart()
		agents, stop := w.agents("web-02")
		defer stop()
		rest(2 * time.Minute)
		w.wantBehind("has no system for it")
		last := w.register("web-01", "web-02")
		w.until(w.rollOut(last, allAtOnce, func(s *fleet.RolloutSpec) { s.Select = []string{"web-01"} }), fleet.RolloutCompleted)
		rest(time.Minute)
		if len(w.behind()) != 0 || w.machine("web-02").RunsRelease != last || len(agents["web-02"].applied) != 1 {
			t.Errorf("behind are %+v", w.behind())
		}
	})
}

// What a machine says that it runs counts: one that is on a newer release of its line
// has nothing to catch up with, and one that follows another line waits for that line.
func TestCatchUp_FollowsTheMachine(t *testing.T) {
	for name, is := range map[string]func(in *api.CheckIn, newer fleet.Digest){
		"a newer release": func(in *api.CheckIn, newer fleet.Digest) { in.RunsRelease = newer },
		"another line":    func(in *api.CheckIn, _ fleet.Digest) { in.Line = "staging" },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, _, _ := left(t, "web-02")
				in := (&agent{w: w, id: "web-02"}).checkIn()
				is(&in, w.register("web-01", "web-02"))
				in.WaitMs, in.PollMs = 0, 3600_000
				must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-02", in))
				rest(time.Minute)
				if len(w.own()) != 0 {
					t.Errorf("rollouts of its own: %+v", w.own())
				}
				if name == "another line" {
					w.wantBehind("no rollout of its line has completed")
				} else if len(w.behind()) != 0 {
					t.Errorf("behind are %+v", w.behind())
				}
			})
		})
	}
}

// E12: while the database may be an old copy, nobody catches up with what it says. Only
// the control plane makes such rollouts.
func TestCatchUp_NotFromAnOldCopy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, release, r := left(t, "web-02")
		_, err := w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(release, func(s *fleet.RolloutSpec) { s.CatchUpOf = r })})
		wantCode(t, err, fleet.Invalid)
		backup := w.path + ".backup"
		if err := w.store.Backup(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		must[fleet.Freeze](t)(w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "until the copy is in place"}))
		in := (&agent{w: w, id: "web-02"}).checkIn()
		in.WaitMs, in.PollMs = 0, 3600_000
		in.Epoch = must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-02", in)).Epoch
		w.stop()
		w.path = backup
		w.start()
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-02", in))
		rest(5 * time.Minute)
		w.wantBehind("restored")
		if w.mode() != "restored" || len(w.own()) != 0 {
			t.Errorf("the mode is %s, rollouts of its own: %+v", w.mode(), w.own())
		}
	})
}
