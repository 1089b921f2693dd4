// SPDX-License-Identifier: MIT

package sim

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
)

// system is what a store path does when it runs.
type system struct {
	release   fleet.Digest
	sequence  fleet.Sequence
	kernel    int  // another one needs a reboot
	agent     int  // another one takes over
	deadAgent bool // it ends at once
	sick      bool // its required check fails
	degraded  bool // a unit fails that did not before
	code      int  // of its switch
	half      bool // its switch ends before it runs
	hangs     bool // its switch does not end
	cutsOff   bool // it loses the network
}

// good reports whether nothing is wrong with the system, and runs whether nothing is
// once it was booted.
func (s system) good() bool { return s.runs() && s.code == 0 && !s.hangs }
func (s system) runs() bool { return !s.deadAgent && !s.sick && !s.cutsOff }

// unit is a switch under way, which goes on without the agent.
type unit struct {
	done chan struct{}
	stop chan struct{} // closed to kill it
	once sync.Once
	code int // -1 until it has left one
}

func (u *unit) kill() { u.once.Do(func() { close(u.stop) }) }

// machine is a host and what is on its disk. Some methods are called with mu
// held and say so; nothing sleeps while it is.
type machine struct {
	w     *world
	id    fleet.MachineID
	dir   string
	at    *place
	conf  config.Agent
	text  []byte // of the configuration file
	trait trait

	mu          sync.Mutex
	rng         *rand.Rand
	on          bool
	bootAt      time.Time // while it is off
	bootOld     bool      // the next boot loses the newest generation
	bootID      string
	bootedAt    time.Time
	boots       int
	clock       time.Duration // offset of its wall clock
	stepped     bool          // its clock was ever set
	running     fleet.StorePath
	booted      fleet.StorePath
	profile     fleet.StorePath
	older       fleet.StorePath // the generation before
	bootDefault fleet.StorePath
	units       map[string]*unit
	process     *process // the agent; nil while none runs
	ending      bool     // a process is being ended
	startAt     time.Time
	slow        time.Duration  // what takes a moment takes so much longer
	fullUntil   time.Time      // its disk is full until then
	byHand      bool           // a person booted it into another system than its agent activated
	unsynced    []fleet.Report // their removal from the queue is lost when the power is
	killIn      int            // the agent is killed after so many points; 0: not

	// What is true of it, for the rules.
	since map[fleet.StorePath]time.Time // when a release went live that has not been left
	floor fleet.Sequence                // no release below it may be applied any more
}

// trait is how a machine is.
type trait struct {
	mayReboot bool
}

func (m *machine) files() disk.Dir { return disk.Dir(filepath.Join(m.dir, "state")) }
func (m *machine) rootsDir() string {
	return filepath.Join(m.dir, "gcroots")
}

// draw is a number from 0 up to n of the machine's own sequence.
func (m *machine) draw(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

// take sleeps for as long as something takes: up to d, longer on a slow host.
func (m *machine) take(d time.Duration) {
	m.mu.Lock()
	d = time.Duration(m.rng.Int64N(int64(d))) + m.slow
	m.mu.Unlock()
	time.Sleep(d + time.Millisecond)
}

// now are the machine's clocks.
func (m *machine) now() (states.Moment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return states.Moment{WallMs: time.Now().Add(m.clock).UnixMilli(), Boot: time.Since(m.bootedAt).Seconds(), BootID: m.bootID}, nil
}

func (m *machine) generations() fleet.Generations {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fleet.Generations{Running: m.running, Booted: m.booted, BootDefault: m.profile}
}

// boot starts the machine. With mu held.
func (m *machine) boot() {
	m.boots++
	m.on, m.bootedAt, m.bootID = true, time.Now(), fmt.Sprintf("%s-boot-%d", m.id, m.boots)
	if m.bootOld && m.older != "" {
		m.bootDefault = m.older
	}
	m.bootOld = false
	if m.bootDefault != m.running {
		delete(m.since, m.running)
	}
	m.running, m.booted = m.bootDefault, m.bootDefault
	m.startAt = time.Now().Add(time.Duration(1+m.rng.IntN(8)) * time.Second)
}

// powerOff ends all that runs on the machine. It boots after a while.
func (m *machine) powerOff(down time.Duration, old bool) {
	m.mu.Lock()
	m.on, m.bootAt, m.bootOld = false, time.Now().Add(down), old
	p := m.process
	for name, u := range m.units {
		u.kill()
		delete(m.units, name)
	}
	m.mu.Unlock()
	if p != nil {
		p.kill()
	}
	m.w.net.sever(m.at)
}

// tick does what is due on the machine: the boot, the start of the agent, and every
// few seconds the watchdog.
func (m *machine) tick(n int) {
	m.mu.Lock()
	now := time.Now()
	if !m.on && !m.ending && !now.Before(m.bootAt) {
		m.boot()
	}
	start := m.on && !m.ending && m.process == nil && !now.Before(m.startAt) && !m.w.systemAt(m.running).deadAgent
	watch := m.on && !m.ending && n%5 == 0
	m.raiseFloor(now)
	m.mu.Unlock()
	if start {
		m.startAgent()
	}
	if watch {
		m.watchdog()
	}
}

// raiseFloor notes below which sequence nothing may be applied any more: that of a
// release whose revert window is over. With mu held.
func (m *machine) raiseFloor(now time.Time) {
	if m.stepped || m.process == nil {
		return // the window is told by the machine's own clock
	}
	j := m.process.snap.Journal()
	if j.Step != states.Idle || j.Current == nil || j.Current.Path != m.running {
		return
	}
	if live, ok := m.since[m.running]; ok && now.Sub(live) > m.w.revertWindow+10*time.Second {
		m.floor = max(m.floor, m.w.systemAt(m.running).sequence)
	}
}

// watchdog is nixfleet-watchdog.service.
func (m *machine) watchdog() {
	file := m.files().Watch()
	order, armed, err := file.Read()
	now, _ := m.now()
	if err != nil || !armed || !order.Due(now.BootID, now.Boot) {
		return
	}
	order.Fired, order.Tries = true, order.Tries+1
	m.w.must(file.Write(order))
	m.mu.Lock()
	m.setProfile(order.Previous)
	m.activated(order.Previous, "switch")
	m.mu.Unlock()
	order.Done, order.Message = true, "the watchdog rolled back: the new system was not confirmed in time"
	m.w.must(file.Write(order))
}

// setProfile makes a system the newest generation. With mu held.
func (m *machine) setProfile(s fleet.StorePath) {
	if s != m.profile {
		m.older, m.profile = m.profile, s
	}
}

// activated makes a system the one that runs, or only that of the next boot. With mu
// held.
func (m *machine) activated(s fleet.StorePath, action string) {
	m.bootDefault = s
	if action != "switch" {
		return
	}
	if s != m.running {
		delete(m.since, m.running)
	}
	m.running = s
	if m.w.systemAt(s).cutsOff {
		m.w.net.sever(m.at)
	}
}

// offNetwork reports whether what runs has lost the network.
func (m *machine) offNetwork() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.on || m.w.systemAt(m.running).cutsOff
}

// begin starts a switch in a unit of its own.
func (m *machine) begin(s host.Switch) *unit {
	u := &unit{done: make(chan struct{}), stop: make(chan struct{}), code: -1}
	path := fleet.StorePath(strings.TrimSuffix(s.Program, "/bin/switch-to-configuration"))
	what := m.w.systemAt(path)
	steps := []func(){
		func() { m.bootDefault = path },
		func() {
			if !what.half {
				m.activated(path, s.Args[0])
			}
		},
		func() {
			if !what.hangs {
				u.code = what.code
				if what.degraded {
					u.code = 4
				}
			}
		},
	}
	m.w.loose.Go(func() {
		defer close(u.done)
		for _, step := range steps {
			m.mu.Lock()
			d := time.Duration(m.rng.Int64N(int64(2*time.Second))) + m.slow
			m.mu.Unlock()
			t := time.NewTimer(d + time.Millisecond)
			select {
			case <-u.stop:
				t.Stop()
				return
			case <-t.C:
			}
			m.mu.Lock()
			select {
			case <-u.stop: // at the same moment
			default:
				step()
			}
			m.mu.Unlock()
		}
		if what.hangs {
			<-u.stop
		}
	})
	return u
}

// keep reads the files of the agent, and restore puts them back.
func (m *machine) keep() map[string][]byte {
	out := map[string][]byte{}
	for _, dir := range []string{string(m.files()), m.rootsDir()} {
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if b, err := os.ReadFile(p); err == nil { // one that is just removed is not there
					out[p] = b
				}
			}
			return nil
		})
	}
	return out
}

func (m *machine) restore(files map[string][]byte) {
	now := m.keep()
	for p := range now {
		if _, ok := files[p]; !ok {
			m.w.must(os.Remove(p))
		}
	}
	for p, b := range files {
		if string(now[p]) != string(b) {
			m.w.must(os.MkdirAll(filepath.Dir(p), 0o700))
			m.w.must(os.WriteFile(p, b, 0o600))
		}
	}
}
