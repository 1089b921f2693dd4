// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
)

// benchFleet is how many machines are connected in benchmarks.
const benchFleet = 1000

// connectedFleet gives each machine a certificate and a connection.
func (w *world) connectedFleet(n int) ([]*api.AgentClient, []api.CheckIn) {
	w.tb.Helper()
	clients, says := make([]*api.AgentClient, n), make([]api.CheckIn, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name := fleet.MachineID(fmt.Sprintf("m-%04d", i))
			key := newKey(w.tb)
			req, err := pki.ParseRequest(csr(w.tb, name, key))
			if err != nil {
				w.tb.Error(err)
				return
			}
			cert, err := w.keys.AgentCA.Agent(req, w.now())
			if err != nil {
				w.tb.Error(err)
				return
			}
			clients[i], says[i] = w.machine(cert.Raw, key), checkIn(name)
			if _, err := clients[i].CheckIn(w.ctx(), says[i]); err != nil {
				w.tb.Error(err)
			}
		})
	}
	wg.Wait()
	if w.tb.Failed() {
		w.tb.FailNow()
	}
	return clients, says
}

// BenchmarkCheckIn is the time of a check-in over real TLS and a real store
// while 1,000 machines are connected: the promise is a 99th percentile under
// 5 ms. They come evenly, 200 a second, which is six times what 1,000 machines
// with a poll of 30 s make.
func BenchmarkCheckIn(b *testing.B) {
	w := newWorld(b)
	clients, says := w.connectedFleet(benchFleet)
	for _, bench := range []struct {
		name   string
		change bool
	}{{"nothing-new", false}, {"new-state", true}} {
		b.Run(bench.name, func(b *testing.B) {
			took := make([]time.Duration, b.N)
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			var wg sync.WaitGroup
			b.ResetTimer()
			for n := range b.N {
				<-pace.C
				wg.Go(func() {
					i := rand.N(len(clients))
					ci := says[i]
					if bench.change {
						ci.Waiting = fmt.Sprint("round ", n)
					}
					began := time.Now()
					if _, err := clients[i].CheckIn(w.ctx(), ci); err != nil {
						b.Error(err)
					}
					took[n] = time.Since(began)
				})
			}
			wg.Wait()
			slices.Sort(took)
			for _, p := range []int{50, 99} {
				b.ReportMetric(float64(took[(len(took)-1)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
			}
		})
	}
}

// BenchmarkWake is how long after the creation of a rollout for 1,000 machines
// the last one of their long polls has its orders.
func BenchmarkWake(b *testing.B) {
	w := newWorld(b)
	admin := w.admin()
	if _, err := admin.PutRoot(w.ctx(), w.fleet.RootEnvelope); err != nil {
		b.Fatal(err)
	}
	clients, says := w.connectedFleet(benchFleet)
	var names []fleet.MachineID
	for _, ci := range says {
		names = append(names, ci.Machine)
		must[fleet.Machine](b)(admin.AdoptMachine(w.ctx(), ci.Machine))
	}
	var previous fleet.Digest
	var worst time.Duration
	for n := range b.N {
		rel := w.release(admin, uint64(n+1), previous, names...)
		previous = rel.Digest
		var wg sync.WaitGroup
		woken := make([]time.Time, len(clients))
		for i, c := range clients {
			o := must[api.Orders](b)(c.CheckIn(w.ctx(), says[i]))
			ci := says[i]
			ci.Have, ci.WaitMs = o.Etag, 60_000
			wg.Go(func() {
				o, err := c.CheckIn(w.ctx(), ci)
				if err != nil || o.Apply == nil {
					b.Errorf("%s: woken with %+v, %v", ci.Machine, o, err)
				}
				woken[i] = time.Now()
			})
		}
		w.eventually("all long polls are held", func() bool { return w.metric("nixfleet_long_polls") == benchFleet })
		d := must[api.RolloutDetail](b)(admin.CreateRollout(w.ctx(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: rel.Digest, Strategy: fleet.AllAtOnce}}))
		created := time.Now()
		wg.Wait()
		for _, at := range woken {
			worst = max(worst, at.Sub(created))
		}
		must[api.RolloutDetail](b)(admin.RolloutVerb(w.ctx(), d.ID, api.VerbCancel, api.VerbRequest{}))
	}
	b.ReportMetric(float64(worst.Milliseconds()), "worst-ms")
}
