// SPDX-License-Identifier: MIT

package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// The kinds of fault.
const (
	planeKilled         = "control plane killed"
	planeKilledAtAnswer = "control plane killed between commit and answer"
	planeRestarted      = "control plane restarted"
	planeDiskFull       = "disk of the control plane full"
	planeClockStepped   = "clock of the control plane stepped"
	agentKilled         = "agent killed"
	agentKilledAtStep   = "agent killed at a step"
	powerCut            = "power cut"
	generationLost      = "boot loses a generation"
	partitioned         = "partition"
	partitionedSilently = "silent partition"
	answerLost          = "answer lost"
	messagesLate        = "messages late"
	reportsRepeated     = "reports repeated"
	reportsReordered    = "reports out of order"
	checkInRepeated     = "check-in repeated"
	outcomeLate         = "outcome comes after a retry"
	agentClockStepped   = "clock of a machine stepped"
	hostSlow            = "slow host"
	diskFull            = "disk of a machine full"
	operatorsRace       = "operators race"
	maintenance         = "machine in maintenance"
	decommissioned      = "machine decommissioned"
	brokenSystem        = "broken system"
	frozen              = "fleet frozen"
)

// fault is something that befalls the fleet.
type fault struct {
	at      time.Duration
	kind    string
	machine int
	long    time.Duration
	n       int
	seed    uint64
}

func (f fault) String() string {
	return fmt.Sprintf("%8s  %s: machine %d, %s, %d", f.at, f.kind, f.machine+1, f.long, f.n)
}

// befall is what the kinds do. It reports whether there was something to do it to.
// Those that are counted elsewhere, when they come about, return false.
var befall = map[string]func(*world, fault, *rand.Rand) bool{
	planeKilled: func(w *world, f fault, _ *rand.Rand) bool {
		up := w.plane.store != nil
		w.plane.crash(f.long)
		return up
	},
	planeRestarted: func(w *world, f fault, _ *rand.Rand) bool {
		up := w.plane.store != nil
		w.plane.restart(f.long)
		return up
	},
	planeKilledAtAnswer: func(w *world, f fault, _ *rand.Rand) bool {
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		w.net.atAnswer = func() { w.crashNow = f.long }
		return false
	},
	planeDiskFull: func(w *world, f fault, _ *rand.Rand) bool { return w.plane.fillDisk(20*time.Second + f.long/2) },
	planeClockStepped: func(w *world, f fault, _ *rand.Rand) bool {
		return w.plane.setClock(time.Duration(f.n-5) * 11 * time.Minute)
	},
	agentKilled: func(w *world, f fault, _ *rand.Rand) bool {
		m := w.machines[f.machine]
		m.mu.Lock()
		p := m.process
		m.mu.Unlock()
		if p == nil {
			return false
		}
		p.kill()
		return true
	},
	agentKilledAtStep: func(w *world, f fault, _ *rand.Rand) bool {
		m := w.machines[f.machine]
		m.mu.Lock()
		defer m.mu.Unlock()
		m.killIn = 1 + f.n
		return false
	},
	powerCut:            func(w *world, f fault, r *rand.Rand) bool { return w.cutPower(f, r, false) },
	generationLost:      func(w *world, f fault, r *rand.Rand) bool { return w.cutPower(f, r, true) },
	partitioned:         func(w *world, f fault, _ *rand.Rand) bool { return w.cutOff(f, refusing) },
	partitionedSilently: func(w *world, f fault, _ *rand.Rand) bool { return w.cutOff(f, silent) },
	answerLost: func(w *world, f fault, r *rand.Rand) bool {
		at := w.machines[f.machine].at
		if r.IntN(4) == 0 {
			at = w.admin.at
		}
		at.set(func(p *place) { p.lose += 1 + f.n%2 })
		return false
	},
	messagesLate: func(w *world, f fault, _ *rand.Rand) bool {
		at := w.machines[f.machine].at
		at.set(func(p *place) { p.delay = time.Duration(1+f.n) * 300 * time.Millisecond })
		w.later(f.long, func() { at.set(func(p *place) { p.delay = 0 }) })
		return true
	},
	reportsRepeated:  func(w *world, f fault, r *rand.Rand) bool { return w.repeatSome(f, r, 0) },
	reportsReordered: func(w *world, f fault, r *rand.Rand) bool { return w.repeatSome(f, r, f.long) },
	outcomeLate: func(w *world, f fault, _ *rand.Rand) bool {
		w.loose.Go(func() { w.lateOutcome(w.machines[f.machine]) })
		return false
	},
	checkInRepeated: func(w *world, f fault, _ *rand.Rand) bool { return w.repeatCheckIn(f) },
	agentClockStepped: func(w *world, f fault, _ *rand.Rand) bool {
		m := w.machines[f.machine]
		m.mu.Lock()
		defer m.mu.Unlock()
		m.clock += []time.Duration{-24 * time.Hour, -time.Hour, -3 * time.Minute, -2 * time.Second, time.Second, 90 * time.Second, 20 * time.Minute, 5 * time.Hour, 24 * time.Hour, 72 * time.Hour}[f.n]
		m.stepped = true
		return true
	},
	hostSlow: func(w *world, f fault, _ *rand.Rand) bool {
		m := w.machines[f.machine]
		slow := func(d time.Duration) { m.mu.Lock(); m.slow = d; m.mu.Unlock() }
		slow(time.Duration(1+f.n) * time.Second)
		w.later(f.long, func() { slow(0) })
		return true
	},
	diskFull: func(w *world, f fault, _ *rand.Rand) bool {
		m := w.machines[f.machine]
		m.mu.Lock()
		defer m.mu.Unlock()
		m.fullUntil = time.Now().Add(f.long / 3)
		return true
	},
	operatorsRace: func(w *world, f fault, r *rand.Rand) bool {
		for i, o := range []*operator{w.admin, w.second} {
			own := rand.New(rand.NewPCG(f.seed, uint64(i)))
			w.loose.Go(func() { // at the same moment
				if f.n < 3 {
					o.rollOut(own)
				} else {
					o.order(own)
				}
			})
		}
		return true
	},
	maintenance: func(w *world, f fault, _ *rand.Rand) bool {
		id := w.machines[f.machine].id
		if w.ledger.isGone(id) {
			return false
		}
		w.loose.Go(func() {
			if w.admin.lifecycle(id, fleet.Maintenance) {
				w.count(maintenance)
			}
			time.Sleep(f.long)
			if !w.ledger.isGone(id) {
				w.admin.lifecycle(id, fleet.Active)
			}
		})
		return false
	},
	frozen: func(w *world, f fault, r *rand.Rand) bool {
		w.loose.Go(func() { w.admin.freeze(f.long, r) })
		return false
	},
	decommissioned: func(w *world, f fault, _ *rand.Rand) bool {
		if f.n > 2 || len(w.ledger.gone) > 0 {
			return false
		}
		id := w.machines[f.machine].id
		w.ledger.mu.Lock()
		w.ledger.gone[id] = true // whatever is answered
		w.ledger.mu.Unlock()
		w.loose.Go(func() {
			for !w.admin.lifecycle(id, fleet.Decommissioned) {
				time.Sleep(20 * time.Second)
			}
			w.count(decommissioned)
		})
		return false
	},
}

// draw draws what will befall a fleet of so many machines.
func draw(seed uint64, machines int) (faults []fault, rollouts, orders []time.Duration) {
	r := rand.New(rand.NewPCG(seed, 2))
	kinds := make([]string, 0, len(befall))
	for k := range befall {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	within := func() time.Duration { return time.Duration(r.IntN(600_000)) * time.Millisecond }
	for range 24 + r.IntN(16) {
		faults = append(faults, fault{
			at: within(), kind: kinds[r.IntN(len(kinds))], machine: r.IntN(machines),
			long: time.Duration(1000+r.IntN(r.IntN(100_000)+10_000)) * time.Millisecond, n: r.IntN(10), seed: r.Uint64(),
		})
	}
	slices.SortFunc(faults, func(a, b fault) int { return int(a.at - b.at) })
	for range 2 + r.IntN(4) {
		rollouts = append(rollouts, within())
	}
	rollouts = append(rollouts, time.Second)
	for range 3 + r.IntN(6) {
		orders = append(orders, within())
	}
	return faults, rollouts, orders
}

// trouble lets it befall the fleet.
func (w *world) trouble() {
	faults, rollouts, orders := draw(w.seed, len(w.machines))
	begin := time.Now()
	for i, at := range rollouts {
		r := rand.New(rand.NewPCG(w.seed, uint64(1000+i)))
		w.later(at, func() { w.admin.rollOut(r); w.admin.checkpoint() })
	}
	for i, at := range orders {
		r := rand.New(rand.NewPCG(w.seed, uint64(2000+i)))
		o := []*operator{w.admin, w.second}[i%2]
		w.later(at, func() { o.order(r); o.checkpoint() })
	}
	for _, f := range faults {
		w.sleep(f.at - time.Since(begin))
		happened := befall[f.kind](w, f, rand.New(rand.NewPCG(f.seed, 0)))
		w.note("fault: %s", f)
		if happened {
			w.count(f.kind)
		}
		w.crashDue()
	}
	w.sleep(max(time.Second, 10*time.Minute-time.Since(begin)))
}

// crashDue carries out a crash that an answer has set off.
func (w *world) crashDue() {
	w.net.mu.Lock()
	d := w.crashNow
	w.crashNow = 0
	w.net.mu.Unlock()
	if d > 0 && w.plane.store != nil {
		w.plane.crash(d)
		w.note("the control plane was killed between commit and answer")
		w.count(planeKilledAtAnswer)
	}
}

// later calls f after d.
func (w *world) later(d time.Duration, f func()) {
	w.loose.Go(func() {
		time.Sleep(d)
		f()
	})
}

func (w *world) cutPower(f fault, r *rand.Rand, old bool) bool {
	m := w.machines[f.machine]
	m.mu.Lock()
	on := m.on
	m.mu.Unlock()
	if !on {
		return false
	}
	m.unsynced = append(m.unsynced, w.ledger.some(m.id, r.IntN(4), r)...)
	m.powerOff(f.long, old)
	return true
}

// revive puts back files of the queue whose removal had not reached the disk.
func (m *machine) revive() {
	files, err := filepath.Glob(filepath.Join(m.files().Outbox(), "[0-9]*.json"))
	m.w.must(err)
	have := map[string]bool{}
	first := 1000
	for _, f := range files {
		var r fleet.Report
		b, err := os.ReadFile(f)
		m.w.must(err)
		m.w.must(json.Unmarshal(b, &r))
		have[r.ID] = true
		n := 0
		_, err = fmt.Sscanf(filepath.Base(f), "%016d.json", &n)
		m.w.must(err)
		first = min(first, n)
	}
	for _, r := range m.unsynced {
		if first--; first >= 0 && !have[r.ID] {
			have[r.ID] = true
			b, err := json.Marshal(r)
			m.w.must(err)
			m.w.must(os.MkdirAll(m.files().Outbox(), 0o700))
			m.w.must(os.WriteFile(filepath.Join(m.files().Outbox(), fmt.Sprintf("%016d.json", first)), b, 0o600))
		}
	}
	m.unsynced = nil
}

func (w *world) cutOff(f fault, c cut) bool {
	at := w.machines[f.machine].at
	at.setCut(c)
	w.later(f.long, func() { at.setCut(connected) })
	return true
}
