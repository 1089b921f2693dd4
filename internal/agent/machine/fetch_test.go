// SPDX-License-Identifier: MIT

package machine

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/testbed/theft"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// stolen is a machine whose release comes from a cache whose key was stolen.
type stolen struct {
	*theft.Theft
	t *testing.T
	m *Machine
	j states.Journal
	d fleet.Digest
}

func newStolen(t *testing.T) *stolen {
	t.Helper()
	s := &stolen{Theft: theft.New(t), t: t, j: states.New()}
	f := trusttest.New(t, "test", nil)
	h := f.Header(1)
	now := time.Now().UnixMilli()
	h.CreatedAt, h.Expires = now-1000, now+3600_000
	h.Caches = []fleet.Cache{{URL: s.URL, PublicKeys: []string{s.PublicKey}}}
	e := s.Entry
	e.ID, e.System, e.Detach, e.ClosureSize = "web-01", host.System(), true, 1<<20
	envelope, raw := f.Unchecked(h, []fleet.Entry{e}, "test-release")
	r, err := trust.CheckRelease(envelope, raw, &f.Root, now)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := json.Marshal(f.Bundle(r, "web-01"))
	if err != nil {
		t.Fatal(err)
	}
	s.d = r.Digest
	s.m = testMachine(t, &fakePlane{bundle: bundle})
	s.m.ReadConfig = func(string) (config.Agent, error) { return config.Agent{MachineID: "web-01"}, nil }
	s.j.Trust = f.State("web-01")
	t.Cleanup(func() {
		for _, root := range []string{targetRoot, prefetchRoot} {
			if err := nix.RemoveRoot(nix.RootsDir, root); err != nil {
				t.Error(err)
			}
		}
		s.Remove()
	})
	return s
}

// order judges and fetches the release as an attempt does.
func (s *stolen) order() states.Input {
	s.t.Helper()
	a, in := s.m.accept(s.t.Context(), s.j, s.d)
	if in != nil {
		s.t.Fatalf("the release is not accepted: %+v", in)
	}
	j := s.j
	j.Step, j.Work = states.Fetch, &states.Work{Accepted: a, Began: s.m.Now()}
	return s.m.fetch(s.t.Context(), j)
}

// end checks how an attempt ended: with the signed closure, or refused with nothing
// of it valid.
func (s *stolen) end(in states.Input) {
	s.t.Helper()
	s.Untouched()
	switch in := in.(type) {
	case states.Done, states.Replaced:
		if h := s.Hash(s.Dep); h != s.Honest {
			s.t.Errorf("accepted with the hash %s, signed is %s", h, s.Honest)
		}
	case states.Refused:
		if in.Reason != fleet.ReasonClosureMismatch || s.Valid(s.Top) || s.Valid(s.Dep) {
			s.t.Errorf("refused: %+v; valid: system %t, dependency %t", in, s.Valid(s.Top), s.Valid(s.Dep))
		}
	default:
		s.t.Errorf("%+v", in)
	}
}

// A thief of the cache's key delivers another archive, and tells the truth when the
// order is given again.
func TestFetch_ARetryDoesNotMakeAForgedArchiveGood(t *testing.T) {
	for _, fault := range []evil.Fault{evil.Forge, evil.ForgeOnce} {
		t.Run(string(fault), func(t *testing.T) {
			s := newStolen(t)
			s.Cache.Set(fault)
			for range 3 {
				s.end(s.order())
			}
			if s.Cache.Hits() == 0 {
				t.Error("nothing was forged")
			}
		})
	}
}

// The same, with the lie told to a prefetch, which is reported.
func TestFetch_APrefetchDoesNotMakeAForgedArchiveGood(t *testing.T) {
	s := newStolen(t)
	s.Cache.Set(evil.Forge)
	if in := s.m.prefetch(t.Context(), s.j, s.d); in != nil {
		t.Errorf("%+v", in)
	}
	s.Untouched()
	if s.Valid(s.Top) || s.Valid(s.Dep) {
		t.Error("a refused prefetch has left something valid")
	}
	reports, err := s.m.Outbox.Batch(10)
	if err != nil || len(reports) != 1 {
		t.Fatalf("%d reports, %v", len(reports), err)
	}
	if r := reports[0]; r.Kind != fleet.ReportRefusal || r.Reason != fleet.ReasonClosureMismatch || r.Digest != s.d || r.Validate() != nil {
		t.Errorf("%+v", r)
	}
	s.Cache.Set(evil.None)
	s.end(s.order())
	if !s.Valid(s.Top) {
		t.Error("the honest cache is not believed")
	}
}

// What a fetch that was killed has left is under a root, and is judged as what
// comes now.
func TestFetch_WhatAKilledPrefetchLeftIsNotTrusted(t *testing.T) {
	s := newStolen(t)
	if err := nix.SetRoot(nix.RootsDir, prefetchRoot, s.Top); err != nil {
		t.Fatal(err)
	}
	s.Forge()
	s.Cache.Set(evil.Forge)
	s.end(s.order())
	s.Cache.Set(evil.None)
	s.end(s.order())
	if !s.Valid(s.Top) {
		t.Error("the honest cache is not believed")
	}
}

// What others keep alive is theirs: a person decides.
func TestFetch_NamesAPathInUseThatIsNotAsSigned(t *testing.T) {
	s := newStolen(t)
	s.Forge()
	s.Hold(s.Dep)
	in, ok := s.order().(states.Refused)
	if !ok || in.Reason != fleet.ReasonClosureDiffers {
		t.Fatalf("%+v", in)
	}
	for _, want := range []string{string(s.Dep), string(s.Honest), string(s.Forged)} {
		if !strings.Contains(in.Message, want) {
			t.Errorf("%q does not name %s", in.Message, want)
		}
	}
}

// When a person has allowed it, the next order repairs the path.
func TestFetch_RepairsAPathInUseThatAPersonNamed(t *testing.T) {
	s := newStolen(t)
	s.Forge()
	s.Hold(s.Dep)
	repairs := s.m.dir().Repairs()
	if err := repairs.Allow(s.Dep); err != nil {
		t.Fatal(err)
	}
	s.end(s.order())
	if !s.Valid(s.Top) || s.Hash(s.Dep) != s.Honest {
		t.Errorf("system valid: %t, hash %s, want %s", s.Valid(s.Top), s.Hash(s.Dep), s.Honest)
	}
	if repairs.Allowed(s.Dep) {
		t.Error("it is allowed again")
	}
}

// nothing fails the test unless what was fetched is gone and its end is recorded.
func (s *stolen) nothing() {
	s.t.Helper()
	if s.Valid(s.Top) || s.Valid(s.Dep) {
		s.t.Errorf("valid: system %t, dependency %t", s.Valid(s.Top), s.Valid(s.Dep))
	}
	if _, left, err := s.m.dir().Fetching().Read(); left || err != nil {
		s.t.Errorf("a fetch is under way: %t, %v", left, err)
	}
}

// A thief of the cache's key delivers a forged dependency, and lets Nix fail. However
// the fetch ends, nothing of it stays valid.
func TestFetch_ThatFailsLeavesNothingForged(t *testing.T) {
	t.Run("for good", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.failed(maxTries)
		s.nothing()
	})
	t.Run("the order is withdrawn between two tries", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.failed(0)
		s.m.settleIdle(t.Context(), s.j)
		s.nothing()
	})
	t.Run("another release is fetched next", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.failed(0)
		w, err := s.m.beginFetch(t.Context(), trust.Accepted{Digest: fleet.SHA256(nil)})
		if err != nil || w.Release != fleet.SHA256(nil) || s.Valid(s.Dep) {
			t.Errorf("%+v, %v; valid: %t", w, err, s.Valid(s.Dep))
		}
	})
	t.Run("what is known of it is lost", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.failed(0)
		file := s.m.dir().Fetching().File
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(file, []byte("{"), 0o600), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
		s.m.settleIdle(t.Context(), s.j)
		s.failed(maxTries)
		s.nothing()
	})
	t.Run("of a prefetch", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.m.prefetch(t.Context(), s.j, s.d)
		s.nothing()
		reports, err := s.m.Outbox.Batch(10)
		if err != nil || len(reports) != 1 || reports[0].Kind != fleet.ReportRefusal || reports[0].Reason != fleet.ReasonFetchFailed || reports[0].Digest != s.d {
			t.Errorf("reports %+v, %v", reports, err)
		}
	})
	t.Run("the truth is told before the next try", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeThenFail)
		s.failed(0)
		s.Cache.Set(evil.None)
		in, ok := s.order().(states.Replaced)
		if !ok || len(in.Paths) != 1 {
			t.Fatalf("%+v", in)
		}
		s.reported(in.Paths[0])
	})
}

// failed makes one try that fails, after so many.
func (s *stolen) failed(tries int) {
	s.t.Helper()
	a, in := s.m.accept(s.t.Context(), s.j, s.d)
	if in != nil {
		s.t.Fatalf("the release is not accepted: %+v", in)
	}
	w := states.Work{Accepted: a, Began: s.m.Now()}
	j := s.j
	j.Step, j.Work = states.Fetch, &w
	in = s.m.fetchClosure(s.t.Context(), a, targetRoot, time.UnixMilli(w.Began.WallMs))
	if f, ok := in.(states.Failed); !ok || f.Reason != fleet.ReasonFetchFailed || s.Cache.Hits() == 0 {
		s.t.Fatalf("the fetch ended with %+v", in)
	}
	s.m.failedFetch(s.t.Context(), tries >= maxTries)
}

// reported fails the test unless one report names the forged path and both hashes.
func (s *stolen) reported(path string) {
	s.t.Helper()
	reports, err := s.m.Outbox.Batch(10)
	if err != nil || len(reports) != 1 {
		s.t.Fatalf("%d reports, %v", len(reports), err)
	}
	if r := reports[0]; r.Kind != fleet.ReportRefusal || r.Reason != fleet.ReasonClosureMismatch || r.Digest != s.d || !strings.Contains(r.Message, path) || r.Validate() != nil {
		s.t.Errorf("%+v", r)
	}
	for _, want := range []string{string(s.Dep) + " has the hash sha256:", "signed is " + string(s.Honest)} {
		if !strings.Contains(reports[0].Message, want) {
			s.t.Errorf("%q does not name %s", reports[0].Message, want)
		}
	}
}

// An attempt, a prefetch and a repair that caught a forged path say so, though they
// end well.
func TestFetch_ReportsAForgeryThatItReplaced(t *testing.T) {
	t.Run("an attempt", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeOnce)
		in, ok := s.order().(states.Replaced)
		if !ok || len(in.Paths) != 1 || s.Hash(s.Dep) != s.Honest {
			t.Fatalf("%+v", in)
		}
		s.reported(in.Paths[0])
		j := states.New()
		j.Work = &states.Work{Outcome: fleet.OutcomeLive, Replaced: in.Paths}
		if r := s.m.Seen().Outcome(j); !strings.Contains(r.Message, in.Paths[0]) {
			t.Errorf("the outcome says %q", r.Message)
		}
		if in := s.order(); in != (states.Done{}) {
			t.Errorf("the next attempt: %+v", in)
		}
	})
	t.Run("a prefetch", func(t *testing.T) {
		s := newStolen(t)
		s.Cache.Set(evil.ForgeOnce)
		s.m.prefetch(t.Context(), s.j, s.d)
		s.reported(string(s.Dep))
	})
	t.Run("a repair", func(t *testing.T) {
		s := newStolen(t)
		s.Forge()
		s.Hold(s.Dep)
		if err := s.m.dir().Repairs().Allow(s.Dep); err != nil {
			t.Fatal(err)
		}
		in, ok := s.order().(states.Replaced)
		if !ok || len(in.Paths) != 1 {
			t.Fatalf("%+v", in)
		}
		s.reported(in.Paths[0])
	})
}

// A clock that is set back does not hide what was fetched.
func TestSince_CountsFromTheBootIfTheClockWasSetBack(t *testing.T) {
	w := disk.Fetching{Began: states.Moment{WallMs: 9_000_000, Boot: 100, BootID: "a"}}
	for now, want := range map[states.Moment]int64{
		{WallMs: 9_050_000, Boot: 150, BootID: "a"}: 9_000_000,
		{WallMs: 5_050_000, Boot: 150, BootID: "a"}: 5_000_000,
		{WallMs: 9_950_000, Boot: 150, BootID: "a"}: 9_000_000,
		{WallMs: 9_050_000, Boot: 50, BootID: "b"}:  9_000_000,
	} {
		if got := since(w, now).UnixMilli(); got != want {
			t.Errorf("%+v: %d, want %d", now, got, want)
		}
	}
}
