// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// E07: whoever is shut out, or says nothing that counts, writes nothing, also where
// a request has come past the listeners.
func TestAgents_ThatAreShutOutWriteNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := t.Context()
		w.fleetOf("web-01", "web-02")
		in := quiet(w, "web-02").checkIn()
		in.WaitMs = 0
		o := must[api.Orders](t)(w.plane().CheckIn(ctx, "web-02", in))
		must[fleet.Machine](t)(w.plane().SetLifecycle(ctx, alice, "web-01", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		before := must[fleet.Machine](t)(w.plane().Machine(ctx, alice, "web-01"))

		gone := quiet(w, "web-01").checkIn()
		gone.WaitMs, gone.BootID = 0, "boot-of-a-thief"
		_, err := w.plane().CheckIn(ctx, "web-01", gone)
		wantCode(t, err, fleet.Forbidden)
		_, err = w.plane().SubmitReports(ctx, "web-01", []fleet.Report{{ID: "1", Machine: "web-01", Kind: fleet.ReportRefusal, Reason: fleet.ReasonBadSignature}})
		wantCode(t, err, fleet.Forbidden)
		if d := cmp.Diff(before, must[fleet.Machine](t)(w.plane().Machine(ctx, alice, "web-01"))); d != "" || w.reports("web-01") != 0 {
			t.Errorf("the machine changed (-before +after):\n%s", d)
		}

		bad := gone
		bad.Machine = "../web"
		_, err = w.plane().CheckIn(ctx, bad.Machine, bad)
		wantCode(t, err, fleet.Forbidden)
		_, err = w.plane().SubmitReports(ctx, "web-02", make([]fleet.Report, plane.MaxReports+1))
		wantCode(t, err, fleet.TooLarge)

		// One that is held when it is shut out gets no orders.
		in.Have, in.WaitMs = o.Etag, 50_000
		held := make(chan error, 1)
		go func() {
			_, err := w.plane().CheckIn(ctx, "web-02", in)
			held <- err
		}()
		rest(time.Second)
		must[fleet.Machine](t)(w.plane().SetLifecycle(ctx, alice, "web-02", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
		wantCode(t, <-held, fleet.Forbidden)
	})
}

// A check-in that could not be noted is not answered as if it were; nor is one by a
// control plane that is stopping.
func TestCheckIn_ThatIsNotDurableGetsNoOrders(t *testing.T) {
	w := newWorld(t)
	w.fleetOf("web-01")
	in := quiet(w, "web-01").checkIn()
	in.WaitMs = 0
	o := must[api.Orders](t)(w.plane().CheckIn(t.Context(), "web-01", in))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	changed := in
	changed.BootID = "boot-9"
	if _, err := w.plane().CheckIn(ended, "web-01", changed); err == nil {
		t.Error("a change that was not written got orders")
	}
	w.restart() // it does not remember what it has handed out
	in.Epoch = o.Epoch
	if _, err := w.plane().CheckIn(ended, "web-01", in); err == nil {
		t.Error("an epoch that was not compared got orders")
	}
	if err := w.plane().Close(); err != nil {
		t.Fatal(err)
	}
	in.Epoch = ""
	_, err := w.plane().CheckIn(t.Context(), "web-01", in)
	wantCode(t, err, fleet.Unavailable)
}

// What operators may not ask for is refused by its code and changes nothing.
func TestMachines_RefuseWhatIsInvalid(t *testing.T) {
	w := newWorld(t)
	p, ctx := w.plane(), t.Context()
	w.fleetOf("web-01")
	must[fleet.Machine](t)(p.RegisterMachine(ctx, alice, api.MachineRequest{ID: "web-02"}))
	must[fleet.Machine](t)(p.RegisterMachine(ctx, alice, api.MachineRequest{ID: "web-03", Lifecycle: fleet.Active, Tags: []fleet.Tag{"web"}}))
	must[fleet.Machine](t)(p.SetLifecycle(ctx, alice, "web-03", api.LifecycleRequest{Lifecycle: fleet.Decommissioned}))
	web := access.Caller{Owner: "w", KeyID: "k2", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"web"}}
	register := func(in api.MachineRequest, c access.Caller) error {
		_, err := p.RegisterMachine(ctx, c, in)
		return err
	}
	tags := func(id fleet.MachineID, in api.TagsRequest, c access.Caller) error {
		_, err := p.SetTags(ctx, c, id, in)
		return err
	}
	came := quiet(w, "web-01").checkIn()
	came.WaitMs = 0
	must[api.Orders](t)(p.CheckIn(ctx, "web-01", came))
	state := func() (all []fleet.Machine, audit int64) {
		page := must[api.Page[fleet.Machine]](t)(p.Machines(ctx, alice, fleet.MachineFilter{}, fleet.PageRequest{}))
		return page.Items, must[fleet.AuditHead](t)(p.History.AuditHead(ctx)).Size
	}
	machines, audit := state()
	for _, c := range []struct {
		what string
		want fleet.Code
		err  error
	}{
		{"a name that is none", fleet.Invalid, register(api.MachineRequest{ID: "Web_01"}, alice)},
		{"a lifecycle that is none", fleet.Invalid, register(api.MachineRequest{ID: "web-04", Lifecycle: "root"}, alice)},
		{"a tag that is none", fleet.Invalid, register(api.MachineRequest{ID: "web-04", Tags: []fleet.Tag{"no tag!"}}, alice)},
		{"another team's", fleet.Forbidden, register(api.MachineRequest{ID: "web-04", Tags: []fleet.Tag{"db"}}, web)},
		{"one that is known", fleet.Conflict, register(api.MachineRequest{ID: "web-01"}, alice)},
		{"tags of one that is not known", fleet.NotFound, tags("web-09", api.TagsRequest{Tags: []fleet.Tag{"a"}}, alice)},
		{"invalid tags", fleet.Invalid, tags("web-01", api.TagsRequest{Tags: []fleet.Tag{"no tag!"}}, alice)},
		{"tags of an older row", fleet.Changed, tags("web-01", api.TagsRequest{Tags: []fleet.Tag{"a"}, IfVersion: 99}, alice)},
		{"another team's tags", fleet.Forbidden, tags("web-01", api.TagsRequest{Tags: []fleet.Tag{"web"}}, web)},
		{"tags that give it away", fleet.Forbidden, tags("web-03", api.TagsRequest{Tags: []fleet.Tag{"db"}}, web)},
		{"a move that there is not", fleet.Conflict, func() error {
			_, err := p.SetLifecycle(ctx, alice, "web-03", api.LifecycleRequest{Lifecycle: fleet.Maintenance})
			return err
		}()},
		{"adopting one that is active", fleet.Conflict, func() error { _, err := p.AdoptMachine(ctx, alice, "web-01"); return err }()},
		{"adopting one that never came", fleet.Conflict, func() error { _, err := p.AdoptMachine(ctx, alice, "web-02"); return err }()},
		{"a page that is none", fleet.Invalid, func() error {
			_, err := p.Machines(ctx, alice, fleet.MachineFilter{}, fleet.PageRequest{Cursor: "*"})
			return err
		}()},
		{"another team's reports", fleet.Forbidden, func() error { _, err := p.MachineReports(ctx, web, "web-01", fleet.PageRequest{}); return err }()},
	} {
		if got := fleet.ErrorCode(c.err); c.err == nil || got != c.want {
			t.Errorf("%s: got %v (%s), want %s", c.what, c.err, got, c.want)
		}
	}
	after, size := state()
	if d := cmp.Diff(machines, after); d != "" || size != audit {
		t.Errorf("%d audit entries more, machines (-before +after):\n%s", size-audit, d)
	}
}

// E03: a release takes the next place of its line, and no other.
func TestCreateRelease_TakesTheNextPlaceOnly(t *testing.T) {
	w := newWorld(t)
	w.pin()
	w.register("web-01")
	second := w.register("web-01")
	head := w.register("web-01")
	must[fleet.Release](t)(w.plane().DeleteRelease(t.Context(), alice, second))
	for name, sequence := range map[string]uint64{"a place that is free again, after the newest": 2, "beyond what the database counts": math.MaxInt64 + 1} {
		w.sequence["main"], w.heads["main"] = sequence-1, head
		if _, err := w.plane().CreateRelease(t.Context(), alice, w.newRelease("web-01", "web-02")); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
	page := must[api.Page[fleet.Release]](t)(w.plane().Releases(t.Context(), alice, fleet.ReleaseFilter{}, fleet.PageRequest{}))
	if len(page.Items) != 2 {
		t.Errorf("%d releases, want 2", len(page.Items))
	}
	_, err := w.plane().BundleFor(t.Context(), "web-02", head)
	wantCode(t, err, fleet.NotFound)
}

// A rollout is not begun with what agents would refuse, and not changed by what is no
// verb, or by whom it does not concern.
func TestRollouts_RefuseWhatIsInvalid(t *testing.T) {
	w := newWorld(t)
	w.pin()
	w.fleetOf("web-01")
	digest := w.register("web-01")
	id := w.rollOut(digest)
	p, ctx := w.plane(), t.Context()
	db := access.Caller{Owner: "d", KeyID: "k3", Role: fleet.RoleAdmin, Tags: []fleet.Tag{"db"}}
	_, err := p.RolloutVerb(ctx, alice, id, "explode", api.VerbRequest{})
	if wantCode(t, err, fleet.Invalid); !strings.Contains(err.Error(), "verb") {
		t.Errorf("got %v", err)
	}
	_, err = p.CreateRollout(ctx, alice, api.RolloutRequest{DryRun: true, Spec: spec(digest, func(s *fleet.RolloutSpec) { s.Select = []string{"nobody-*"} })})
	wantCode(t, err, fleet.Invalid)
	_, err = p.Assignments(ctx, db, id, fleet.AssignmentFilter{}, fleet.PageRequest{})
	wantCode(t, err, fleet.Forbidden)
	must[api.RolloutDetail](t)(p.RolloutVerb(ctx, alice, id, api.VerbCancel, api.VerbRequest{}))
	w.advance(91 * 24 * time.Hour)
	_, err = p.CreateRollout(ctx, alice, api.RolloutRequest{Spec: spec(digest)})
	wantCode(t, err, fleet.Refused)
	_, err = p.CreateRollout(ctx, alice, api.RolloutRequest{DryRun: true, Spec: spec(digest)})
	wantCode(t, err, fleet.Refused)
}

// E12: without the secret of the epochs, or with a root in the database that is
// none, a control plane does not start.
func TestOpen_RefusesWhatItCannotStandOn(t *testing.T) {
	st := must[*store.Store](t)(store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "a.db")}))
	defer st.Close()
	open := func(key []byte) error {
		p, err := plane.Open(t.Context(), plane.Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: time.Now, Version: "test", EpochKey: key})
		if err == nil {
			_ = p.Close() // it never ran
		}
		return err
	}
	wantCode(t, open(make([]byte, 31)), fleet.Invalid)
	f := trusttest.New(t, "acme", nil)
	bad := store.Document{Kind: store.Root, Version: 1, Digest: fleet.SHA256([]byte("x")), Envelope: f.RootEnvelope[:len(f.RootEnvelope)/2]}
	if err := st.Write(t.Context(), func(tx *store.Tx) error { return tx.AddDocument(t.Context(), bad) }); err != nil {
		t.Fatal(err)
	}
	if err := open(make([]byte, 32)); err == nil {
		t.Error("it opens with half a root")
	}
}
