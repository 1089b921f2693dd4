// SPDX-License-Identifier: MIT

package machine

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
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
	case states.Done:
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
