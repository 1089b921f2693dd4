// SPDX-License-Identifier: MIT

package states

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// machine obeys whatever it is ordered, with signed releases and the trust rules,
// and keeps account of what its journal makes of it.
type machine struct {
	*rapid.T
	j        Journal
	now      Moment
	releases map[fleet.Digest]trust.Bundle
	onDisk   fleet.Generations
	attempts int
	first    map[fleet.Digest]int64 // when a release first became current
	left     map[fleet.Digest]int   // how often it was left for an older one by the control plane's will
}

const window = 2 * trusttest.Day

func newMachine(t *testing.T, rt *rapid.T, sequences ...uint64) (*machine, []fleet.Digest) {
	f := trusttest.New(t, "acme", nil)
	m := &machine{T: rt, j: New(), releases: map[fleet.Digest]trust.Bundle{}, first: map[fleet.Digest]int64{}, left: map[fleet.Digest]int{}}
	m.now = Moment{WallMs: trusttest.Now, Boot: 100, BootID: "boot"}
	m.j.Trust = f.State("web-01")
	var digests []fleet.Digest
	for _, n := range sequences {
		h := f.Header(n)
		h.Policy.RevertWindowMs = window
		r := f.Release(h, trusttest.Entry("web-01", fmt.Sprint(n)))
		m.releases[r.Digest] = f.Bundle(r, "web-01")
		digests = append(digests, r.Digest)
	}
	m.onDisk = fleet.Generations{Running: handPath, Booted: handPath, BootDefault: handPath}
	return m, digests
}

func (m *machine) input(in Input) {
	m.now.Boot++
	m.now.WallMs += 1000
	before := m.j.Current
	m.j, _ = Next(m.j, in, m.now)
	if c := m.j.Current; c != nil && c.Digest != "" {
		if _, ok := m.first[c.Digest]; !ok && (before == nil || before.Digest != c.Digest) {
			m.first[c.Digest] = m.now.WallMs
		}
	}
	m.check()
}

func (m *machine) check() {
	c, f := m.j.Current, m.j.Trust.Floor
	if c == nil || c.Digest == "" {
		return
	}
	if p := f.Pending; p != nil && p.Digest == c.Digest && p.ActivatedAt == 0 {
		m.Fatalf("release %d is current and pending, and its window has not begun", c.Sequence)
	}
	if s := m.j.Staged; s != nil && s.Sequence < c.Sequence {
		return // it was reverted in time, and waits for the boot
	}
	floor := f.At(c.Line, m.now.WallMs)
	if age := m.now.WallMs - m.first[c.Digest]; age >= window && floor.Sequence < c.Sequence {
		m.Fatalf("release %d became current %d h ago for the first time, and the floor is %d", c.Sequence, age/trusttest.Hour, floor.Sequence)
	}
	if g := m.j.LastGood; g != nil && g.Digest != "" && g.Sequence > floor.Sequence && g.Sequence > c.Sequence {
		m.Fatalf("the last good release %d is above the floor %d", g.Sequence, floor.Sequence)
	}
}

// obey carries out an order. How is what becomes of the new system: good,
// unhealthy, or staged for the next boot.
func (m *machine) obey(kind OrderKind, d fleet.Digest, how string) {
	before := m.j.Current
	m.attempts++
	m.input(Ordered{Order{Kind: kind, Order: fleet.Order{Digest: d, Rollout: "r", Attempt: m.attempts}}})
	for range 30 {
		if m.j.Step == Idle {
			break
		}
		m.input(m.effect(d, how))
	}
	if m.j.Step != Idle {
		m.Fatalf("the attempt hangs at %s", m.j.Step)
	}
	if after := m.j.Current; before != nil && after != nil && before.Digest != "" && after.Sequence < before.Sequence {
		if m.left[before.Digest]++; m.left[before.Digest] > 1 {
			m.Fatalf("release %d was left for an older one %d times", before.Sequence, m.left[before.Digest])
		}
	}
}

// effect is how the present step ends.
func (m *machine) effect(d fleet.Digest, how string) Input {
	switch m.j.Step {
	case Judge:
		a, r := trust.Accept(m.j.Trust, m.now.WallMs, m.releases[d])
		if r != nil {
			return Refused{Reason: r.Reason, Message: r.Detail}
		}
		return Accepted{Release: a}
	case Prepare:
		return Prepared{Generations: m.onDisk, Reboot: how == "staged"}
	case Profile:
		m.onDisk.BootDefault = m.j.Work.Target.Path
	case Switch:
		if how != "staged" {
			m.onDisk.Running = m.j.Work.Target.Path
		}
		return Switched{Generations: m.onDisk}
	case Confirm:
		return Confirmed{By: "control-plane"}
	case Verify:
		if how == "unhealthy" {
			return Unhealthy{Reason: fleet.ReasonCheckFailed}
		}
		return Healthy{}
	case RollbackProfile:
		m.onDisk.BootDefault = m.j.Work.Previous.Path
	case RollbackSwitch:
		m.onDisk.Running = m.j.Work.Previous.Path
		return Switched{Generations: m.onDisk}
	}
	return Done{}
}

func (m *machine) boot() {
	m.now.BootID += "'"
	m.now.Boot = 5
	m.onDisk.Running, m.onDisk.Booted = m.onDisk.BootDefault, m.onDisk.BootDefault
	m.input(Rebooted{m.onDisk})
}

func (m *machine) wait(ms int64) {
	m.now.WallMs += ms
	m.now.Boot += float64(ms) / 1000
	m.input(Observed{m.onDisk})
}

// E04: whatever the control plane orders, and however a release becomes current,
// its revert window begins once, ends, and lets it be left for an older one once.
func TestNext_BoundsHowLongAndHowOftenAReleaseIsReverted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, releases := newMachine(t, rt, 5, 6, 7)
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"apply", "apply", "revert", "boot", "wait"}).Draw(rt, "what") {
			case "apply":
				m.obey(Apply, rapid.SampledFrom(releases).Draw(rt, "release"), rapid.SampledFrom([]string{"good", "good", "unhealthy", "staged"}).Draw(rt, "how"))
			case "revert":
				if c := m.j.Current; c != nil {
					m.obey(Revert, c.Digest, "good")
				}
			case "boot":
				m.boot()
			case "wait":
				m.wait(rapid.Int64Range(0, 60).Draw(rt, "hours") * trusttest.Hour)
			}
		}
	})
}

// E04: a system that was staged and booted may be reverted within its window, and
// not a year later.
func TestNext_BeginsTheWindowOfAStagedSystemAtItsBoot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, releases := newMachine(t, rt, 5, 6)
		m.obey(Apply, releases[0], "good")
		m.wait(3 * trusttest.Day)
		m.obey(Apply, releases[1], "staged")
		m.wait(rapid.Int64Range(0, 100).Draw(rt, "hours until it is booted") * trusttest.Hour)
		m.boot()
		if m.j.Current.Digest != releases[1] {
			rt.Fatalf("current is %+v", m.j.Current)
		}
		after := rapid.Int64Range(0, 365*24).Draw(rt, "hours until the order") * trusttest.Hour
		m.wait(after)
		m.obey(Revert, releases[1], "good")
		if reverted := m.j.Current.Digest == releases[0]; reverted != (m.now.WallMs-m.first[releases[1]] < window) {
			rt.Fatalf("%d h after the boot: reverted is %t", after/trusttest.Hour, reverted)
		}
	})
}

// E04: ordering the last good release again is a revert: it is obeyed once.
func TestNext_TakesAnApplyOfTheLastGoodReleaseForARevert(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, releases := newMachine(t, rt, 5, 6)
		m.obey(Apply, releases[0], "good")
		m.wait(3 * trusttest.Day)
		flips := 0
		for range 10 {
			m.obey(Apply, releases[1], "good")
			m.wait(trusttest.Hour)
			if m.obey(Apply, releases[0], "good"); m.j.Current.Digest == releases[0] {
				flips++
			}
		}
		if flips != 1 || m.j.Current.Digest != releases[1] {
			rt.Fatalf("%d flips, current is %d", flips, m.j.Current.Sequence)
		}
		m.wait(window)
		if floor := m.j.Trust.Floor.At("main", m.now.WallMs).Sequence; floor != 6 {
			rt.Fatalf("the floor is %d", floor)
		}
	})
}
