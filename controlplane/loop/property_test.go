// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	propertyMachines = 5
	minute           = int64(60_000)
)

func propertyMachine(i int) fleet.MachineID { return fleet.MachineID(fmt.Sprintf("m-%d", i)) }

func propertyPath(release int, id fleet.MachineID) fleet.StorePath {
	return fleet.StorePath(fmt.Sprintf("%s/%032d-%s", fleet.StoreDir, release, id))
}

// propertyStore makes the file that each fleet begins with: machines, and two
// releases for them.
func propertyStore(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.db")
	s, err := store.Open(t.Context(), store.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		var errs []error
		for i := range propertyMachines {
			errs = append(errs, tx.AddMachine(t.Context(), fleet.Machine{ID: propertyMachine(i), Lifecycle: fleet.Active}))
		}
		for n := range 2 {
			r := store.NewRelease{Release: fleet.Release{Digest: propertyRelease(n), Header: fleet.Header{Line: "main", Sequence: fleet.Sequence(n + 1), Expires: 1 << 50}}, Envelope: []byte("{}")}
			for _, e := range propertyEntries(n) {
				raw, failed := json.Marshal(e)
				errs = append(errs, failed)
				r.Entries, r.Raw = append(r.Entries, store.EntryKey{Machine: e.ID, StorePath: e.StorePath}), append(r.Raw, raw)
			}
			errs = append(errs, tx.AddRelease(t.Context(), r))
		}
		return errors.Join(errs...)
	})
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func propertyRelease(n int) fleet.Digest { return fleet.SHA256([]byte{byte(n)}) }

func propertyEntries(n int) (entries []fleet.Entry) {
	for i := range propertyMachines {
		id := propertyMachine(i)
		entries = append(entries, fleet.Entry{ID: id, StorePath: propertyPath(n+1, id)})
	}
	return entries
}

// rig is a loop on a real store. The test is the loop's goroutine, so that it can end
// it between any two transactions and begin another one.
type rig struct {
	t     *rapid.T
	ctx   context.Context
	store *store.Store
	l     *Loop
	wall  int64

	made  int            // rollouts and reports
	acked []fleet.Report // in the order in which they were taken in first
	fates map[fleet.RolloutID]fleet.Rollout
	was   snapshot // before the present action
}

// snapshot is what the store has, and how budgets stand.
type snapshot struct {
	rollouts map[fleet.RolloutID]*rollout.State
	claims   map[fleet.MachineID]fleet.RolloutID
	budgets  []BudgetUse
}

func (g *rig) must(err error) {
	if err != nil {
		g.t.Fatalf("%v", err)
	}
}

// open begins a loop on what the store has.
func (g *rig) open() {
	l, err := Open(g.ctx, Config{Store: g.store, Log: slog.New(slog.DiscardHandler), Clock: func() time.Time { return time.UnixMilli(g.wall) }, Version: "property"})
	g.must(err)
	g.l = l
	g.must(l.noteStart(g.ctx))
}

// pass lets time go by in which the control plane runs.
func (g *rig) pass(ms int64) {
	g.wall += ms
	g.l.running.mu.Lock()
	g.l.running.run += time.Duration(ms) * time.Millisecond
	g.l.running.mu.Unlock()
}

// settle has the loop do what is due, as Run does.
func (g *rig) settle() {
	for range 20 {
		waiting, err := g.store.WaitingReports(g.ctx, 1)
		g.must(err)
		if len(waiting) == 0 && !g.l.due() {
			return
		}
		g.must(g.l.drain(g.ctx))
	}
	g.t.Fatalf("the loop has something to do without end at one moment")
}

func (g *rig) look() snapshot {
	v := snapshot{rollouts: map[fleet.RolloutID]*rollout.State{}, budgets: g.l.Budgets(g.l.Moment())}
	g.must(g.store.Read(g.ctx, func(r store.Reader) error {
		page, err := r.Rollouts(g.ctx, fleet.RolloutFilter{}, fleet.PageRequest{Limit: 1000})
		for _, row := range page.Items {
			s, failed := ReadState(g.ctx, r, row)
			err, v.rollouts[row.ID] = errors.Join(err, failed), s
		}
		claims, failed := r.Claims(g.ctx)
		v.claims = claims
		return errors.Join(err, failed)
	}))
	return v
}

// submit puts a report into the inbox, as a request does, and notes that it was
// acknowledged.
func (g *rig) submit(r fleet.Report, again bool) {
	var added int64
	g.must(g.store.Write(g.ctx, func(tx *store.Tx) (err error) {
		added, err = tx.AddReports(g.ctx, g.wall, r)
		return err
	}))
	if (added == 1) == again {
		g.t.Fatalf("report %s of %s: added %d", r.ID, r.Machine, added)
	}
	if !again {
		g.acked = append(g.acked, r)
	}
}

// reporter is a report of a machine's present assignment.
func (g *rig) reporter(id fleet.MachineID) fleet.Report {
	g.made++
	a := g.l.Presence.Assignment(id).assignment
	old := propertyPath(0, id)
	return fleet.Report{
		ID: fmt.Sprintf("%06d", g.made), Machine: id, Rollout: a.Rollout, Attempt: a.Attempt, Digest: a.Digest, StorePath: a.StorePath, BootID: "b",
		Kind: fleet.ReportOutcome, Generations: fleet.Generations{Running: old, Booted: old, BootDefault: old},
	}
}

// reports that a machine can make of its order.
func (g *rig) live(id fleet.MachineID) fleet.Report {
	r := g.reporter(id)
	r.Outcome, r.Confirmed = fleet.OutcomeLive, "control-plane"
	r.Running, r.BootDefault = r.StorePath, r.StorePath
	return r
}

func (g *rig) left(id fleet.MachineID, o fleet.Outcome) fleet.Report {
	r := g.reporter(id)
	r.Outcome, r.Reason = o, fleet.ReasonCheckFailed
	return r
}

// machine draws a machine that is at work, or any.
func (g *rig) machine(r *rapid.T) fleet.MachineID {
	var busy []fleet.MachineID
	for id, c := range g.l.Presence.all() {
		if atWork := workOf(c.assignment); atWork != "" {
			busy = append(busy, id)
		}
	}
	if len(busy) == 0 || rapid.IntRange(0, 4).Draw(r, "any?") == 0 {
		return propertyMachine(rapid.IntRange(0, propertyMachines-1).Draw(r, "machine"))
	}
	slices.Sort(busy)
	return rapid.SampledFrom(busy).Draw(r, "at work")
}

func (g *rig) actions() map[string]func(*rapid.T) {
	report := func(of func(fleet.MachineID) fleet.Report) func(*rapid.T) {
		return func(r *rapid.T) {
			g.submit(of(g.machine(r)), false)
			if rapid.Bool().Draw(r, "at once") {
				g.settle()
			}
		}
	}
	return map[string]func(*rapid.T){
		"":       func(*rapid.T) { g.check() },
		"create": g.create, "create2": g.create,
		"live": report(g.live), "live2": report(g.live),
		"fails": report(func(id fleet.MachineID) fleet.Report { return g.left(id, fleet.OutcomeRolledBack) }),
		"reverted": report(func(id fleet.MachineID) fleet.Report {
			return g.left(id, fleet.OutcomeReverted)
		}),
		"progress": func(r *rapid.T) {
			p := g.reporter(g.machine(r))
			p.Kind, p.Phase = fleet.ReportProgress, rapid.SampledFrom([]fleet.AssignmentState{fleet.AssignFetching, fleet.AssignApplying, fleet.AssignVerifying, fleet.AssignRollingBack}).Draw(r, "phase")
			g.submit(p, false)
		},
		"repeat": g.repeat,
		"late":   g.late,
		"drain":  func(*rapid.T) { g.settle() },
		"verb":   g.command,
		"time":   func(r *rapid.T) { g.pass(rapid.SampledFrom([]int64{1, 31_000, 3 * minute, 11 * minute}).Draw(r, "ms")) },
		"clock": func(r *rapid.T) {
			g.wall += rapid.SampledFrom([]int64{-60 * minute, -1, 40_000, 90 * minute}).Draw(r, "step")
		},
		"link":    g.link,
		"life":    g.life,
		"budget":  g.budget,
		"broken":  g.broken,
		"restart": g.restart,
	}
}

// restart ends the loop, in an orderly way or not, and begins another.
func (g *rig) restart(r *rapid.T) {
	if rapid.Bool().Draw(r, "orderly") {
		g.must(g.l.Close())
	}
	g.open()
}

func (g *rig) create(r *rapid.T) {
	g.made++
	n := rapid.IntRange(0, 1).Draw(r, "release")
	s := fleet.RolloutSpec{Release: propertyRelease(n), Strategy: fleet.AllAtOnce, MinHealthyMs: 1, HealthyDeadlineMs: 10 * minute}
	if rapid.Bool().Draw(r, "staged") {
		s.Strategy, s.Batches = fleet.Staged, []fleet.Amount{{N: 1}, {N: 100, Percent: true}}
	}
	s.OnFailure = rapid.SampledFrom([]fleet.OnFailure{fleet.Pause, fleet.RevertBatch, fleet.RevertAll}).Draw(r, "onFailure")
	s.Offline = rapid.SampledFrom([]fleet.OfflinePolicy{fleet.OfflineWait, fleet.OfflineSkip, fleet.OfflineFail}).Draw(r, "offline")
	s.MaxFailures.N, s.MaxParallel = rapid.IntRange(0, 2).Draw(r, "maxFailures"), rapid.IntRange(0, 2).Draw(r, "maxParallel")
	s.OfflineAfterMs, s.SoakMs = minute, rapid.SampledFrom([]int64{0, 30_000}).Draw(r, "soak")
	s.Supersede, s.Approve = rapid.Bool().Draw(r, "supersede"), rapid.IntRange(0, 3).Draw(r, "approve") == 0
	s.After = rapid.SampledFrom([][]string{nil, nil, {"m-0"}}).Draw(r, "after")
	for i := range propertyMachines {
		if rapid.Bool().Draw(r, "in") {
			s.Select = append(s.Select, string(propertyMachine(i)))
		}
	}
	now := g.l.Moment()
	state, _, err := rollout.Build(rollout.Input{
		ID: fleet.RolloutID(fmt.Sprintf("r%05d", g.made)), Spec: s, By: "key:alice", Now: now.Wall, Run: now.Run,
		Entries: propertyEntries(n), Machines: g.l.Inventory.Machines(),
	})
	if err != nil {
		return // none of them can take part
	}
	state.Rollout.Version = 1
	claimed := map[fleet.MachineID]bool{}
	for id := range state.Assignments {
		if _, ok := g.was.claims[id]; ok {
			claimed[id] = true
		}
	}
	err = g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error { return p.Begin(ctx, &state) })
	if conflict := fleet.ErrorCode(err) == fleet.Conflict; conflict != (len(claimed) > 0 && !s.Supersede) || err != nil && !conflict {
		g.t.Fatalf("begin a rollout of %v, of which %v are in others, supersede %t: %v", s.Select, claimed, s.Supersede, err)
	}
}

func (g *rig) command(r *rapid.T) {
	ids := slices.Sorted(maps.Keys(g.was.rollouts))
	if len(ids) == 0 {
		return
	}
	c := rollout.Command{Actor: "key:bob", Verb: rapid.SampledFrom([]api.Verb{
		api.VerbPause, api.VerbResume, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbApprove, api.VerbRetry, api.VerbSkip, api.VerbRevert,
	}).Draw(r, "verb")}
	if rapid.Bool().Draw(r, "named") {
		c.Machines = []fleet.MachineID{g.machine(r)}
	}
	id := rapid.SampledFrom(ids[max(0, len(ids)-3):]).Draw(r, "rollout")
	g.must(g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error {
		s, err := p.State(ctx, id)
		if err != nil || rollout.Check(*s, c) != nil {
			return err
		}
		return p.Step(ctx, s, rollout.Event{Command: &c})
	}))
}

// repeat has reports come again that were acknowledged, in another order.
func (g *rig) repeat(r *rapid.T) {
	g.must(g.l.drain(g.ctx)) // machines that are there again
	g.settle()
	before := g.look()
	for range min(len(g.acked), 3) {
		g.submit(rapid.SampledFrom(g.acked).Draw(r, "acknowledged"), true)
	}
	g.must(g.l.drain(g.ctx))
	g.same("reports that come again", before, g.look())
}

// late has a report come that was made for an earlier order, under a name of its own.
func (g *rig) late(r *rapid.T) {
	if len(g.acked) == 0 {
		return
	}
	old := rapid.SampledFrom(g.acked).Draw(r, "earlier")
	g.made++
	old.ID = fmt.Sprintf("%06d", g.made)
	g.submit(old, false)
}

func (g *rig) link(r *rapid.T) {
	id := propertyMachine(rapid.IntRange(0, propertyMachines-1).Draw(r, "machine"))
	if _, wasOffline, _ := g.l.Inventory.CheckedIn(id, g.l.Moment(), 55_000, 0); wasOffline {
		g.l.Reconnected(id)
	}
	if rapid.Bool().Draw(r, "held") {
		g.l.Inventory.Hold(id, g.l.Moment(), 1)
	}
}

func (g *rig) life(r *rapid.T) {
	to := rapid.SampledFrom([]fleet.Lifecycle{fleet.Active, fleet.Active, fleet.Maintenance}).Draw(r, "lifecycle")
	g.setLife(propertyMachine(rapid.IntRange(0, propertyMachines-1).Draw(r, "machine")), to)
}

func (g *rig) setLife(id fleet.MachineID, to fleet.Lifecycle) {
	g.must(g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error {
		m, _ := p.Machine(id)
		m.Lifecycle = to
		if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
			return err
		}
		p.Changed(m)
		return p.LifecycleChanged(ctx, id)
	}))
}

func (g *rig) budget(r *rapid.T) {
	b := fleet.Budget{Name: rapid.SampledFrom([]string{"a", "b"}).Draw(r, "budget"), Select: []string{"m-0", "m-1", "m-2"}, Max: fleet.Amount{N: rapid.IntRange(1, 2).Draw(r, "max")}}
	g.must(g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error {
		if err := p.Tx.PutBudget(ctx, b); err != nil {
			return err
		}
		return p.SetBudgets(ctx)
	}))
}

var errBroken = errors.New("the transaction is lost")

// broken is a pass that decides, and whose transaction is then lost: nothing of it
// may be left, and what it was about is done by the next one.
func (g *rig) broken(*rapid.T) {
	err := g.l.pass(g.ctx, func(ctx context.Context, p *Pass) error {
		waiting, err := p.Tx.WaitingReports(ctx, drainLimit)
		if err != nil {
			return err
		}
		for _, w := range waiting {
			p.apply(w)
		}
		p.tickDue()
		if err = p.write(ctx); err != nil {
			return err
		}
		return errBroken
	})
	if !errors.Is(err, errBroken) {
		g.t.Fatalf("a pass that breaks ends with %v", err)
	}
	if g.l.active == nil {
		g.must(g.l.loadActive(g.ctx))
	}
	g.same("a pass that was lost", g.was, g.look())
}

// H07, H08, H09, H15, H17, H20: whatever befalls a fleet and its control plane, no
// report that was acknowledged is lost, no machine is in two rollouts, what comes again
// changes nothing, and when the trouble ends every rollout does.
func TestLoop_LosesNothingAndEndsWhateverBefallsIt(t *testing.T) {
	file := propertyStore(t)
	rapid.Check(t, func(rt *rapid.T) {
		var failed any // rapid fails by a panic, which must not leave the bubble
		synctest.Test(t, func(t *testing.T) {
			defer func() { failed = recover() }()
			g := &rig{t: rt, ctx: t.Context(), wall: 1_800_000_000_000, fates: map[fleet.RolloutID]fleet.Rollout{}}
			path := filepath.Join(t.TempDir(), "a.db")
			g.must(os.WriteFile(path, file, 0o600))
			var err error
			g.store, err = store.Open(g.ctx, store.Options{Path: path})
			g.must(err)
			defer func() { _ = g.store.Close() }()
			g.open()
			g.was = g.look()
			rt.Repeat(g.actions())
			g.obey()
		})
		if failed != nil {
			panic(failed)
		}
	})
}
