// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// size is how large the benchmark is, and which parts of it run.
type size struct {
	machines, history, large int
	idle                     time.Duration
	every                    time.Duration // a machine of the large fleet checks in so often
	only                     string        // names of parts, with commas; "" for all
	disk                     int           // bytes of a file system of its own for the state; 0: none
}

// benchLine is the last line of the output.
var benchLine []byte

// benchEnv is "machines,history,idle,large", such as 10000,1000000,15m,100000.
const benchEnv = "NIXFLEET_BENCH_PLANE"

// onlyEnv names the parts to run, such as idle,restart.
const onlyEnv = "NIXFLEET_BENCH_ONLY"

// bench is a benchmark under way.
type bench struct {
	root, t *testing.T // t is that of the part
	size
	control
	*players
	fleet      *trusttest.Fleet
	ids        []fleet.MachineID
	admin      *api.Client
	polling    bool
	sequence   uint64
	previous   fleet.Digest
	largeFleet *largeFleet
	f          figures
}

// TestPlaneBench takes the figures of `make bench-plane`. Without the environment
// it does so with a few machines, to hold that it works. A part that fails leaves its
// figures null, and the others are taken.
func TestPlaneBench(t *testing.T) {
	s := size{machines: 40, history: 1000, large: 60, every: time.Second}
	if v := os.Getenv(benchEnv); v != "" {
		s = parseSize(t, v)
		s.only = os.Getenv(onlyEnv)
	}
	began := lookAround()
	b := &bench{root: t, size: s, t: t, control: control{root: t, place: newPlace(t)}, fleet: trusttest.New(t, "acme", nil)}
	b.largeFleet = newLargeFleet(b)
	b.f.Failed = []string{}
	b.f.Machines, b.f.Fleet100k.Machines, b.f.LoadBefore = s.machines, s.large, load()
	up := b.part("setup", b.setUp)
	for _, part := range []struct {
		name string
		run  func()
	}{{"idle", b.idleCheckIns}, {"held", b.held10k}, {"rollouts", b.rollouts}, {"restart", b.restart}, {"history", b.withHistory}} {
		if !up {
			b.f.Failed = append(b.f.Failed, part.name)
		} else if s.wants(part.name) {
			b.part(part.name, part.run)
		}
	}
	endAll(&b.control, b.players)
	if s.wants("large") && b.part("release of the large fleet", b.largeFleet.register) {
		b.part("large fleet", b.largeFleet.run)
	}
	b.largeFleet.end()
	now := lookAround()
	b.f.OthersCores, b.f.Others = now.since(began)
	b.f.LoadAfter, b.f.TookS = load(), math.Round(now.began.Sub(began.began).Seconds())
	var err error
	if benchLine, err = json.Marshal(b.f); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(benchEnv) == "" && bytes.Contains(benchLine, []byte(":null")) {
		t.Errorf("a figure is missing: %s", benchLine)
	}
}

func (s size) wants(part string) bool {
	return s.only == "" || slices.Contains(strings.Split(s.only, ","), part)
}

// part takes some figures, and reports whether it could.
func (b *bench) part(name string, run func()) bool {
	ok := b.root.Run(name, func(t *testing.T) {
		b.t, b.control.t, b.largeFleet.t = t, t, t
		if b.players != nil {
			b.players.t = t
		}
		run()
	})
	if !ok {
		b.say("%s: failed", name)
		b.f.Failed = append(b.f.Failed, name)
	}
	return ok
}

func parseSize(t *testing.T, v string) (s size) {
	t.Helper()
	f := strings.Split(v, ",")
	if len(f) != 4 {
		t.Fatalf("%s=%s: want machines,history,idle,large, such as 10000,1000000,15m,100000", benchEnv, v)
	}
	s.machines, s.history, s.large = int(number(t, f[0])), int(number(t, f[1])), int(number(t, f[3]))
	var err error
	if s.idle, err = time.ParseDuration(f[2]); err != nil {
		t.Fatal(err)
	}
	s.every = time.Minute
	return s
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// setUp makes the machines known, as adopted ones are, and starts the control plane
// and the generators.
func (b *bench) setUp() {
	b.say("starting %d machines", b.machines)
	machines, err := makeMachines(b.place, "m", b.machines)
	if err == nil {
		err = enrol(b.place, machines)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range machines {
		b.ids = append(b.ids, m.ID)
	}
	if b.disk > 0 {
		moveToOwnDisk(b.t, b.place, b.disk)
	}
	b.start()
	b.admin = b.bootstrap(b.fleet)
	b.players = newPlayers(b.root, b.t, 2)
	b.connect(b.place, machines)
	b.tell("/idle", burst{b.machines / len(b.bases), 1}) // each has a connection then
}

// makeMachines makes keys and certificates of machines, which a generator needs.
func makeMachines(p place, prefix string, n int) ([]machineToPlay, error) {
	now := time.Now()
	keys, err := pki.Load(p.dir, []string{"127.0.0.1"}, now)
	if err != nil {
		return nil, err
	}
	machines := make([]machineToPlay, n)
	for i := range n {
		id := fleet.MachineID(fmt.Sprintf("%s-%05d", prefix, i))
		public, secret, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		cert, err := keys.AgentCA.Agent(pki.Request{Machine: id, Key: public}, now)
		if err != nil {
			return nil, err
		}
		machines[i] = machineToPlay{id, cert.Raw, secret, pki.KeyHash(cert)}
	}
	return machines, nil
}

// enrol writes rows of active machines, while no control plane runs.
func enrol(p place, machines []machineToPlay) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Options{Path: filepath.Join(p.dir, "nixfleet.db")})
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	return errors.Join(s.Write(ctx, func(tx *store.Tx) error {
		for _, m := range machines {
			if err := tx.AddMachine(ctx, fleet.Machine{ID: m.ID, Lifecycle: fleet.Active, CreatedAt: now, Key: m.Hash}); err != nil {
				return err
			}
		}
		return nil
	}), s.Close())
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (b *bench) idleCheckIns() {
	few := min(100, b.machines)
	rate := func(machines, calls int) float64 {
		t := b.tell("/idle", burst{machines / len(b.bases), calls})
		return float64(machines*calls) / (float64(t.Ended-t.Began) / 1e6)
	}
	each := min(100, b.machines) // a machine's budget is a burst of 200 calls
	fewRate := rate(few, each)
	allRate := rate(b.machines, 2)
	b.f.IdlePerSecond, b.f.Flatness = num(allRate), num(allRate/fewRate)
	b.say("%.0f idle check-ins/s, flatness %.2f", allRate, allRate/fewRate)
	t := b.tell("/paced", paced{min(1000, b.machines) / len(b.bases), 200 / len(b.bases), b.pacedFor()})
	b.f.P99At1000Ms = p99(t.Each)
	b.say("p99 %.1f ms at 200/s", *b.f.P99At1000Ms)
}

func (b *bench) pacedFor() time.Duration {
	if os.Getenv(benchEnv) == "" {
		return 100 * time.Millisecond
	}
	return 15 * time.Second
}

// held10k has all machines hold long polls, for as long as is asked for.
func (b *bench) held10k() {
	b.poll()
	b.f.RSS10kMiB = num(b.rested())
	b.say("%.0f MiB with all polls held", *b.f.RSS10kMiB)
	made := make(chan error, 1)
	go func() { made <- b.largeFleet.make() }() // meanwhile
	before, asked := b.written(), b.checkIns()
	rest := time.NewTimer(b.idle)
	<-rest.C
	if err := <-made; err != nil {
		b.t.Fatal(err)
	}
	n := max(1, b.checkIns()-asked)
	b.f.IdleBytes = num(float64(b.written()-before) / float64(n))
	b.f.RSS10kMiB = num(b.rss())
	b.say("%.1f bytes written for each of %d check-ins, %.0f MiB", *b.f.IdleBytes, n, *b.f.RSS10kMiB)
}

// poll has all machines hold long polls, if they do not yet.
func (b *bench) poll() {
	if !b.polling {
		b.tell("/poll", struct{}{})
		b.polling = true
	}
	b.allHeld()
}

// rested is the memory of the control plane in MiB once it no longer falls: a minute
// after a rush.
func (b *bench) rested() int64 {
	least, since := b.rss(), time.Now()
	if os.Getenv(benchEnv) == "" {
		return least
	}
	until(b.t, 5*time.Minute, time.Second, "memory no longer falls", func() bool {
		if now := b.rss(); now < least {
			least, since = now, time.Now()
		}
		return time.Since(since) > 40*time.Second
	})
	return b.rss()
}

func (b *bench) allHeld() {
	b.t.Helper()
	until(b.t, 2*time.Minute, heldEvery, "all polls are held", func() bool { return b.held() == b.machines })
}

// release registers the next release, for all machines.
func (b *bench) release() fleet.Digest {
	b.t.Helper()
	b.sequence++
	name := fmt.Sprint("release ", b.sequence)
	h := b.fleet.Header(b.sequence)
	h.PreviousDigest = b.previous
	h.CreatedAt, h.Expires = time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(24*time.Hour).UnixMilli()
	var entries []fleet.Entry
	for _, id := range b.ids {
		entries = append(entries, trusttest.Entry(id, name))
	}
	envelope, raw := b.fleet.Unchecked(h, entries, "acme-release")
	r := must(b.admin.CreateRelease(context.Background(), api.ReleaseRequest{Envelope: envelope, Entries: raw}))(b.t)
	b.tell("/release", releaseToPlay{r.Digest, name})
	b.previous = r.Digest
	return r.Digest
}

// rollout starts a rollout and returns when it was asked for.
func (b *bench) rollout(spec fleet.RolloutSpec) (fleet.RolloutID, time.Time) {
	b.t.Helper()
	spec.Release, spec.MinHealthyMs = b.release(), 1
	b.allHeld()
	begin := time.Now()
	d := must(b.admin.CreateRollout(context.Background(), api.RolloutRequest{Spec: spec}))(b.t)
	return d.ID, begin
}

// timed runs a rollout and returns how long it took.
func (b *bench) timed(what string, spec fleet.RolloutSpec) *float64 {
	b.t.Helper()
	id, begin := b.rollout(spec)
	completed(b.t, b.admin, id, 5*time.Minute)
	took := time.Since(begin).Milliseconds()
	b.say("%s: %d ms", what, took)
	return num(took)
}

var (
	all   = fleet.RolloutSpec{Strategy: fleet.AllAtOnce}
	all1k = fleet.RolloutSpec{Strategy: fleet.AllAtOnce, Select: []string{"m-00*"}}
)

func staged(spec fleet.RolloutSpec, batches int) fleet.RolloutSpec {
	spec.Strategy = fleet.Staged
	for i := range batches {
		spec.Batches = append(spec.Batches, fleet.Amount{Percent: true, N: (i + 1) * 100 / batches})
	}
	return spec
}

func (b *bench) rollouts() {
	b.poll()
	b.push()
	b.f.All1000FirstMs = b.timed("1,000 all at once", all1k)
	for range 4 {
		b.f.All1000Ms = b.timed("1,000 all at once", all1k)
	}
	b.f.Staged1000Ms = b.timed("1,000 in 10 batches", staged(all1k, 10))
	before := b.cpu()
	b.f.All10kMs = b.timed("all at once", all)
	b.f.CPUAll10kMs = num((b.cpu() - before).Milliseconds())
	b.f.Batches10kMs = b.timed("all in 10 batches", staged(all, 10))
	b.allHeld()
	b.f.RSSAfterMiB = num(b.rested())
	before = b.cpu()
	n := 0
	for page := (fleet.PageRequest{Limit: 1000}); ; {
		p := must(b.admin.Machines(context.Background(), fleet.MachineFilter{}, page))(b.t)
		n += len(p.Items)
		if page.Cursor = p.Next; page.Cursor == "" {
			break
		}
	}
	b.f.List10kCPUMs = num((b.cpu() - before).Milliseconds())
	if n != b.machines {
		b.t.Fatalf("%d machines are listed", n)
	}
	b.say("%.0f MiB after rollouts; %.0f ms of CPU for a rollout to all, %.0f to list all machines", *b.f.RSSAfterMiB, *b.f.CPUAll10kMs, *b.f.List10kCPUMs)
}

// push measures how orders come to all machines, and then what it costs that each
// says that it has carried them out.
func (b *bench) push() {
	b.tell("/manual", true)
	id, begin := b.rollout(all)
	var t times
	until(b.t, time.Minute, lookEvery, "all have their orders", func() bool {
		t = b.tell("/ordered", id)
		return len(t.Each) == b.machines
	})
	for i := range t.Each {
		t.Each[i] -= begin.UnixMicro()
	}
	b.f.PushP99Ms = p99(t.Each)
	before := b.cpu()
	t = b.tell("/finish", struct{}{})
	completed(b.t, b.admin, id, 5*time.Minute)
	b.f.CyclesPerSecond = num(float64(b.machines) / (float64(t.Ended-t.Began) / 1e6))
	b.f.CPUPer1000Cycles = num((b.cpu() - before).Seconds() * 1000 / float64(b.machines))
	b.tell("/manual", false)
	b.tell("/quiet", struct{}{})
	b.tell("/poll", struct{}{})
	b.allHeld()
	b.say("push p99 %.0f ms; %.0f cycles/s, %.2f s of CPU for 1,000", *b.f.PushP99Ms, *b.f.CyclesPerSecond, *b.f.CPUPer1000Cycles)
}

func (b *bench) restart() {
	b.poll()
	before := b.tell("/dials", struct{}{}).Sum
	took, cpu := b.stop()
	b.f.StopMs, b.f.CPUStopMs = num(took.Milliseconds()), num(cpu.Milliseconds())
	begin := time.Now()
	b.f.ReadyMs = num(b.start().Milliseconds())
	b.allHeld()
	b.f.BackMs = num(time.Since(begin).Milliseconds())
	b.f.CPUBackMs = num(b.cpu().Milliseconds())
	b.f.BackDials = num(float64(b.tell("/dials", struct{}{}).Sum-before) / float64(b.machines))
	b.say("stop %.0f ms (%.0f of CPU), ready %.0f ms, all back %.0f ms (%.0f of CPU): %.2f connections each",
		*b.f.StopMs, *b.f.CPUStopMs, *b.f.ReadyMs, *b.f.BackMs, *b.f.CPUBackMs, *b.f.BackDials)
}

// withHistory measures again on a database that has been at work for long.
func (b *bench) withHistory() {
	b.stop()
	b.say("adding %d events and audit entries", b.history)
	b.age()
	b.f.History = b.history
	b.f.ReadyHistoryMs = num(b.start().Milliseconds())
	b.poll()
	for range 5 {
		b.f.All1000HistoryMs = b.timed("1,000 all at once, with history", all1k)
	}
	before := b.cpu()
	b.f.All10kHistoryMs = b.timed("all at once, with history", all)
	b.f.CPU10kHistoryMs = num((b.cpu() - before).Milliseconds())
	b.f.Batches10kHistMs = b.timed("all in 10 batches, with history", staged(all, 10))
	b.allHeld()
	const asked = 10
	filters := []fleet.AuditFilter{
		{Actor: "key:old"}, {Action: "old.action"}, {Subject: "machine:m-00001"}, {Actor: "key:old", Action: fleet.ActionReportOutcome},
		{Since: time.Now().Add(-time.Minute).UnixMilli()},
	}
	before = b.cpu()
	for range asked {
		for _, f := range filters {
			must(b.admin.Audit(context.Background(), f, fleet.PageRequest{}))(b.t)
		}
	}
	b.f.AuditFilterCPUMs = num(float64((b.cpu() - before).Milliseconds()) / float64(asked*len(filters)))
	b.say("%.1f ms of CPU for a filter of the audit trail", *b.f.AuditFilterCPUMs)
}

func (b *bench) age() {
	ctx := context.Background()
	s := must(store.Open(ctx, store.Options{Path: filepath.Join(b.dir, "nixfleet.db")}))(b.t)
	defer func() { _ = s.Close() }()
	now := time.Now().UnixMilli()
	const part = 5000
	for n := 0; n < b.history; n += part {
		err := s.Write(ctx, func(tx *store.Tx) error {
			events, audit := make([]api.Event, 0, part), make([]fleet.AuditEvent, 0, part)
			for i := range min(part, b.history-n) {
				id := b.ids[(n+i)%len(b.ids)]
				rollout := fleet.RolloutID("old-" + strconv.Itoa((n+i)/10_000))
				events = append(events, api.Event{At: now, Assignment: &fleet.Assignment{Rollout: rollout, Machine: id, State: fleet.AssignHealthy}})
				e := fleet.AuditEvent{At: now, Actor: "machine:" + string(id), Action: fleet.ActionReportOutcome, Subject: "machine:" + string(id), Detail: map[string]string{"rollout": string(rollout)}}
				if n == 0 && i == 0 {
					e.Actor, e.Action = "key:old", "old.action"
				}
				audit = append(audit, e)
			}
			if err := tx.AddEvents(ctx, events); err != nil {
				return err
			}
			return tx.AddAudit(ctx, audit...)
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
}
