// SPDX-License-Identifier: MIT

package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// A04 A06 A07 H06 O09: a good release goes live; one whose service dies, one
// that cannot be activated, one that hangs, one that kills its caller and one
// that cuts the network are rolled back by the machine itself, each to what ran
// before.
func TestAgent_AppliesGoodReleasesAndRollsBackBadOnes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := s.build(testbed.System{Generation: "1"})
	s.want(s.apply(one), fleet.OutcomeLive, "")
	s.runs(one)

	two := s.build(testbed.System{Generation: "2"})
	r := s.apply(two)
	s.want(r, fleet.OutcomeLive, "")
	if r.Confirmed == "" || fleet.HealthOf(r.Checks) != fleet.Healthy || string(r.Running) != two {
		t.Errorf("report = %+v", r)
	}
	s.runs(two)

	for _, tc := range []struct {
		fault  string
		reason fleet.Reason
	}{
		{"unhealthy", fleet.ReasonCheckFailed},
		{"activation", fleet.ReasonActivation},
		{"hang", fleet.ReasonSwitchTimeout},
		{"killer", fleet.ReasonSwitchKilled},
		{"network", fleet.ReasonNoNetwork},
		{"agent-crash", fleet.ReasonWatchdog},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			s.t = t
			bad := s.build(testbed.System{Generation: "3", Fault: tc.fault})
			r := s.apply(bad)
			s.want(r, fleet.OutcomeRolledBack, tc.reason)
			s.runs(two)
			if got := s.sh("systemctl is-active app.service nixfleet-agent.service"); got != "active\nactive" {
				t.Errorf("units after the rollback: %s", got)
			}
			t.Logf("%s: %s", tc.fault, r.Message)
		})
		s.t = t
	}
	three := s.build(testbed.System{Generation: "4"})
	s.want(s.apply(three), fleet.OutcomeLive, "")
	s.runs(three)
	t.Log(s.sh("nixfleet-agent history; ps -o rss= -p $(systemctl show -p MainPID --value nixfleet-agent)"))
}

// eventually waits until a script on the machine prints what is wanted.
func (s *site) eventually(script, want string) {
	s.t.Helper()
	got := s.sh(fmt.Sprintf(`for i in $(seq 600); do x=$( (%s) 2> /dev/null); case $x in *'%s'*) break ;; esac; sleep 0.05; done; echo "$x"`, script, want))
	if !strings.Contains(got, want) {
		s.t.Errorf("%s: still %q after 30 s, want %q", script, got, want)
	}
}

// seen waits for a report.
func (s *site) seen(what string, ok func(fleet.Report) bool) {
	s.t.Helper()
	s.plane.await(what, func() bool {
		for _, r := range s.plane.reports {
			if ok(r) {
				return true
			}
		}
		return false
	})
}

// What else happens to a machine in its life; each part begins where the one
// before has ended.
func TestAgent_LivesThroughWhatHappensToMachines(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	now := s.build(testbed.System{Generation: "1"})
	s.want(s.apply(now), fleet.OutcomeLive, "")
	second := buildAgent(t, "2")
	part := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.plane.t = t
			f(t)
		})
		s.t, s.plane.t = t, t
	}

	// A01: the new system's own agent takes over and verifies it.
	part("another agent", func(t *testing.T) {
		s.agent = second
		now = s.build(testbed.System{Generation: "2"})
		s.want(s.apply(now), fleet.OutcomeLive, "")
		s.runs(now)
		s.plane.await("check-in of the new agent", func() bool { return s.plane.seen.AgentVersion == "2" && string(s.plane.seen.Running) == now })
	})

	// A02: the agent is killed as often as can be while it works.
	part("killed all the time", func(t *testing.T) {
		next := s.build(testbed.System{Generation: "3"})
		s.give(s.release(next), time.Minute)
		s.sh("for i in $(seq 15); do systemctl kill --signal=KILL nixfleet-agent; sleep 0.23; done")
		s.want(s.outcome(), fleet.OutcomeLive, "")
		s.runs(next)
		now = next
	})

	// A11: a new kernel is staged, the machine rebooted, and the boot id is
	// the proof.
	part("another kernel", func(t *testing.T) {
		boot := s.sh("cat /proc/sys/kernel/random/boot_id")
		next := s.build(testbed.System{Generation: "4", Kernel: "2"})
		s.give(s.release(next), 3*time.Minute)
		s.seen("awaiting-reboot", func(r fleet.Report) bool { return r.Phase == fleet.AssignAwaitingReboot })
		r := s.outcome()
		s.want(r, fleet.OutcomeLive, "")
		if r.BootID == boot || r.BootID != s.sh("cat /proc/sys/kernel/random/boot_id") || string(r.Booted) != next {
			t.Errorf("boot %s, before it was %s; booted %s", r.BootID, boot, r.Booted)
		}
		s.runs(next)
		now = next
	})

	// A03: power failure in the middle of a switch that never ends.
	part("power failure", func(t *testing.T) {
		next := s.build(testbed.System{Generation: "5", Kernel: "2", Fault: "hang"})
		s.give(s.release(next), 3*time.Minute)
		s.eventually("cat /var/lib/nixfleet/agent/switch/*.started && echo begun", "begun")
		check(t, s.host.Crash(s.ctx))
		check(t, s.host.WriteFile(s.ctx, "/boot/default", []byte(now+"\n"), 0o644)) // the boot loader had not got to it
		check(t, s.host.Boot(s.ctx))
		_, err := s.host.Wait(s.ctx)
		check(t, err)
		s.want(s.outcome(), fleet.OutcomeFailed, fleet.ReasonInterrupted)
		s.runs(now)
	})

	// E04 H06: a revert order leads to what ran before, once.
	part("revert order", func(t *testing.T) {
		before := now
		next := s.build(testbed.System{Generation: "6", Kernel: "2"})
		d := s.release(next)
		s.give(d, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeLive, "")
		s.plane.update(func() {
			s.plane.orders = api.Orders{Etag: "revert", Revert: &fleet.Order{Digest: d, Rollout: rolloutID(s.order), Attempt: 1}}
		})
		s.seen("outcome of the revert order", func(r fleet.Report) bool {
			return r.Kind == fleet.ReportOutcome && r.Reason == fleet.ReasonRevertOrdered && r.Outcome == fleet.OutcomeReverted
		})
		s.runs(before)

		// H03: no loop makes the machine take it again, but an operator may. Then it
		// is not left again by order.
		s.give(d, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeLive, "")
		s.plane.update(func() {
			s.plane.orders = api.Orders{Etag: "revert again", Revert: &fleet.Order{Digest: d, Rollout: rolloutID(s.order), Attempt: 1}}
		})
		s.seen("refusal of the second revert order", func(r fleet.Report) bool {
			return r.Kind == fleet.ReportOutcome && r.Reason == fleet.ReasonRevertRepeated && r.Outcome == fleet.OutcomeRefused
		})
		s.runs(next)
		now = next
	})

	// E01: another store path in the entry is refused, and nothing changes.
	part("tampered release", func(t *testing.T) {
		d := s.release(s.build(testbed.System{Generation: "7", Kernel: "2"}))
		evil := s.build(testbed.System{Generation: "evil", Kernel: "2"})
		s.plane.update(func() {
			var b trust.Bundle
			var e fleet.Entry
			check(t, json.Unmarshal(s.plane.bundles[d], &b))
			check(t, json.Unmarshal(b.Entry, &e))
			e.StorePath = fleet.StorePath(evil)
			var err error
			b.Entry, err = json.Marshal(e)
			check(t, err)
			s.plane.bundles[d], err = json.Marshal(b)
			check(t, err)
		})
		s.give(d, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeRefused, fleet.ReasonProofMismatch)
		s.runs(now)
	})

	// A hold of the machine's own keeps it as it is, and says so.
	part("local hold", func(t *testing.T) {
		s.sh("mkdir -p /run/nixfleet/inhibit.d; echo backup under way > /run/nixfleet/inhibit.d/backup")
		next := s.build(testbed.System{Generation: "8", Kernel: "2"})
		s.give(s.release(next), time.Minute)
		s.plane.await("waiting agent", func() bool { return strings.Contains(s.plane.seen.Waiting, "backup under way") })
		s.runs(now)
		s.sh("rm /run/nixfleet/inhibit.d/backup")
		s.want(s.outcome(), fleet.OutcomeLive, "")
		now = next
	})

	// A09: without a control plane the machine lives on, and tells later.
	part("control plane away", func(t *testing.T) {
		next := s.build(testbed.System{Generation: "9", Kernel: "2"})
		s.give(s.release(next), time.Minute)
		s.seen("applying", func(r fleet.Report) bool {
			return r.Rollout == rolloutID(s.order) && r.Phase == fleet.AssignApplying
		})
		s.plane.update(func() { s.plane.down = true })
		s.eventually("nixfleet-agent status", "state      idle")
		s.runs(next)
		s.plane.update(func() { s.plane.down = false })
		s.want(s.outcome(), fleet.OutcomeLive, "")
		now = next
	})

	// A13: a switch by hand is reported once, and not undone.
	part("switch by hand", func(t *testing.T) {
		hand := s.build(testbed.System{Generation: "hand", Kernel: "2"})
		check(t, s.host.Add(s.ctx, hand))
		s.sh("nix-env -p /nix/var/nix/profiles/system --set " + hand + "; " + hand + "/bin/switch-to-configuration switch")
		s.seen("drift", func(r fleet.Report) bool { return r.Kind == fleet.ReportDrift && string(r.Running) == hand })
		s.plane.await("drift in check-in", func() bool { return s.plane.seen.Drift })
		s.runs(hand)
		// One that is in progress is waited for.
		next := s.build(testbed.System{Generation: "10", Kernel: "2"})
		d := s.release(next)
		s.sh("systemd-run --quiet --unit=by-hand flock /run/nixos/switch-to-configuration.lock sleep 300")
		s.give(d, time.Minute)
		s.plane.await("waiting agent", func() bool { return strings.Contains(s.plane.seen.Waiting, "another switch is in progress") })
		s.sh("systemctl stop by-hand")
		s.want(s.outcome(), fleet.OutcomeLive, "") // by order, the machine runs a release of the fleet again
		s.runs(next)
		now = next
	})

	// A14: the cable is out while the system is copied.
	part("cable out and in", func(t *testing.T) {
		next := s.build(testbed.System{Generation: "11", Kernel: "2", PayloadMiB: 12})
		check(t, s.host.Cable(s.ctx, "40mbit"))
		s.give(s.release(next), 2*time.Minute)
		s.seen("fetching", func(r fleet.Report) bool {
			return r.Rollout == rolloutID(s.order) && r.Phase == fleet.AssignFetching
		})
		check(t, s.host.Cable(s.ctx, testbed.CableOut))
		s.eventually("nixfleet-agent status", "at fetch")
		check(t, s.host.Cable(s.ctx, testbed.CableIn))
		s.want(s.outcome(), fleet.OutcomeLive, "")
		s.runs(next)
		now = next
	})

	// What may be wanted soon is fetched and verified, and nothing else.
	part("prefetch", func(t *testing.T) {
		next := s.build(testbed.System{Generation: "12", Kernel: "2"})
		d := s.release(next)
		s.plane.update(func() { s.plane.orders = api.Orders{Etag: "prefetch", Prefetch: d} })
		s.eventually("nix-store --check-validity "+next+" && echo valid", "valid")
		s.runs(now)
		s.give(d, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeLive, "")
		now = next
	})

	// A17 E03 H13: a machine that lost its state has its floor beside the GC roots.
	// Without that copy it accepts only what it runs, which it does not switch to
	// again, until a person says what its floor is.
	part("state lost", func(t *testing.T) {
		s.plane.update(func() { s.plane.orders = api.Orders{Etag: "none"} })
		lose := "systemctl stop nixfleet-agent; cd /var/lib/nixfleet/agent && find . -mindepth 1 ! -path './identity*' -delete; "
		old := s.release(s.build(testbed.System{Generation: "13", Kernel: "2"}))
		s.want(s.apply(now), fleet.OutcomeLive, "")
		s.sh("nix-store --gc --print-dead > /dev/null")
		s.want(s.apply(s.build(testbed.System{Generation: "13b", Kernel: "2"})), fleet.OutcomeLive, "") // the floor is that of the one before
		now = s.sh("readlink -f /run/current-system")
		s.sh(lose + "systemctl start nixfleet-agent")
		s.give(old, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeRefused, fleet.ReasonBelowFloor)
		s.runs(now)

		s.plane.update(func() { s.plane.orders = api.Orders{Etag: "none again"} })
		s.sh(lose + "rm /nix/var/nix/gcroots/nixfleet/floor.json; systemctl start nixfleet-agent")
		s.give(old, 20*time.Second)
		s.plane.await("waiting agent", func() bool { return strings.Contains(s.plane.seen.Waiting, string(fleet.ReasonFloorUnknown)) })
		r := s.apply(now)
		s.want(r, fleet.OutcomeLive, "")
		if r.Confirmed != "" {
			t.Errorf("it was switched to again: %+v", r)
		}
		next := s.release(s.build(testbed.System{Generation: "13c", Kernel: "2"}))
		s.give(next, 20*time.Second)
		s.plane.await("agent that waits on", func() bool { return strings.Contains(s.plane.seen.Waiting, string(fleet.ReasonFloorUnknown)) })
		s.sh(fmt.Sprintf("nixfleet-agent adopt-floor --sequence %d", s.seq))
		s.want(s.outcome(), fleet.OutcomeLive, "")
		now = s.sh("readlink -f /run/current-system")
		s.give(old, 20*time.Second)
		s.want(s.outcome(), fleet.OutcomeRefused, fleet.ReasonBelowFloor)
		s.runs(now)
	})

	// A11: a component that must not be switched under way is left for the
	// next boot.
	part("switch inhibitor", func(t *testing.T) {
		boot := s.sh("cat /proc/sys/kernel/random/boot_id")
		next := s.build(testbed.System{Generation: "14", Kernel: "2", Inhibitors: map[string]string{"dbus": "2"}})
		s.give(s.release(next), 3*time.Minute)
		r := s.outcome()
		s.want(r, fleet.OutcomeLive, "")
		if r.BootID == boot {
			t.Error("it was switched to without a reboot")
		}
		s.runs(next)
		now = next
	})

	// A03: the power is cut at one moment after the other of a good attempt;
	// each time the machine comes to rest where it says it does.
	part("power cut at any moment", func(t *testing.T) {
		for i, delay := range []string{"0.1", "0.4", "0.7"} {
			next := s.build(testbed.System{Generation: fmt.Sprint("cut-", i), Kernel: "2", Inhibitors: map[string]string{"dbus": "2"}})
			s.give(s.release(next), time.Minute)
			s.seen("work", func(r fleet.Report) bool { return r.Rollout == rolloutID(s.order) })
			s.sh("sleep " + delay)
			check(t, s.host.Crash(s.ctx))
			check(t, s.host.Boot(s.ctx))
			_, err := s.host.Wait(s.ctx)
			check(t, err)
			r := s.outcome()
			if r.Outcome.Success() {
				now = next
			} else if r.Reason != fleet.ReasonInterrupted {
				s.want(r, fleet.OutcomeLive, "")
			}
			s.runs(now)
			t.Logf("cut %s s after its first report: %s %s", delay, r.Outcome, r.Reason)
		}
	})
}
