// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
)

var three = []fleet.MachineID{"db-01", "web-01", "web-02"}

func TestRollout_CanaryThenTheRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		agents, stop := w.agents(three...)
		defer stop()
		digest := w.register(three...)
		id := w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Canaries = []string{"web-01"} })
		d := w.until(id, fleet.RolloutCompleted)
		var sizes []int
		for _, b := range d.Batches {
			sizes = append(sizes, b.Counts.Healthy)
		}
		if !slices.Equal(sizes, []int{1, 2}) {
			t.Errorf("healthy machines by batch: %v, want the canary and two", sizes)
		}
		rest(time.Minute) // the next check-in tells what runs
		for id, a := range agents {
			m := must[fleet.Machine](t)(w.plane().Machine(t.Context(), alice, id))
			if a.running != storePath(id, 1) || m.Running != a.running || m.Health != fleet.Healthy {
				t.Errorf("%s runs %s, the control plane says %s and %s", id, a.running, m.Running, m.Health)
			}
			if m.Desired == nil || m.Desired.Digest != digest || m.Desired.StorePath != a.running {
				t.Errorf("%s should run %+v", id, m.Desired)
			}
		}
		claims := must[map[fleet.MachineID]fleet.RolloutID](t)(w.store.Claims(t.Context()))
		if len(claims) > 0 {
			t.Errorf("a completed rollout still claims %v", claims)
		}
		w.verifyAudit()
	})
}

func (w *world) verifyAudit() {
	w.tb.Helper()
	if _, err := w.store.VerifyAudit(w.tb.Context()); err != nil {
		w.tb.Error(err)
	}
}

func TestRollout_BadCanaryPausesAndTouchesNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		agents, stop := w.agents(three...)
		defer stop()
		first := w.rollOut(w.register(three...), allAtOnce)
		w.until(first, fleet.RolloutCompleted)

		bad := w.register(three...)
		agents["web-01"].bad[bad] = true
		id := w.rollOut(bad, func(s *fleet.RolloutSpec) { s.Canaries = []string{"web-01"} })
		d := w.until(id, fleet.RolloutPaused)
		if !strings.Contains(d.Why, "web-01") || !strings.Contains(d.Why, "unit app.service is failed") {
			t.Errorf("the reason does not say which check of which machine saw what: %q", d.Why)
		}
		rest(10 * time.Minute)
		got := map[fleet.MachineID]fleet.AssignmentState{}
		for id, a := range w.assignments(id) {
			got[id] = a.State
		}
		want := map[fleet.MachineID]fleet.AssignmentState{"web-01": fleet.AssignRolledBack, "web-02": fleet.AssignPending, "db-01": fleet.AssignPending}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("assignments (-want +got):\n%s", d)
		}
		for id, a := range agents {
			if a.running != storePath(id, 1) {
				t.Errorf("%s runs %s, want release 1", id, a.running)
			}
		}
		// Desired is that of the release that was healthy last.
		m := must[fleet.Machine](t)(w.plane().Machine(t.Context(), alice, "web-01"))
		if m.Desired == nil || m.Desired.Rollout != first {
			t.Errorf("web-01 should run %+v, want that of rollout %s", m.Desired, first)
		}

		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, id, api.VerbCancel, api.VerbRequest{}))
		_, err := w.plane().RolloutVerb(t.Context(), alice, id, api.VerbResume, api.VerbRequest{})
		wantCode(t, err, fleet.Conflict)
		fixed := w.rollOut(w.register(three...))
		w.until(fixed, fleet.RolloutCompleted)
		w.verifyAudit()
	})
}

func TestRollout_RevertRollsMachinesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		agents, stop := w.agents(three...)
		defer stop()
		digest := w.register(three...)
		agents["db-01"].bad[digest] = true
		id := w.rollOut(digest, allAtOnce, func(s *fleet.RolloutSpec) { s.OnFailure = fleet.RevertAll })
		w.until(id, fleet.RolloutFailed)
		for id, a := range w.assignments(id) {
			want := fleet.AssignReverted
			if agents[id].bad[digest] {
				want = fleet.AssignRolledBack // by itself, before anybody ordered it
			}
			if a.State != want {
				t.Errorf("%s is %s, want %s", id, a.State, want)
			}
			if m := must[fleet.Machine](t)(w.plane().Machine(t.Context(), alice, id)); m.Desired != nil {
				t.Errorf("%s should run %+v; nothing was ever healthy there", id, m.Desired)
			}
		}
		for id, a := range agents {
			if a.running != storePath(id, 0) {
				t.Errorf("%s runs %s, want what it ran before", id, a.running)
			}
		}
	})
}

// H09, H15: the control plane goes down at any call of any agent; the rollout
// goes on where it was, nothing twice and nothing lost. Each report is
// delivered twice besides.
func TestRollout_GoesOnAfterARestartAtAnyMoment(t *testing.T) {
	calls := 0
	bubble(t, func(t *testing.T) { calls = restartStory(t, 0) })
	if calls < 20 {
		t.Fatalf("the story has %d calls, too few to be it", calls)
	}
	for at := 1; at <= calls; at++ {
		t.Run(fmt.Sprintf("call %d", at), func(t *testing.T) {
			bubble(t, func(t *testing.T) { restartStory(t, at) })
		})
	}
}

// restartStory rolls out to three machines, one of which fails, with a restart
// at one of the agents' calls. It returns how many calls there were.
func restartStory(t *testing.T, restartAt int) int {
	w := newWorld(t)
	w.pin()
	w.fleetOf(three...)
	digest := w.register(three...)
	id := w.rollOut(digest, func(s *fleet.RolloutSpec) {
		s.Strategy, s.Batches, s.MaxFailures.N = fleet.Staged, []fleet.Amount{{N: 1}, {N: 1}, {N: 1}}, 1
	})
	var n atomic.Int64
	restart, done := make(chan struct{}), make(chan struct{})
	agents, stop := w.agentsThat(func(a *agent) {
		a.bad[digest] = a.id == "web-02"
		a.before = func() {
			if n.Add(1) == int64(restartAt) {
				close(restart)
			}
		}
	}, three...)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-restart:
			w.restart()
		case <-done:
		}
	})
	w.until(id, fleet.RolloutCompleted)
	close(done)
	wg.Wait()
	stop()
	w.checkStory(id, agents)
	return int(n.Load())
}

// checkStory checks that each machine had one attempt, each outcome one
// effect.
func (w *world) checkStory(id fleet.RolloutID, agents map[fleet.MachineID]*agent) {
	w.tb.Helper()
	ctx := w.tb.Context()
	for m, a := range w.assignments(id) {
		want := fleet.AssignHealthy
		if m == "web-02" {
			want = fleet.AssignRolledBack
		}
		if a.State != want || a.Attempt != 1 || len(agents[m].applied) != 1 {
			w.tb.Errorf("%s is %s in attempt %d, and switched for %v; want %s in attempt 1", m, a.State, a.Attempt, agents[m].applied, want)
		}
		outcomes := must[api.Page[fleet.AuditEntry]](w.tb)(w.plane().History.Audit(ctx, fleet.AuditFilter{Action: fleet.ActionReportOutcome, Subject: "machine:" + string(m)}, fleet.PageRequest{}))
		if len(outcomes.Items) != 1 {
			w.tb.Errorf("%d outcomes of %s in the audit, want 1", len(outcomes.Items), m)
		}
	}
	for _, action := range []string{fleet.ActionRolloutComplete, fleet.ActionRolloutCreate} {
		if p := must[api.Page[fleet.AuditEntry]](w.tb)(w.plane().History.Audit(ctx, fleet.AuditFilter{Action: action}, fleet.PageRequest{})); len(p.Items) != 1 {
			w.tb.Errorf("%d entries %s in the audit, want 1", len(p.Items), action)
		}
	}
	opened := must[api.Page[fleet.AuditEntry]](w.tb)(w.plane().History.Audit(ctx, fleet.AuditFilter{Action: fleet.ActionBatchOpen}, fleet.PageRequest{}))
	if len(opened.Items) != 3 {
		w.tb.Errorf("%d batches were opened, want 3", len(opened.Items))
	}
	w.verifyAudit()
	if found := must[[]health.Finding](w.tb)(w.plane().Health.Doctor(ctx)); slices.ContainsFunc(found, func(f health.Finding) bool { return f.Subject != "trust" }) {
		w.tb.Errorf("doctor finds %+v", found)
	}
}

// O01: a dry run says what would happen and changes nothing.
func TestCreateRollout_DryRunWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "extra-01")
		digest := w.register("web-01", "web-02")
		before := w.snapshot()
		d := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest), DryRun: true}))
		if after := w.snapshot(); after != before {
			t.Errorf("the dry run changed the store: %s, before %s", after, before)
		}
		// H11: who is left out is said before anything starts.
		if d.Plan == nil || len(d.Plan.LeftOut) == 0 || d.Plan.LeftOut[0].Machine != "web-02" || d.Plan.Changes.Machines != 1 {
			t.Errorf("plan %+v", d.Plan)
		}
		created := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest)}))
		if d := cmp.Diff(d.Plan, created.Plan); d != "" {
			t.Errorf("the creation does otherwise than the dry run (-dry +created):\n%s", d)
		}
		_, err := w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest), DryRun: true})
		wantCode(t, err, fleet.Conflict)
	})
}

// snapshot tells whether anything was written since.
func (w *world) snapshot() string {
	w.tb.Helper()
	head := must[fleet.AuditHead](w.tb)(w.store.AuditHead(w.tb.Context()))
	_, newest, err := w.store.EventRange(w.tb.Context())
	if err != nil {
		w.tb.Fatal(err)
	}
	return fmt.Sprintf("audit %d, event %d, wal %d bytes", head.Size, newest, walSize(w.tb, w.path))
}

// H08: two rollouts created at the same moment for the same machine.
func TestCreateRollout_OneOfTwoWinsAndTheConflictNamesIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		digest := w.register(three...)
		var created [2]api.RolloutDetail
		var errs [2]error
		var wg sync.WaitGroup
		for i, sel := range []string{"web-*", "*-01"} {
			wg.Go(func() {
				created[i], errs[i] = w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest, func(s *fleet.RolloutSpec) { s.Select = []string{sel} })})
			})
		}
		wg.Wait()
		winner := slices.IndexFunc(errs[:], func(err error) bool { return err == nil })
		if winner < 0 {
			t.Fatal(errors.Join(errs[:]...))
		}
		wantCode(t, errs[1-winner], fleet.Conflict)
		if msg := errs[1-winner].Error(); !strings.Contains(msg, string(created[winner].ID)) || !strings.Contains(msg, "web-01") {
			t.Errorf("the conflict does not name rollout %s and web-01: %q", created[winner].ID, msg)
		}

		// H17: with the flag, the newer one takes over.
		d := must[api.RolloutDetail](t)(w.plane().CreateRollout(t.Context(), alice, api.RolloutRequest{Spec: spec(digest, allAtOnce, func(s *fleet.RolloutSpec) { s.Supersede = true })}))
		claims := must[map[fleet.MachineID]fleet.RolloutID](t)(w.store.Claims(t.Context()))
		if d := cmp.Diff(map[fleet.MachineID]fleet.RolloutID{"db-01": d.ID, "web-01": d.ID, "web-02": d.ID}, claims); d != "" {
			t.Errorf("claims (-want +got):\n%s", d)
		}
		if old := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, created[winner].ID)); old.State != fleet.RolloutSuperseded {
			t.Errorf("the older rollout is %s", old.State)
		}
		_, stop := w.agents(three...)
		defer stop()
		w.until(d.ID, fleet.RolloutCompleted)
	})
}

// H10: a machine put into maintenance in the middle of a rollout gets nothing
// more, and holds up nobody.
func TestSetLifecycle_ReachesTheRunningRollout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		digest := w.register(three...)
		id := w.rollOut(digest, allAtOnce)
		must[fleet.Machine](t)(w.plane().SetLifecycle(t.Context(), alice, "db-01", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		agents, stop := w.agents(three...)
		defer stop()
		w.until(id, fleet.RolloutCompleted)
		if n := len(agents["db-01"].applied); n != 0 {
			t.Errorf("the decommissioned machine switched %d times", n)
		}
		if a := w.assignments(id)["db-01"]; a.State != fleet.AssignSkipped || a.Reason != fleet.ReasonLifecycle {
			t.Errorf("its assignment is %s (%s)", a.State, a.Reason)
		}
		_, err := w.plane().CheckIn(t.Context(), "db-01", agents["db-01"].checkIn())
		wantCode(t, err, fleet.Forbidden)
		// O12: what is in use is not deleted, and the refusal says by whom.
		_, err = w.plane().DeleteRollout(t.Context(), alice, id)
		wantCode(t, err, fleet.Conflict)
		_, err = w.plane().DeleteRelease(t.Context(), alice, digest)
		wantCode(t, err, fleet.Conflict)
		if !strings.Contains(err.Error(), string(id)) {
			t.Errorf("the refusal does not name rollout %s: %v", id, err)
		}
	})
}

// H07: verbs race with the engine and with each other; each state change is
// one that was allowed, and none is lost.
func TestRolloutVerb_RacesLoseNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		_, stop := w.agents(three...)
		defer stop()
		id := w.rollOut(w.register(three...))
		var wg sync.WaitGroup
		var mu sync.Mutex
		done := map[api.Verb]int{}
		for range 20 {
			for _, v := range []api.Verb{api.VerbPause, api.VerbResume} {
				wg.Go(func() {
					_, err := w.plane().RolloutVerb(t.Context(), alice, id, v, api.VerbRequest{})
					if err != nil && fleet.ErrorCode(err) != fleet.Conflict {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						done[v]++
					}
				})
			}
		}
		wg.Wait()
		if d := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, id)); d.State == fleet.RolloutPaused {
			must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, id, api.VerbResume, api.VerbRequest{}))
			done[api.VerbResume]++
		}
		w.until(id, fleet.RolloutCompleted)
		if done[api.VerbPause] == 0 || done[api.VerbPause] != done[api.VerbResume] {
			t.Errorf("%d pauses and %d resumes of a rollout that ended well", done[api.VerbPause], done[api.VerbResume])
		}
		for verb, action := range map[api.Verb]string{api.VerbPause: fleet.ActionRolloutPause, api.VerbResume: fleet.ActionRolloutResume} {
			p := must[api.Page[fleet.AuditEntry]](t)(w.plane().History.Audit(t.Context(), fleet.AuditFilter{Action: action}, fleet.PageRequest{}))
			if len(p.Items) != done[verb] {
				t.Errorf("%d entries %s, want %d", len(p.Items), action, done[verb])
			}
		}
	})
}

// A reader of events who reconnects after a restart has each event once and in
// order.
func TestEvents_LoseNothingOverARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf(three...)
		_, stop := w.agents(three...)
		defer stop()
		digest := w.register(three...)
		got := []int64{}
		read := make(chan struct{})
		follow := func() {
			defer func() { read <- struct{}{} }()
			after := int64(0)
			if len(got) > 0 {
				after = got[len(got)-1]
			}
			for e, err := range w.plane().History.Events(context.Background(), after, fleet.EventFilter{}, time.Second) {
				if err != nil {
					t.Error(err)
					return
				}
				if e.ID != 0 {
					got = append(got, e.ID)
				}
			}
		}
		go follow()
		id := w.rollOut(digest)
		rest(3 * time.Second)
		w.restart()
		<-read
		go follow()
		w.until(id, fleet.RolloutCompleted)
		rest(time.Minute)
		stop()
		w.stop()
		<-read
		w.start()
		all := must[[]api.Event](t)(w.store.Events(t.Context(), 0, fleet.EventFilter{}, 10_000))
		want := []int64{}
		for _, e := range all {
			want = append(want, e.ID)
		}
		if d := cmp.Diff(want, got); d != "" || len(got) < 20 {
			t.Errorf("%d events (-want +got):\n%s", len(got), d)
		}
		for _, err := range w.plane().History.Events(t.Context(), 1_000_000, fleet.EventFilter{}, 0) {
			wantCode(t, err, fleet.NotFound)
		}
	})
}
