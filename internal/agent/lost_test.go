// SPDX-License-Identifier: MIT

package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// What a copy of the floor is, if it is not a sequence.
const (
	gone    = -1
	damaged = -2
)

// forgetful is a machine that loses its files, and whose control plane offers what
// it likes.
type forgetful struct {
	*rapid.T
	cfg      config.Agent
	roots    string
	fleet    *trusttest.Fleet
	k        knowledge
	now      int64
	running  fleet.StorePath
	releases []*trust.Release
	journal  int // the floor that the journal's file says
	copy     int // and the second copy
	older    map[int][]byte
}

func newForgetful(rt *rapid.T, dir string, f *trusttest.Fleet, releases []*trust.Release) *forgetful {
	m := &forgetful{T: rt, fleet: f, releases: releases, roots: filepath.Join(dir, "gcroots"), now: trusttest.Now, journal: gone, copy: gone, older: map[int][]byte{}}
	m.cfg = config.Agent{MachineID: "web-01", Line: "main", StateDir: filepath.Join(dir, "state")}
	m.cfg.Trust.RootFile = filepath.Join(dir, "root.json")
	m.must(os.MkdirAll(m.cfg.StateDir, 0o700))
	m.must(os.WriteFile(m.cfg.Trust.RootFile, m.fleet.RootEnvelope, 0o600))
	m.restart()
	m.keep(trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 1}}})
	m.timestamp(2)
	return m
}

func (m *forgetful) must(err error) {
	if err != nil {
		m.Helper()
		m.Fatal(err)
	}
}

// keep saves the journal with a floor.
func (m *forgetful) keep(f trust.Floor) {
	m.k.journal.Trust.Floor = &f
	m.save()
}

func (m *forgetful) save() {
	m.must(m.k.save()(m.k.journal))
	m.journal = gone
	if f := m.k.journal.Trust.Floor; f != nil {
		m.journal = int(f.Lines["main"].Sequence)
		m.copy = m.journal
	}
	b, err := os.ReadFile(m.k.files.Journal().File)
	m.must(err)
	m.older[m.journal] = b
}

// state is what the agent judges by.
func (m *forgetful) state() trust.State {
	s := m.k.journal.Trust
	s.Machine, s.System, s.Line, s.Running = "web-01", "x86_64-linux", "main", m.running
	return s
}

// offer has the machine judge a release, and run it if it accepts it.
func (m *forgetful) offer(r *trust.Release) {
	s := m.state()
	a, refusal := trust.Accept(s, m.now, m.fleet.Bundle(r, "web-01"))
	if refusal != nil {
		return
	}
	switch {
	case s.Floor == nil && a.Entry.StorePath != m.running:
		m.Fatalf("release %d is accepted, the floor is not known", a.Header.Sequence)
	case s.Floor != nil && a.Header.Sequence < s.Floor.At("main", m.now).Sequence:
		m.Fatalf("release %d is accepted", a.Header.Sequence)
	}
	t := m.k.journal.Trust.Record(a, m.now).Activated(m.now).Became(a.Mark(), m.now)
	if s.Floor == nil && t.Floor != nil {
		m.Fatalf("release %d sets the floor", a.Header.Sequence)
	}
	m.k.journal.Trust, m.running = t, a.Entry.StorePath
	m.save()
}

// timestamp has the machine learn one that is not the newest.
func (m *forgetful) timestamp(line uint64) {
	s, errs := m.state().Learn(m.now, trust.Documents{Timestamp: m.fleet.Timestamp(fleet.Timestamp{
		Version: line, SignedAt: m.now, Expires: m.now + 30*trusttest.Day, Lines: map[fleet.Line]fleet.Sequence{"main": line},
	})})
	if len(errs) > 0 {
		return // it has seen a newer one
	}
	m.k.journal.Trust.Timestamp, m.k.journal.Trust.HighestSignedTime = s.Timestamp, s.HighestSignedTime
	if f, ok := m.state().TimestampFloor(m.now); ok && m.k.damaged == nil {
		m.k.journal.Trust.Floor = &f
	}
	m.save()
}

// restart starts the agent on what is on its disk.
func (m *forgetful) restart() {
	var err error
	m.k, err = load(m.cfg, m.roots)
	m.must(err)
	if (m.copy == damaged) != (m.k.damaged != nil) {
		m.Fatalf("the second copy is %d, and said to be damaged: %v", m.copy, m.k.damaged)
	}
	said, f := max(m.journal, m.copy), m.k.journal.Trust.Floor
	switch {
	case said < 0 && f != nil:
		m.Fatalf("no copy is left, and the floor is %+v", f)
	case said >= 0 && f == nil:
		m.Fatalf("the floor %d is lost", said)
	case said >= 0 && int(f.Lines["main"].Sequence) < said:
		m.Fatalf("the floor is %d, a copy said %d", f.Lines["main"].Sequence, said)
	}
	if m.journal == damaged {
		m.journal = gone // it was renamed
	}
}

func (m *forgetful) spoil(file string, says *int, how string) {
	if *says < 0 {
		return
	}
	switch how {
	case "lose":
		m.must(os.Remove(file))
		*says = gone
	case "damage":
		b, err := os.ReadFile(file)
		m.must(err)
		if says == &m.copy { // any byte
			b[rapid.IntRange(0, len(b)-1).Draw(m.T, "byte")] ^= 1
		} else {
			b = b[:rapid.IntRange(0, len(b)-1).Draw(m.T, "length")]
		}
		m.must(os.WriteFile(file, b, 0o600))
		*says = damaged
	}
}

// A17: no order of losses of either copy, restarts, and releases and timestamps of a
// hostile control plane lowers the floor below what either copy said. A damaged copy
// is never read as none.
func TestLoad_NeverLowersTheFloor(t *testing.T) {
	without := trusttest.New(t, "acme", nil) // timestamps
	with := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	var releases []*trust.Release
	for n := range uint64(10) {
		h := with.Header(n + 1)
		h.Policy.RevertWindowMs = trusttest.Day
		releases = append(releases, with.Release(h, trusttest.Entry("web-01", []string{"a", "b"}[n%2]))) // many have the same system
	}
	parent := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		f := with
		if rapid.Bool().Draw(rt, "without timestamps") {
			f = without
		}
		m := newForgetful(rt, dir, f, releases)
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			switch what := rapid.SampledFrom([]string{"offer", "offer", "wait", "timestamp", "restart", "lose", "lose both", "damage", "old"}).Draw(rt, "what"); what {
			case "offer":
				m.offer(m.releases[rapid.IntRange(0, len(m.releases)-1).Draw(rt, "release")])
			case "wait":
				m.now += rapid.Int64Range(0, 40).Draw(rt, "hours") * trusttest.Hour
				m.k.journal.Trust = m.k.journal.Trust.RaiseFloor(m.now)
				m.save()
			case "timestamp":
				m.timestamp(rapid.Uint64Range(2, 10).Draw(rt, "line"))
			case "restart":
				m.restart()
			case "old": // a backup of the state directory
				if b, n := m.backup(); b != nil {
					m.must(os.WriteFile(m.k.files.Journal().File, b, 0o600))
					m.journal = n
					m.restart()
				}
			case "lose both":
				m.spoil(m.k.files.Journal().File, &m.journal, "lose")
				m.spoil(m.k.copy.File, &m.copy, "lose")
				m.restart()
			default:
				if rapid.Bool().Draw(rt, "journal") {
					m.spoil(m.k.files.Journal().File, &m.journal, what)
				} else {
					m.spoil(m.k.copy.File, &m.copy, what)
				}
				m.restart()
			}
		}
	})
}

// backup draws a journal that was written before.
func (m *forgetful) backup() ([]byte, int) {
	for n := range 11 {
		if b, ok := m.older[n]; ok && rapid.Bool().Draw(m.T, fmt.Sprint("of floor ", n)) {
			return b, n
		}
	}
	return nil, 0
}

// The copy counts for its machine and its fleet only.
func TestFloorCopy_IsBoundToMachineAndRoot(t *testing.T) {
	f, other := trusttest.New(t, "acme", nil), trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleRelease, "new") })
	stranger := trusttest.New(t, "stranger", nil)
	next := f.Root
	next.Version++
	c := disk.FloorCopy{File: filepath.Join(t.TempDir(), "roots", "floor.json"), Machine: "web-01"}
	kept := disk.Kept{Floor: trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 7}}}}
	if _, ok, err := c.Read(&f.Root); ok || err != nil {
		t.Errorf("none: %t, %v", ok, err)
	}
	if err := c.Write(kept, &f.Root); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		machine fleet.MachineID
		root    *fleet.Root
		want    bool
	}{
		"the same":                   {"web-01", &f.Root, true},
		"a later root":               {"web-01", &next, true},
		"another machine":            {"web-02", &f.Root, false},
		"another fleet":              {"web-01", &stranger.Root, false},
		"another fleet of that name": {"web-01", &other.Root, false},
		"unsigned":                   {"web-01", nil, false},
	} {
		c.Machine = tc.machine
		got, ok, err := c.Read(tc.root)
		if err != nil || ok != tc.want || ok && got.Floor.Lines["main"].Sequence != 7 {
			t.Errorf("%s: %+v, %t, %v", name, got, ok, err)
		}
	}
}

// A damaged copy is told to the control plane, and what to do to the person.
func TestKnowledge_ReportsADamagedCopy(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Agent{MachineID: "web-01", Line: "main", StateDir: filepath.Join(dir, "state")}
	for _, d := range []string{"state", "roots"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "roots", "floor.json")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := load(cfg, filepath.Join(dir, "roots"))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	var reports []fleet.Report
	k.tell(slog.New(slog.NewTextHandler(&log, nil)), states.Seen{Machine: "web-01"}, func(r fleet.Report) error {
		reports = append(reports, r)
		return r.Validate()
	})
	if len(reports) != 1 || reports[0].Reason != fleet.ReasonFloorUnknown || !strings.Contains(reports[0].Message, file) || !strings.Contains(log.String(), "adopt-floor") {
		t.Errorf("reports %+v, log %s", reports, log.String())
	}
}
