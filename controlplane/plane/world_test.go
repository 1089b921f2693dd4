// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// bubble runs a test on a clock of its own, which goes on when all wait.
func bubble(t *testing.T, test func(t *testing.T)) { synctest.Test(t, test) }

// rest lets the fake clock of a bubble go on; no real time passes.
func rest(d time.Duration) { time.Sleep(d) }

var alice = access.Caller{Owner: "alice", KeyID: "k1", Role: fleet.RoleAdmin}

// world is a control plane on a real SQLite file, with the keys to sign for
// its fleet.
type world struct {
	tb       testing.TB
	epochKey []byte
	root     trust.SecretKey
	release  trust.SecretKey
	heads    map[fleet.Line]fleet.Digest
	sequence map[fleet.Line]uint64
	renewal  health.Renewal
	kept     loop.Retention
	tag      fleet.Tag // of the entries that are signed; linux if empty

	mu     sync.Mutex
	offset time.Duration // of the control plane's clock, from the real one; guarded by mu
	path   string
	store  *store.Store
	p      *plane.Plane
	ran    chan error
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, epochKey: make([]byte, 32), heads: map[fleet.Line]fleet.Digest{}, sequence: map[fleet.Line]uint64{}}
	w.path = filepath.Join(tb.TempDir(), "a.db")
	w.root, w.release = generate(tb, "root"), generate(tb, "release")
	w.start()
	tb.Cleanup(w.stop)
	return w
}

func generate(tb testing.TB, name string) trust.SecretKey {
	tb.Helper()
	k, err := trust.Generate(rand.Reader, name)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func must[T any](tb testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func wantCode(tb testing.TB, err error, want fleet.Code) {
	tb.Helper()
	if got := fleet.ErrorCode(err); got != want {
		tb.Fatalf("error %v has code %q, want %q", err, got, want)
	}
}

func (w *world) start() {
	w.tb.Helper()
	ctx := context.Background()
	st := must[*store.Store](w.tb)(store.Open(ctx, store.Options{Path: w.path}))
	log := slog.New(slog.NewTextHandler(testLog{w.tb}, nil))
	p := must[*plane.Plane](w.tb)(plane.Open(ctx, plane.Config{Store: st, Log: log, Now: w.now, Version: "test", EpochKey: w.epochKey, Renewal: w.renewal, Retention: w.kept}))
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store, w.p, w.ran = st, p, ran
}

type testLog struct{ tb testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.tb.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (w *world) stop() {
	if w.ran == nil {
		return
	}
	if err := errors.Join(w.p.Close(), <-w.ran, w.store.Close()); err != nil {
		w.tb.Errorf("stop control plane: %v", err)
	}
	w.ran = nil
}

// restart ends the control plane between two transactions, whatever it is at,
// and starts another one on the same file. That the file survives a power cut
// is the store's test.
func (w *world) restart() {
	w.tb.Helper()
	w.stop()
	w.start()
}

// now is the control plane's time.
func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

// advance moves the control plane's clock.
func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

func (w *world) plane() *plane.Plane {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.p
}

// pin pins the root, which the first release needs.
func (w *world) pin() {
	w.tb.Helper()
	must[api.Document](w.tb)(w.plane().Documents.PutRoot(w.tb.Context(), alice, api.Document{Envelope: w.rootDocument(1, w.root)}))
}

func (w *world) rootDocument(version uint64, signers ...trust.Signer) []byte {
	w.tb.Helper()
	return w.rootWith(version, nil, signers...)
}

// rootWith is a root document with a change.
func (w *world) rootWith(version uint64, change func(*fleet.Root), signers ...trust.Signer) []byte {
	w.tb.Helper()
	root := fleet.Root{
		FleetID: "acme", Version: version, Expires: time.Now().Add(365 * 24 * time.Hour).UnixMilli(),
		Keys:  map[string]fleet.TrustKey{"r": w.root.PublicKey().Trust(), "s": w.release.PublicKey().Trust()},
		Roles: map[fleet.TrustRole]fleet.KeyQuota{},
	}
	for role, key := range map[fleet.TrustRole]string{fleet.TrustRoleRoot: "r", fleet.TrustRoleRelease: "s", fleet.TrustRoleRevoker: "r", fleet.TrustRoleTimestamp: "r", fleet.TrustRoleOperator: "r"} {
		root.Roles[role] = fleet.KeyQuota{Keys: []string{key}, Threshold: 1}
	}
	if change != nil {
		change(&root)
	}
	return w.sign(fleet.TypeRoot, must[[]byte](w.tb)(trust.NewRoot(root)), signers...)
}

func (w *world) sign(kind string, payload []byte, signers ...trust.Signer) []byte {
	w.tb.Helper()
	return must[trust.Envelope](w.tb)(trust.Sign(kind, payload, signers...)).Encode()
}

// storePath names the system of a machine in a release.
func storePath(id fleet.MachineID, n uint64) fleet.StorePath {
	return fleet.StorePath(fmt.Sprintf("%s/%032d-%s", fleet.StoreDir, n, id))
}

// newRelease signs the next release of line main for machines.
func (w *world) newRelease(machines ...fleet.MachineID) api.ReleaseRequest {
	w.tb.Helper()
	n := w.sequence["main"] + 1
	entries := make([]fleet.Entry, len(machines))
	for i, id := range machines {
		entries[i] = fleet.Entry{
			ID: id, System: "x86_64-linux", StorePath: storePath(id, n), ClosureSize: 1000,
			NarHash:       fleet.NarHash("sha256:" + strings.Repeat("0", 52)),
			ClosureDigest: fleet.SHA256([]byte(id)), Tags: []fleet.Tag{cmp.Or(w.tag, "linux")},
		}
	}
	now := time.Now()
	header := fleet.Header{
		FleetID: "acme", Line: "main", Sequence: n, PreviousDigest: w.heads["main"],
		CreatedAt: now.UnixMilli(), Expires: now.Add(90 * 24 * time.Hour).UnixMilli(),
		Policy: fleet.Policy{ConfirmWindowMs: 60_000, RevertWindowMs: 3600_000},
	}
	payload, raw, err := trust.NewRelease(header, entries)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.sequence["main"], w.heads["main"] = n, fleet.SHA256(payload)
	return api.ReleaseRequest{Envelope: w.sign(fleet.TypeRelease, payload, w.release), Entries: raw}
}

// register registers the next release of line main.
func (w *world) register(machines ...fleet.MachineID) fleet.Digest {
	w.tb.Helper()
	return must[fleet.Release](w.tb)(w.plane().CreateRelease(w.tb.Context(), alice, w.newRelease(machines...))).Digest
}

// registerTagged registers the next release of line main, whose entries have
// another tag than linux.
func (w *world) registerTagged(tag fleet.Tag, machines ...fleet.MachineID) fleet.Digest {
	w.tb.Helper()
	w.tag = tag
	defer func() { w.tag = "" }()
	return w.register(machines...)
}

// fleetOf makes active machines known.
func (w *world) fleetOf(ids ...fleet.MachineID) {
	w.tb.Helper()
	for _, id := range ids {
		must[fleet.Machine](w.tb)(w.plane().RegisterMachine(w.tb.Context(), alice, api.MachineRequest{ID: id, Lifecycle: fleet.Active}))
	}
}

// rollOut starts a rollout with short times.
func (w *world) rollOut(digest fleet.Digest, change ...func(*fleet.RolloutSpec)) fleet.RolloutID {
	w.tb.Helper()
	return must[api.RolloutDetail](w.tb)(w.plane().CreateRollout(w.tb.Context(), alice, api.RolloutRequest{Spec: spec(digest, change...)})).ID
}

func spec(digest fleet.Digest, change ...func(*fleet.RolloutSpec)) fleet.RolloutSpec {
	s := fleet.RolloutSpec{Release: digest, MinHealthyMs: 2000, HealthyDeadlineMs: 120_000}
	for _, c := range change {
		c(&s)
	}
	return s
}

func allAtOnce(s *fleet.RolloutSpec) { s.Strategy = fleet.AllAtOnce }

// until waits, in the time of the bubble, for a rollout to be in a state.
func (w *world) until(id fleet.RolloutID, state fleet.RolloutState) api.RolloutDetail {
	w.tb.Helper()
	for range 2000 {
		// An error is that of a control plane that is just stopping.
		if d, err := w.plane().Rollout(w.tb.Context(), alice, id); err == nil && d.State == state {
			return d
		}
		rest(500 * time.Millisecond)
	}
	d, _ := w.plane().Rollout(w.tb.Context(), alice, id)
	lines, _ := w.plane().Explain(w.tb.Context(), alice, id)
	w.tb.Fatalf("rollout %s is %s (%s), want %s: %+v", id, d.State, d.Why, state, lines)
	return d
}

func (w *world) assignments(id fleet.RolloutID) map[fleet.MachineID]fleet.Assignment {
	w.tb.Helper()
	page := must[api.Page[fleet.Assignment]](w.tb)(w.plane().Assignments(w.tb.Context(), alice, id, fleet.AssignmentFilter{Batch: fleet.AllBatches}, fleet.PageRequest{Limit: 1000}))
	out := map[fleet.MachineID]fleet.Assignment{}
	for _, a := range page.Items {
		out[a.Machine] = a
	}
	return out
}

// agent is a machine that does as it is told, over the plane's own methods.
type agent struct {
	w       *world
	id      fleet.MachineID
	running fleet.StorePath
	digest  fleet.Digest
	boot    fleet.StorePath
	// bad are the releases that do not get healthy on this machine.
	bad map[fleet.Digest]bool

	mu      sync.Mutex
	applied []string // rollout/attempt, in order
	seen    map[string]bool
	epoch   string
	n       int
	before  func() // is called before each call of the plane
}

// agents runs an agent for each machine until stop is called.
func (w *world) agents(ids ...fleet.MachineID) (agents map[fleet.MachineID]*agent, stop func()) {
	return w.agentsThat(func(*agent) {}, ids...)
}

// agentsThat runs agents that are made ready by a function.
func (w *world) agentsThat(are func(*agent), ids ...fleet.MachineID) (agents map[fleet.MachineID]*agent, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	agents = map[fleet.MachineID]*agent{}
	for _, id := range ids {
		a := &agent{w: w, id: id, running: storePath(id, 0), boot: storePath(id, 0), bad: map[fleet.Digest]bool{}, seen: map[string]bool{}}
		are(a)
		agents[id] = a
		wg.Go(func() { a.run(ctx) })
	}
	return agents, sync.OnceFunc(func() { cancel(); wg.Wait() })
}

func (a *agent) checkIn() api.CheckIn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return api.CheckIn{
		Machine: a.id, AgentVersion: "1", System: "x86_64-linux", Line: "main", BootID: "b", State: fleet.AgentIdle, RunsRelease: a.digest,
		Generations: fleet.Generations{Running: a.running, Booted: a.running, BootDefault: a.boot}, Epoch: a.epoch, WaitMs: api.DefaultWaitMs,
		Tags:   []fleet.Tag{"linux"},
		Checks: []fleet.HealthCheckResult{{Name: "app", Kind: fleet.HealthCheckUnit, Required: true, Status: fleet.HealthCheckPassing, At: time.Now().UnixMilli()}},
	}
}

func (a *agent) run(ctx context.Context) {
	have := ""
	for ctx.Err() == nil {
		in := a.checkIn()
		in.Have = have
		if a.before != nil {
			a.before()
		}
		o, err := a.w.plane().CheckIn(ctx, a.id, in)
		if err != nil {
			have = ""
			rest(time.Second)
			continue
		}
		have, a.epoch = o.Etag, o.Epoch
		switch {
		case o.Apply != nil:
			a.apply(ctx, *o.Apply)
		case o.Revert != nil:
			a.revert(ctx, *o.Revert)
		}
	}
}

func (a *agent) report(ctx context.Context, r fleet.Report) {
	a.n++
	r.ID, r.Machine, r.At, r.BootID = fmt.Sprintf("%06d", a.n), a.id, time.Now().UnixMilli(), "b"
	r.Generations = fleet.Generations{Running: a.running, Booted: a.running, BootDefault: a.boot}
	for delivered := 0; delivered < 2 && ctx.Err() == nil; { // each comes twice: a reply can get lost
		if a.before != nil {
			a.before()
		}
		reply, err := a.w.plane().SubmitReports(ctx, a.id, []fleet.Report{r})
		if err != nil {
			rest(time.Second)
			continue
		}
		if !slices.Equal(reply.Accepted, []string{r.ID}) {
			a.w.tb.Errorf("report %+v was not accepted: %+v", r, reply)
		}
		delivered++
	}
}

func (a *agent) apply(ctx context.Context, o fleet.Order) {
	key := fmt.Sprintf("%s/%d", o.Rollout, o.Attempt)
	if a.seen[key] {
		return // its end is reported, and on its way through the engine
	}
	a.seen[key] = true
	a.mu.Lock()
	a.applied = append(a.applied, key)
	a.mu.Unlock()
	bundle, err := a.bundle(ctx, o.Digest)
	if err != nil {
		a.w.tb.Errorf("%s: bundle of %s: %v", a.id, o.Digest, err)
		return
	}
	r := fleet.Report{Rollout: o.Rollout, Attempt: o.Attempt, Digest: o.Digest, StorePath: bundle.StorePath}
	for _, phase := range []fleet.AssignmentState{fleet.AssignFetching, fleet.AssignApplying, fleet.AssignVerifying} {
		r.Kind, r.Phase = fleet.ReportProgress, phase
		a.report(ctx, r)
	}
	r.Kind, r.Phase = fleet.ReportOutcome, ""
	rest(time.Duration(o.MinHealthyMs) * time.Millisecond)
	status := fleet.HealthCheckPassing
	if a.bad[o.Digest] {
		status, r.Outcome, r.Reason, r.Message = fleet.HealthCheckFailing, fleet.OutcomeRolledBack, fleet.ReasonCheckFailed, "unit app.service is failed"
	} else {
		a.mu.Lock()
		a.running, a.boot, a.digest = bundle.StorePath, bundle.StorePath, o.Digest
		a.mu.Unlock()
		r.Outcome, r.Confirmed = fleet.OutcomeLive, "control-plane"
	}
	r.Checks = []fleet.HealthCheckResult{{Name: "app", Kind: fleet.HealthCheckUnit, Required: true, Status: status}}
	a.report(ctx, r)
}

func (a *agent) revert(ctx context.Context, o fleet.Order) {
	key := fmt.Sprintf("revert %s/%d", o.Rollout, o.Attempt)
	if a.seen[key] {
		return
	}
	a.seen[key] = true
	was := a.running
	a.mu.Lock()
	a.running, a.boot, a.digest = storePath(a.id, 0), storePath(a.id, 0), ""
	a.mu.Unlock()
	a.report(ctx, fleet.Report{
		Kind: fleet.ReportOutcome, Rollout: o.Rollout, Attempt: o.Attempt, Digest: o.Digest, StorePath: was,
		Outcome: fleet.OutcomeReverted, Reason: fleet.ReasonRevertOrdered,
	})
}

// bundle gets what the machine is to run, and checks it as an agent would.
func (a *agent) bundle(ctx context.Context, digest fleet.Digest) (fleet.Entry, error) {
	for {
		b, err := a.w.plane().BundleFor(ctx, a.id, digest)
		if fleet.ErrorCode(err) == fleet.Internal && ctx.Err() == nil { // the store closed in the middle
			rest(time.Second)
			continue
		}
		if err != nil {
			return fleet.Entry{}, err
		}
		return openBundle(b, a.w, a.id)
	}
}

func openBundle(b []byte, w *world, id fleet.MachineID) (fleet.Entry, error) {
	var (
		h fleet.Header
		e fleet.Entry
	)
	bundle, err := trust.ParseBundle(b)
	if err != nil {
		return e, err
	}
	envelope, err := trust.ParseEnvelope(bundle.Envelope, fleet.TypeRelease)
	if err != nil {
		return e, err
	}
	err = errors.Join(
		envelope.Verify([]ed25519.PublicKey{w.release.Public()}, 1),
		trust.Decode(envelope.Payload, fleet.MaxHeaderBytes, &h),
		bundle.Proof.Verify(h.Entries.Root, bundle.Entry),
		trust.Decode(bundle.Entry, fleet.MaxEntryBytes, &e),
	)
	if err == nil && e.ID != id {
		err = fmt.Errorf("the bundle is that of %s", e.ID)
	}
	return e, err
}
