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

// figures are the benchmark's result. A figure that was not taken is left out.
type figures struct {
	Machines         int     `json:"machines"`
	IdlePerSecond    float64 `json:"idlePerSecond"`
	Flatness         float64 `json:"flatness"` // idle check-ins a second of all machines, to those of the first hundred
	P99Ms            float64 `json:"p99Ms"`    // of those check-ins, 64 at a time from each generator
	CyclesPerSecond  float64 `json:"cyclesPerSecond"`
	CPUPer1000Cycles float64 `json:"cpuPer1000Cycles"` // seconds of the server
	RSS10kMiB        int64   `json:"rss10kMiB"`
	RSSAfterMiB      int64   `json:"rssAfterRolloutMiB"`
	IdleBytes        float64 `json:"idleBytes,omitempty"` // written for a check-in
	PushP99Ms        float64 `json:"pushP99Ms"`
	All1000Ms        int64   `json:"all1000Ms"` // the fifth
	All1000FirstMs   int64   `json:"all1000FirstMs"`
	Staged1000Ms     int64   `json:"staged1000Ms"`
	All10kMs         int64   `json:"all10kMs"`
	Batches10kMs     int64   `json:"batches10kMs"`
	CPUAll10kMs      int64   `json:"cpuAll10kMs"` // of the server
	StopMs           int64   `json:"stopMs"`
	CPUStopMs        int64   `json:"cpuStopMs"` // of the server
	ReadyMs          int64   `json:"readyMs"`
	BackMs           int64   `json:"backMs"`
	CPUBackMs        int64   `json:"cpuBackMs"` // of the server, from its start on
	BackDials        float64 `json:"backDials"` // connections that a machine made to be back
	List10kCPUMs     int64   `json:"list10kCpuMs"`
	History          int     `json:"history"` // events, and audit entries, for what follows
	AuditFilterCPUMs float64 `json:"auditFilterCpuMs"`
	All1000HistoryMs int64   `json:"all1000HistoryMs"`
	All10kHistoryMs  int64   `json:"all10kHistoryMs"`
	ReadyHistoryMs   int64   `json:"readyHistoryMs"`
	LoadBefore       string  `json:"loadBefore"` // average of a minute: what shares the machine
	LoadAfter        string  `json:"loadAfter"`
}

// size is how large the benchmark is, and which parts of it run.
type size struct {
	machines, history int
	idle              time.Duration
	only              string // names of parts, with commas; "" for all
}

// benchLine is the last line of the output.
var benchLine []byte

// benchEnv is "machines,history,idle", such as 10000,1000000,15m.
const benchEnv = "NIXFLEET_BENCH_PLANE"

// onlyEnv names the parts to run, such as idle,restart.
const onlyEnv = "NIXFLEET_BENCH_ONLY"

// bench is a benchmark under way.
type bench struct {
	t *testing.T
	size
	control
	*players
	fleet    *trusttest.Fleet
	ids      []fleet.MachineID
	admin    *api.Client
	polling  bool
	sequence uint64
	previous fleet.Digest
	f        figures
}

// TestPlaneBench takes the figures of `make bench-plane`. Without the environment
// it does so with a few machines, to hold that it works.
func TestPlaneBench(t *testing.T) {
	s := size{machines: 40, history: 1000}
	if v := os.Getenv(benchEnv); v != "" {
		s = parseSize(t, v)
		s.only = os.Getenv(onlyEnv)
	}
	b := &bench{t: t, size: s, control: control{place: newPlace(t)}, fleet: trusttest.New(t, "acme", nil)}
	b.f.Machines, b.f.LoadBefore = s.machines, load()
	b.setUp()
	for _, part := range []struct {
		name string
		run  func()
	}{{"idle", b.idleCheckIns}, {"held", b.held10k}, {"rollouts", b.rollouts}, {"restart", b.restart}, {"history", b.withHistory}} {
		if s.only == "" || slices.Contains(strings.Split(s.only, ","), part.name) {
			part.run()
		}
	}
	b.f.LoadAfter = load()
	var err error
	if benchLine, err = json.Marshal(b.f); err != nil {
		t.Fatal(err)
	}
}

func parseSize(t *testing.T, v string) (s size) {
	t.Helper()
	f := strings.Split(v, ",")
	if len(f) != 3 {
		t.Fatalf("%s=%s: want machines,history,idle, such as 10000,1000000,15m", benchEnv, v)
	}
	s.machines, s.history = int(number(t, f[0])), int(number(t, f[1]))
	var err error
	if s.idle, err = time.ParseDuration(f[2]); err != nil {
		t.Fatal(err)
	}
	return s
}

// load is what shares the machine: the load average of a minute.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return string(bytes.Fields(append(b, " ?"...))[0])
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// setUp makes the machines known, as adopted ones are, and starts the control plane
// and the generators.
func (b *bench) setUp() {
	b.say("starting %d machines", b.machines)
	keys := must(pki.Load(b.dir, []string{"127.0.0.1"}, time.Now()))(b.t)
	plays := make([]fleetToPlay, 2)
	ca := must(os.ReadFile(filepath.Join(b.dir, "ca.pem")))(b.t)
	for i, m := range b.enrol(keys, "m", b.machines) {
		b.ids = append(b.ids, m.ID)
		p := &plays[i%2]
		p.Agents, p.CA = "https://"+b.agents, ca
		p.Machines = append(p.Machines, m)
	}
	b.start()
	secret, err := os.ReadFile(filepath.Join(b.dir, "bootstrap-secret"))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx := context.Background()
	key := must(b.client("").BootstrapKey(ctx, api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "bench"}))(b.t)
	b.admin = b.client(key.Secret)
	must(b.admin.PutRoot(ctx, b.fleet.RootEnvelope))(b.t)
	b.players = newPlayers(b.t, 2)
	b.all("/connect", func(i int) any { return plays[i] })
}

// enrol writes rows of active machines, while no control plane runs, and returns
// what a generator needs of them.
func (b *bench) enrol(keys *pki.Keys, prefix string, n int) []machineToPlay {
	b.t.Helper()
	now := time.Now()
	machines, rows := make([]machineToPlay, n), make([]fleet.Machine, n)
	for i := range n {
		id := fleet.MachineID(fmt.Sprintf("%s-%05d", prefix, i))
		public, secret, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			b.t.Fatal(err)
		}
		cert := must(keys.AgentCA.Agent(pki.Request{Machine: id, Key: public}, now))(b.t)
		machines[i] = machineToPlay{id, cert.Raw, secret}
		rows[i] = fleet.Machine{ID: id, Lifecycle: fleet.Active, CreatedAt: now.UnixMilli(), Key: pki.KeyHash(cert)}
	}
	ctx := context.Background()
	s := must(store.Open(ctx, store.Options{Path: filepath.Join(b.dir, "nixfleet.db")}))(b.t)
	err := s.Write(ctx, func(tx *store.Tx) error {
		for _, m := range rows {
			if err := tx.AddMachine(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err = errors.Join(err, s.Close()); err != nil {
		b.t.Fatal(err)
	}
	return machines
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
	rate := func(machines, calls int) (perSecond, p99 float64) {
		n := len(b.bases)
		t := b.tell("/idle", burst{machines / n, calls})
		slices.Sort(t.Each)
		return float64(machines*calls) / (float64(t.Ended-t.Began) / 1e6), float64(t.Each[len(t.Each)*99/100]) / 1000
	}
	each := min(100, b.machines) // a machine's budget is a burst of 200 calls
	fewRate, _ := rate(few, each)
	b.f.IdlePerSecond, b.f.P99Ms = rate(b.machines, 2)
	b.f.Flatness = b.f.IdlePerSecond / fewRate
	b.say("%.0f idle check-ins/s, flatness %.2f", b.f.IdlePerSecond, b.f.Flatness)
}

// held10k has all machines hold long polls, for as long as is asked for.
func (b *bench) held10k() {
	b.poll()
	b.f.RSS10kMiB = b.rested()
	b.say("%d MiB with all polls held", b.f.RSS10kMiB)
	if b.idle == 0 {
		return
	}
	before := b.written()
	rest := time.NewTimer(b.idle)
	<-rest.C
	checkIns := float64(b.machines) * b.idle.Seconds() / (api.DefaultWaitMs / 1000)
	b.f.IdleBytes = float64(b.written()-before) / checkIns
	b.f.RSS10kMiB = b.rss()
	b.say("%.1f bytes written a check-in, %d MiB", b.f.IdleBytes, b.f.RSS10kMiB)
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

func (b *bench) completed(id fleet.RolloutID) {
	b.t.Helper()
	var d api.RolloutDetail
	until(b.t, 5*time.Minute, lookEvery, "the rollout is completed", func() bool {
		d = must(b.admin.Rollout(context.Background(), id))(b.t)
		return d.State.Final() || d.State == fleet.RolloutPaused
	})
	if d.State != fleet.RolloutCompleted {
		b.t.Fatalf("rollout %s is %s: %s", id, d.State, d.Why)
	}
}

// timed runs a rollout and returns how long it took.
func (b *bench) timed(what string, spec fleet.RolloutSpec) int64 {
	b.t.Helper()
	id, begin := b.rollout(spec)
	b.completed(id)
	took := time.Since(begin).Milliseconds()
	b.say("%s: %d ms", what, took)
	return took
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
	b.f.CPUAll10kMs = (b.cpu() - before).Milliseconds()
	b.f.Batches10kMs = b.timed("all in 10 batches", staged(all, 10))
	b.allHeld()
	b.f.RSSAfterMiB = b.rested()
	before = b.cpu()
	n := 0
	for page := (fleet.PageRequest{Limit: 1000}); ; {
		p := must(b.admin.Machines(context.Background(), fleet.MachineFilter{}, page))(b.t)
		n += len(p.Items)
		if page.Cursor = p.Next; page.Cursor == "" {
			break
		}
	}
	b.f.List10kCPUMs = (b.cpu() - before).Milliseconds()
	if n != b.machines {
		b.t.Fatalf("%d machines are listed", n)
	}
	b.say("%d MiB after rollouts; %d ms of CPU to list all machines", b.f.RSSAfterMiB, b.f.List10kCPUMs)
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
	slices.Sort(t.Each)
	b.f.PushP99Ms = float64(t.Each[len(t.Each)*99/100]-begin.UnixMicro()) / 1000
	before := b.cpu()
	t = b.tell("/finish", struct{}{})
	b.completed(id)
	b.f.CyclesPerSecond = float64(b.machines) / (float64(t.Ended-t.Began) / 1e6)
	b.f.CPUPer1000Cycles = (b.cpu() - before).Seconds() * 1000 / float64(b.machines)
	b.tell("/manual", false)
	b.tell("/quiet", struct{}{})
	b.tell("/poll", struct{}{})
	b.allHeld()
	b.say("push p99 %.0f ms; %.0f cycles/s, %.2f s of CPU for 1,000", b.f.PushP99Ms, b.f.CyclesPerSecond, b.f.CPUPer1000Cycles)
}

func (b *bench) restart() {
	b.poll()
	before := b.tell("/dials", struct{}{}).Sum
	took, cpu := b.stop()
	b.f.StopMs, b.f.CPUStopMs = took.Milliseconds(), cpu.Milliseconds()
	begin := time.Now()
	b.f.ReadyMs = b.start().Milliseconds()
	b.allHeld()
	b.f.BackMs = time.Since(begin).Milliseconds()
	b.f.CPUBackMs = b.cpu().Milliseconds()
	b.f.BackDials = float64(b.tell("/dials", struct{}{}).Sum-before) / float64(b.machines)
	b.say("stop %d ms (%d of CPU), ready %d ms, all back %d ms (%d of CPU): %.2f connections each", b.f.StopMs, b.f.CPUStopMs, b.f.ReadyMs, b.f.BackMs, b.f.CPUBackMs, b.f.BackDials)
}

// withHistory measures again on a database that has been at work for long.
func (b *bench) withHistory() {
	b.stop()
	b.say("adding %d events and audit entries", b.history)
	b.age()
	b.f.History = b.history
	b.f.ReadyHistoryMs = b.start().Milliseconds()
	b.poll()
	for range 2 {
		b.f.All1000HistoryMs = b.timed("1,000 all at once, with history", all1k)
	}
	b.f.All10kHistoryMs = b.timed("all at once, with history", all)
	const asked = 10
	filters := []fleet.AuditFilter{
		{Actor: "key:old"}, {Action: "old.action"}, {Subject: "machine:m-00001"}, {Actor: "key:old", Action: fleet.ActionReportOutcome},
		{Since: time.Now().Add(-time.Minute).UnixMilli()},
	}
	before := b.cpu()
	for range asked {
		for _, f := range filters {
			must(b.admin.Audit(context.Background(), f, fleet.PageRequest{}))(b.t)
		}
	}
	b.f.AuditFilterCPUMs = float64((b.cpu() - before).Milliseconds()) / float64(asked*len(filters))
	b.say("%.1f ms of CPU for a filter of the audit trail", b.f.AuditFilterCPUMs)
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
