// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// A limited key registers machines of its own, and keeps none that it could not
// touch afterwards. It does not learn which names others have.
func TestLimitedKey_RegistersItsOwnMachinesAlone(t *testing.T) {
	w := newWorld(t)
	p, ctx := w.plane(), t.Context()
	web := access.Caller{Owner: "w", KeyID: "k2", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
	register := func(id fleet.MachineID, tags ...fleet.Tag) error {
		_, err := p.RegisterMachine(ctx, web, api.MachineRequest{ID: id, Tags: tags})
		return err
	}
	must[fleet.Machine](t)(p.RegisterMachine(ctx, alice, api.MachineRequest{ID: "db-01", Tags: []fleet.Tag{"db"}}))
	for _, c := range []struct {
		what string
		id   fleet.MachineID
		tags []fleet.Tag
		want fleet.Code
	}{
		{"without a tag", "web-01", nil, fleet.Forbidden},
		{"with another's tag beside its own", "web-01", []fleet.Tag{"web", "db"}, fleet.Forbidden},
		{"another's name", "db-01", []fleet.Tag{"web"}, fleet.Forbidden},
		{"its own", "web-01", []fleet.Tag{"web"}, ""},
		{"its own again", "web-01", []fleet.Tag{"web"}, fleet.Conflict},
	} {
		if err := register(c.id, c.tags...); fleet.ErrorCode(err) != c.want {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
	_, err := p.SetTags(ctx, web, "web-01", api.TagsRequest{})
	wantCode(t, err, fleet.Forbidden) // nobody would have it then
	if m := must[fleet.Machine](t)(p.Machine(ctx, web, "web-01")); len(m.Tags.Effective) != 1 {
		t.Errorf("it has the tags %v", m.Tags)
	}
}

// A freeze is there or is not found; what a control plane that has ended cannot
// keep is not said to be there.
func TestFreeze_IsKeptOrRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.plane().Freeze(t.Context())
	wantCode(t, err, fleet.NotFound)
	must[fleet.Freeze](t)(w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "incident 7"}))
	if f := must[fleet.Freeze](t)(w.plane().Freeze(t.Context())); f.Reason != "incident 7" {
		t.Errorf("the freeze is %+v", f)
	}
	if err = w.plane().Close(); err != nil {
		t.Fatal(err)
	}
	_, err = w.plane().SetFreeze(t.Context(), alice, api.FreezeRequest{Reason: "incident 8"})
	wantCode(t, err, fleet.Unavailable)
}

// A line is named by what can be its name, and has a newest release or is not found.
func TestLine_IsFoundByItsName(t *testing.T) {
	w := newWorld(t)
	w.pin()
	digest := w.register("web-01")
	for line, want := range map[fleet.Line]fleet.Code{"main": "", "nothing": fleet.NotFound, "No_Such": fleet.Invalid} {
		if h, err := w.plane().Line(t.Context(), line); fleet.ErrorCode(err) != want || err == nil && h.Digest != digest {
			t.Errorf("%s: %+v, %v; want %q", line, h, err, want)
		}
	}
}

// A limited key gets its part of the rollouts or an error: never a whole rollout for
// want of knowing whose machines it has.
func TestRollouts_AreNotShownIfTheirMachinesCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.pin()
	w.fleetOf("web-01")
	w.rollOut(w.register("web-01"))
	linux := access.Caller{Owner: "l", KeyID: "k4", Role: fleet.RoleReadonly, Tags: []fleet.Tag{"linux"}}
	list := func(page fleet.PageRequest) error {
		_, err := w.plane().Rollouts(t.Context(), linux, fleet.RolloutFilter{}, page)
		return err
	}
	if err := list(fleet.PageRequest{}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, list(fleet.PageRequest{Cursor: "*"}), fleet.Invalid)
	if err := w.plane().Close(); err != nil { // nothing else touches the database now
		t.Fatal(err)
	}
	db := must[*sql.DB](t)(sql.Open("sqlite", w.path+"?_pragma=busy_timeout(10000)"))
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "ALTER TABLE assignment RENAME TO lost"); err != nil {
		t.Fatal(err)
	}
	if list(fleet.PageRequest{}) == nil {
		t.Error("a rollout is shown")
	}
}

// A rollout is forgotten once it has ended, no machine is at it, and none should run
// what it brought (O12).
func TestDeleteRollout_ForgetsOnlyWhatNothingNeeds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		digest := w.register("web-01", "web-02")
		only := func(m string) fleet.RolloutID {
			return w.rollOut(digest, func(s *fleet.RolloutSpec) { s.Select = []string{m} })
		}
		remove := func(id fleet.RolloutID) error {
			_, err := w.plane().DeleteRollout(t.Context(), alice, id)
			return err
		}
		cancel := func(id fleet.RolloutID) {
			t.Helper()
			must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, id, api.VerbCancel, api.VerbRequest{}))
			if d := must[api.RolloutDetail](t)(w.plane().Rollout(t.Context(), alice, id)); d.State != fleet.RolloutCancelled {
				t.Fatalf("it is %s", d.State)
			}
		}
		wantCode(t, remove("01J00000000000000000000000"), fleet.NotFound)
		id := only("web-01")
		wantCode(t, remove(id), fleet.Conflict)
		if why := must[[]api.Waiting](t)(w.plane().Explain(t.Context(), alice, id)); len(why) == 0 {
			t.Error("nothing says why it has not ended")
		}

		web := quiet(w, "web-01")
		in := web.checkIn()
		in.WaitMs = 0
		must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in)) // it is online
		rest(time.Second)
		o := must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in))
		if o.Apply == nil {
			t.Fatalf("orders %+v", o)
		}
		r := fleet.Report{Rollout: id, Attempt: o.Apply.Attempt, Digest: digest, StorePath: storePath("web-01", 1), Kind: fleet.ReportProgress, Phase: fleet.AssignApplying}
		web.report(t.Context(), r)
		rest(time.Second)
		cancel(id)
		wantCode(t, remove(id), fleet.Conflict) // the machine is still at it

		web.running, web.boot = r.StorePath, r.StorePath
		r.Kind, r.Phase, r.Outcome, r.Confirmed = fleet.ReportOutcome, "", fleet.OutcomeLive, "control-plane"
		web.report(t.Context(), r)
		rest(time.Second)
		err := remove(id)
		if wantCode(t, err, fleet.Conflict); !strings.Contains(err.Error(), "should run: web-01") {
			t.Errorf("got %v", err)
		}

		id = only("web-02")
		cancel(id)
		if err = remove(id); err != nil {
			t.Error(err)
		}
		_, err = w.plane().Rollout(t.Context(), alice, id)
		wantCode(t, err, fleet.NotFound)
		_, err = w.plane().Explain(t.Context(), alice, id)
		wantCode(t, err, fleet.NotFound)
		_, err = w.plane().Assignments(t.Context(), alice, id, fleet.AssignmentFilter{}, fleet.PageRequest{})
		wantCode(t, err, fleet.NotFound)
	})
}

// waker is a held check-in that nobody wakes.
type waker struct{}

func (*waker) Wake() {}

// E07: a check-in of a machine that was shut out just before it is held gets no
// orders, not even none.
func TestHold_OfAMachineThatIsShutOutIsRefused(t *testing.T) {
	w := newWorld(t)
	w.fleetOf("web-01")
	must[fleet.Machine](t)(w.plane().SetLifecycle(t.Context(), alice, "web-01", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
	held := &waker{}
	_, err := w.plane().Hold("web-01", held)
	w.plane().EndHold("web-01", held)
	wantCode(t, err, fleet.Forbidden)
}

// A check-in of a machine that was deleted just before it is held gets no orders
// either.
func TestHold_OfAMachineThatWasDeletedIsRefused(t *testing.T) {
	w := newWorld(t)
	must[fleet.Machine](t)(w.plane().RegisterMachine(t.Context(), alice, api.MachineRequest{ID: "web-01"}))
	must[fleet.Machine](t)(w.plane().DeleteMachine(t.Context(), alice, "web-01", 0))
	held := &waker{}
	_, err := w.plane().Hold("web-01", held)
	w.plane().EndHold("web-01", held)
	wantCode(t, err, fleet.NotFound)
}

// A machine is deleted as it was seen, by whose key is for it.
func TestDeleteMachine_NeedsTheVersionThatWasSeen(t *testing.T) {
	w := newWorld(t)
	p, ctx := w.plane(), t.Context()
	seen := must[fleet.Machine](t)(p.RegisterMachine(ctx, alice, api.MachineRequest{ID: "web-01", Tags: []fleet.Tag{"web"}}))
	now := must[fleet.Machine](t)(p.SetTags(ctx, alice, "web-01", api.TagsRequest{Tags: []fleet.Tag{"web", "new"}}))
	db := access.Caller{Owner: "d", KeyID: "k3", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"db"}}
	for _, c := range []struct {
		what    string
		by      access.Caller
		id      fleet.MachineID
		version int64
		want    fleet.Code
	}{
		{"one that is not known", alice, "web-09", 0, fleet.NotFound},
		{"another team's", db, "web-01", now.Version, fleet.Forbidden},
		{"as it was before", alice, "web-01", seen.Version, fleet.Changed},
		{"as it is", alice, "web-01", now.Version, ""},
		{"once more", alice, "web-01", 0, fleet.NotFound},
	} {
		if m, err := p.DeleteMachine(ctx, c.by, c.id, c.version); fleet.ErrorCode(err) != c.want || err == nil && m.ID != c.id {
			t.Errorf("%s: %+v, %v; want %q", c.what, m, err, c.want)
		}
	}
}
