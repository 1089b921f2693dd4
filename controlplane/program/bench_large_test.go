// SPDX-License-Identifier: AGPL-3.0-only

//go:build linux

package program_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// largeFleet is one whose machines hold no connection: each checks in now and then,
// over a new one. It has a control plane of its own.
type largeFleet struct {
	control
	of       *bench
	make     func() error // makes the machines' keys, once
	machines []machineToPlay
	fleet    *trusttest.Fleet
	players  *players
	admin    *api.Client
	release  releaseToPlay
}

// mostOpen is how many connections the machines have open at a time.
const mostOpen = 8000

func newLargeFleet(b *bench) *largeFleet {
	l := &largeFleet{of: b, control: control{root: b.root, place: newPlace(b.root)}, fleet: trusttest.New(b.root, "large", nil)}
	l.make = sync.OnceValue(func() (err error) {
		l.machines, err = makeMachines(l.place, "l", b.large)
		return err
	})
	return l
}

// register measures what it takes to register a release for all, on a control plane
// that has nothing else.
func (l *largeFleet) register() {
	l.of.say("a fleet of %d machines", l.of.large)
	if err := l.make(); err != nil {
		l.t.Fatal(err)
	}
	l.start()
	l.admin = l.bootstrap(l.fleet)
	h := l.fleet.Header(1)
	h.CreatedAt, h.Expires = time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(24*time.Hour).UnixMilli()
	entries := make([]fleet.Entry, len(l.machines))
	for i, m := range l.machines {
		entries[i] = trusttest.Entry(m.ID, "release")
	}
	envelope, raw := l.fleet.Unchecked(h, entries, "large-release")
	begin := time.Now()
	r := must(l.admin.CreateRelease(context.Background(), api.ReleaseRequest{Envelope: envelope, Entries: raw}))(l.t)
	l.release = releaseToPlay{r.Digest, "release"}
	l.of.f.Release100kMiB = num(l.memory("VmHWM:") / 1024)
	l.of.say("a release of %d hosts: %.0f MiB, %d ms", len(raw), *l.of.f.Release100kMiB, time.Since(begin).Milliseconds())
	l.stop()
}

func (l *largeFleet) run() {
	f := &l.of.f.Fleet100k
	if err := enrol(l.place, l.machines); err != nil {
		l.t.Fatal(err)
	}
	l.start()
	l.players = newPlayers(l.root, l.t, 2)
	l.players.connect(l.place, l.machines)
	l.machines = nil
	l.players.tell("/release", l.release)
	l.players.tell("/come", visits{l.of.every, mostOpen / 2})
	begin := time.Now()
	until(l.t, 10*time.Minute, time.Second, "all have been here", func() bool { return l.players.tell("/seen", struct{}{}).Sum == int64(l.of.large) })
	l.of.say("all machines have a session, after %.0f s", time.Since(begin).Seconds())

	l.players.tell("/visits", struct{}{})
	before, rest := l.cpu(), time.NewTimer(l.of.every)
	<-rest.C
	spent, t := (l.cpu() - before).Seconds(), l.players.tell("/visits", struct{}{})
	if len(t.Each) == 0 {
		l.t.Fatal("no machine came")
	}
	n := float64(len(t.Each))
	f.P99Ms, f.PerSecond, f.Cores = p99(t.Each), num(n/l.of.every.Seconds()), num(spent/l.of.every.Seconds())
	f.Resumed, f.RSSMiB = num(float64(t.Sum)/n), num(l.rss())
	l.of.say("p99 %.1f ms of %.0f check-ins/s, %.2f cores, %.3f resumed, %.0f MiB", *f.P99Ms, *f.PerSecond, *f.Cores, *f.Resumed, *f.RSSMiB)

	before, begin = l.cpu(), time.Now()
	d := must(l.admin.CreateRollout(context.Background(), api.RolloutRequest{
		Spec: fleet.RolloutSpec{Strategy: fleet.AllAtOnce, Release: l.release.Digest, MinHealthyMs: 1},
	}))(l.t)
	completed(l.t, l.admin, d.ID, 10*time.Minute)
	f.AllAtOnceS, f.CPUAllS = num(time.Since(begin).Seconds()), num((l.cpu() - before).Seconds())
	l.of.say("all at once: %.1f s, %.1f of CPU", *f.AllAtOnceS, *f.CPUAllS)
}

func (l *largeFleet) end() {
	endAll(&l.control, l.players)
}

// endAll ends what has been started, at once.
func endAll(c *control, p *players) {
	if c.p != nil {
		kill(c.p)
	}
	if p != nil {
		for _, process := range p.processes {
			kill(process)
		}
	}
}

// bootstrap returns a client of the first administrator, and pins a fleet's root.
func (c *control) bootstrap(f *trusttest.Fleet) *api.Client {
	c.t.Helper()
	secret, err := os.ReadFile(c.dir + "/bootstrap-secret")
	if err != nil {
		c.t.Fatal(err)
	}
	ctx := context.Background()
	key := must(c.client("").BootstrapKey(ctx, api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "bench"}))(c.t)
	admin := c.client(key.Secret)
	must(admin.PutRoot(ctx, f.RootEnvelope))(c.t)
	return admin
}

// completed waits for a rollout to be.
func completed(t *testing.T, admin *api.Client, id fleet.RolloutID, limit time.Duration) {
	t.Helper()
	var d api.RolloutDetail
	until(t, limit, lookEvery, "the rollout is completed", func() bool {
		d = must(admin.Rollout(context.Background(), id))(t)
		return d.State.Final() || d.State == fleet.RolloutPaused
	})
	if d.State != fleet.RolloutCompleted {
		t.Fatalf("rollout %s is %s: %s", id, d.State, d.Why)
	}
}
