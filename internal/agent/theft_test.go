// SPDX-License-Identifier: MIT

package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
)

// forged is a release of which a thief of the cache's key has signed another
// payload.
type forged struct {
	digest          fleet.Digest
	system, payload string
	honest          string // hash of the payload
}

// forge makes a release, and a cache that delivers something else for it.
func (s *site) forge(generation string) forged {
	s.t.Helper()
	sys := testbed.System{Generation: generation, PayloadMiB: 1}
	f := forged{system: s.build(sys)}
	f.digest = s.release(f.system)
	closure, err := nix.Closure(s.ctx, fleet.StorePath(f.system))
	check(s.t, err)
	for _, p := range closure {
		if strings.Contains(string(p.Path), "-payload-") {
			f.payload, f.honest = string(p.Path), string(p.NarHash)
		}
	}
	if f.payload == "" {
		s.t.Fatal("the system has no payload")
	}
	res, err := proc.Run(s.ctx, proc.Cmd{Path: "nix-store", Args: []string{"--query", "--referrers-closure", f.payload}})
	check(s.t, err)
	_, err = proc.Run(s.ctx, proc.Cmd{Path: "nix-store", Args: append([]string{"--delete"}, strings.Fields(string(res.Stdout))...)})
	check(s.t, err)
	if again := s.build(sys); again != f.system { // with other random bytes
		s.t.Fatalf("built %s, then %s", f.system, again)
	}
	twin, err := s.cache.Twin(s.t.TempDir())
	check(s.t, err)
	check(s.t, twin.Push(s.ctx, f.system))
	s.evil.Forged = twin.Handler()
	return f
}

// untouched wants the payload to be as it was signed, if it is valid at all.
func (s *site) untouched(f forged) {
	s.t.Helper()
	if got := s.sh("nix-store --check-validity " + f.payload + " 2> /dev/null && nix-store --query --hash " + f.payload); got != "" && got != f.honest {
		s.t.Errorf("%s is valid with the hash %s, signed is %s", f.payload, got, f.honest)
	}
}

// A cache and its key in the wrong hands: no order, retry or prefetch brings what
// nobody has signed onto a machine.
func TestAgent_RunsNothingThatAThiefOfTheCacheKeySigned(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	now := s.build(testbed.System{Generation: "1"})
	s.want(s.apply(now), fleet.OutcomeLive, "")
	refused := func(f forged) {
		t.Helper()
		s.give(f.digest, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeRefused, fleet.ReasonClosureMismatch)
		s.untouched(f)
		s.runs(now)
	}

	// The lie is repeated at each try, then the thief tells the truth.
	f := s.forge("2")
	s.evil.Set(evil.Forge)
	refused(f)
	refused(f)
	if got := s.sh("nix-store --check-validity " + f.system + " 2> /dev/null || nix-store --check-validity " + f.payload + " 2> /dev/null || echo none"); got != "none" {
		t.Errorf("what was refused is valid: %q", got)
	}
	s.evil.Set(evil.None)
	s.give(f.digest, 20*time.Second)
	s.want(s.outcome(), fleet.OutcomeLive, "")
	s.untouched(f)
	s.runs(f.system)
	now = f.system

	// The truth is told as soon as the lie is delivered.
	f = s.forge("3")
	s.evil.Set(evil.ForgeOnce)
	s.give(f.digest, 20*time.Second)
	s.want(s.outcome(), fleet.OutcomeLive, "")
	s.untouched(f)
	s.runs(f.system)
	now = f.system

	// The lie is told to a prefetch.
	f = s.forge("4")
	s.evil.Set(evil.Forge)
	s.plane.update(func() { s.plane.orders = api.Orders{Etag: "prefetch", Prefetch: f.digest} })
	s.seen("refused prefetch", func(r fleet.Report) bool {
		return r.Kind == fleet.ReportRefusal && r.Reason == fleet.ReasonClosureMismatch && r.Digest == f.digest
	})
	s.untouched(f)
	refused(f)
	s.evil.Set(evil.ForgeOnce)
	s.give(f.digest, 20*time.Second)
	s.want(s.outcome(), fleet.OutcomeLive, "")
	s.untouched(f)
	s.runs(f.system)
	if s.evil.Hits() == 0 {
		t.Error("nothing was forged")
	}
}

// A thief delivers the forged path and lets the fetch fail. However the fetch ends,
// the machine does not keep the path.
func TestAgent_KeepsNothingOfAFetchThatAThiefLetFail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	now := s.build(testbed.System{Generation: "1"})
	s.want(s.apply(now), fleet.OutcomeLive, "")
	f := s.forge("2")
	valid := "nix-store --check-validity " + f.payload + " && echo valid || echo none"
	none := func() {
		t.Helper()
		s.eventually(valid+"; test -e /var/lib/nixfleet/agent/fetching.json && echo begun", "none")
		s.eventually("test -e /var/lib/nixfleet/agent/fetching.json && echo begun || echo ended", "ended")
		s.untouched(f)
		s.runs(now)
	}

	// Until its deadline.
	s.evil.Set(evil.ForgeThenFail)
	s.give(f.digest, 4*time.Second)
	s.want(s.outcome(), fleet.OutcomeFailed, fleet.ReasonFetchFailed)
	none()

	// Until the agent is killed and the order withdrawn.
	s.give(f.digest, time.Hour)
	s.eventually(valid, "valid")
	s.sh("systemctl kill --signal=KILL nixfleet-agent")
	s.plane.update(func() { s.plane.orders = api.Orders{Etag: "none"} })
	none()

	// Then the thief tells the truth once the lie is delivered, and is reported.
	s.evil.Set(evil.ForgeOnce)
	s.give(f.digest, 20*time.Second)
	r := s.outcome()
	s.want(r, fleet.OutcomeLive, "")
	s.runs(f.system)
	said := f.payload + " has the hash sha256:"
	if signed := "signed is " + f.honest; !strings.Contains(r.Message, said) || !strings.Contains(r.Message, signed) {
		t.Errorf("the outcome does not name the path and both hashes: %q", r.Message)
	}
	s.seen("report of the forged path", func(r fleet.Report) bool {
		return r.Kind == fleet.ReportRefusal && r.Digest == f.digest && strings.Contains(r.Message, said)
	})
}
