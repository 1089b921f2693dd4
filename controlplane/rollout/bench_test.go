// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// bigFleet is a rollout of machines that are all online and obey.
type bigFleet struct {
	state   rollout.State
	world   rollout.World
	now     int64
	offered []fleet.MachineID // and not yet reported
}

func newBigFleet(b *testing.B, n, parallel int) *bigFleet {
	b.Helper()
	s := spec("1%", "10%", "100%")
	s.MaxParallel = parallel
	in := rollout.Input{ID: "r1", Spec: s, Now: start, Run: start}
	for i := range n {
		id := fleet.MachineID(fmt.Sprintf("m-%06d", i))
		in.Entries = append(in.Entries, fleet.Entry{ID: id, StorePath: target("m")})
		in.Machines = append(in.Machines, fleet.Machine{ID: id, Lifecycle: fleet.Active})
	}
	state, _, err := rollout.Build(in)
	if err != nil {
		b.Fatal(err)
	}
	facts := rollout.Facts{Lifecycle: fleet.Active, Online: true, Running: system("m-old")}
	f := &bigFleet{state: state, now: start}
	f.world.Machine = func(fleet.MachineID) (rollout.Facts, bool) { return facts, true }
	f.step(rollout.Event{})
	return f
}

func (f *bigFleet) step(ev rollout.Event) {
	f.world.Run = f.now
	res := rollout.Step(f.state, ev, f.world, f.now)
	f.state.Apply(res)
	f.offered = append(f.offered, res.Wake...)
}

// transaction applies up to 256 reports of success, then ticks.
func (f *bigFleet) transaction() {
	f.now += second
	n := min(256, len(f.offered))
	for _, id := range f.offered[:n] {
		f.step(rollout.Event{Report: liveOf(f.state.Assignments[id])})
	}
	f.offered = f.offered[n:]
	f.step(rollout.Event{})
}

func liveOf(a fleet.Assignment) *fleet.Report {
	return &fleet.Report{
		Machine: a.Machine, Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Rollout: a.Rollout, Attempt: a.Attempt,
		Digest: a.Digest, StorePath: a.StorePath, Checks: passing,
		Generations: fleet.Generations{Running: a.StorePath, BootDefault: a.StorePath},
	}
}

// BenchmarkReport is one machine's report of success in rollouts of different
// sizes: it must not cost more in a bigger one.
func BenchmarkReport(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("machines=%d", n), func(b *testing.B) {
			f := newBigFleet(b, n, 0)
			ev := rollout.Event{Report: liveOf(f.state.Assignments[f.offered[0]])}
			b.ReportAllocs()
			for b.Loop() {
				if res := rollout.Step(f.state, ev, f.world, start+second); len(res.Assignments) != 1 {
					b.Fatal("the report did not count")
				}
			}
		})
	}
}

// BenchmarkTick is a look at every machine of a rollout of 100,000 whose last
// batch is open.
func BenchmarkTick(b *testing.B) {
	f := newBigFleet(b, 100_000, 5000)
	for f.state.Rollout.Batch < 2 {
		f.transaction()
	}
	for b.Loop() {
		rollout.Step(f.state, rollout.Event{}, f.world, f.now)
	}
}

// BenchmarkWholeRollout takes 100,000 machines to the end, 500 at a time.
func BenchmarkWholeRollout(b *testing.B) {
	for b.Loop() {
		f := newBigFleet(b, 100_000, 500)
		for !f.state.Rollout.State.Final() {
			f.transaction()
		}
		if f.state.Rollout.State != fleet.RolloutCompleted {
			b.Fatal(f.state.Rollout.Why)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/100_000, "us/machine")
}
