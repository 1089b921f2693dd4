// SPDX-License-Identifier: MIT

//go:build linux

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// bin is the folder of the programs, built for this run.
var bin string

// sum is the last line of the output.
var sum struct {
	Points     int              `json:"points"`
	Runs       int              `json:"runs"`
	Stuck      int              `json:"stuck"`
	Wrong      int              `json:"wrong"`
	Missed     int              `json:"missed"` // runs that did not reach their point
	Completed  int              `json:"completed"`
	RolledBack int              `json:"rolledBack"`
	Scenarios  map[scenario]int `json:"scenarios"` // points of each
	DurationMs int64            `json:"durationMs"`
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if sum.Runs > 0 {
		b, err := json.Marshal(sum)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		fmt.Printf("%s\n", b)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "nixfleet-crash-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = dir
	_, err = proc.Run(context.Background(), proc.Cmd{
		Path: "go", Args: []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/", "./cmd/..."},
		Dir: "../..", Env: append(os.Environ(), "CGO_ENABLED=0"), Timeout: 10 * time.Minute,
	})
	if err != nil {
		return 1, fmt.Errorf("build programs: %w", err)
	}
	return m.Run(), nil
}

// job is a run to be done.
type job struct {
	scenario scenario
	kind     kind
	at       point
}

// Whenever the agent is killed or the power fails, the machine ends on the new
// system or on the old one, machine and control plane agree on which, and the reason
// is reported (A02, A03). CRASH is a number of points, or all.
func TestCrash_AtEachPointTheMachineEndsRight(t *testing.T) {
	testbed.Require(t)
	scenarios, limit := []scenario{good}, 6
	switch v := os.Getenv("CRASH"); v {
	case "":
	case "all":
		scenarios, limit = []scenario{good, dies, reboots, mute}, 0
	default:
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("CRASH=%q is neither a number of points nor all", v)
		}
		limit = n
	}
	begin := time.Now()
	b := &bench{T: t, machines: raise(t, scenarios)}
	b.jobs = b.plan(scenarios, limit)
	if limit == 0 && sum.Points < 100 {
		t.Errorf("only %d points were found: something is not watched", sum.Points)
	}
	b.work()
	sum.DurationMs = time.Since(begin).Milliseconds()
	// Two events at the same time, such as a report and the journal, may happen in
	// either order, so that some runs miss their point. If many do, the test proves
	// nothing.
	if sum.Missed > 1+sum.Runs/50 {
		t.Errorf("%d of %d runs did not reach their points", sum.Missed, sum.Runs)
	}
}

// raise makes the machines and switches them to the plain system.
func raise(t *testing.T, scenarios []scenario) []*machine {
	ctx := t.Context()
	cast := make([]demo.Actor, max(2, len(scenarios)))
	for i := range cast {
		cast[i] = demo.Actor{ID: fleet.MachineID(fmt.Sprintf("crash-%02d", i+1)), Reboot: "if-needed"}
	}
	scene, err := demo.NewScene(ctx, bin, cast)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := scene.Clean(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	if err := scene.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	s := &stage{Scene: scene}
	if err := s.prepare(ctx, scenarios); err != nil {
		t.Fatal(err)
	}
	machines := make([]*machine, len(cast))
	var wg sync.WaitGroup
	for i, a := range cast {
		machines[i] = &machine{stage: s, id: a.ID, host: scene.Host(a.ID), likes: scenarios[i%len(scenarios)]}
		wg.Go(func() {
			r, err := machines[i].lead(ctx, plain, nothing, point{})
			if err = errors.Join(err, r.Stuck, r.Wrong); err != nil {
				t.Errorf("roll the first release out to %s: %v", a.ID, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return machines
}

// bench does the runs.
type bench struct {
	*testing.T
	machines []*machine

	mu   sync.Mutex
	jobs []job
}

// plan finds the points of each scenario, by running it without a kill, and makes
// a run for each. A scenario adds only points that the ones before do not have.
func (b *bench) plan(scenarios []scenario, limit int) []job {
	found := make([]result, len(scenarios))
	var wg sync.WaitGroup
	for i, s := range scenarios {
		wg.Go(func() { found[i] = b.reference(b.machines[i], s) })
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	var jobs []job
	var before []point
	sum.Scenarios = map[scenario]int{}
	for i, s := range scenarios {
		points := slices.DeleteFunc(slices.Clone(found[i].Points), func(p point) bool {
			return slices.Contains(before, p) && (!p.late() || s == mute || s == reboots && p.Step == states.Report)
		})
		before = append(before, points...)
		if limit > 0 {
			points = spread(points, limit)
		}
		sum.Scenarios[s] = len(points)
		sum.Points += len(points)
		for n, p := range points {
			for k, kind := range []kind{agent, power} {
				// With a limit, each point is done once. While a machine boots there is no agent to kill.
				if (limit == 0 || n%2 == k) && (kind == power || found[i].Alive[p]) {
					jobs = append(jobs, job{s, kind, p})
				}
			}
		}
	}
	return jobs
}

// reference runs a scenario twice without a kill, and returns the points that both
// runs reach.
func (b *bench) reference(m *machine, s scenario) result {
	var both result
	for i := range 2 {
		r, err := m.run(b.Context(), s, nothing, point{})
		if err = errors.Join(err, r.Stuck, r.Wrong); err != nil {
			b.Errorf("%s without a kill: %v\n%s", s, err, m.evidence(b.Context()))
			return r
		}
		if i == 1 {
			r.Points = slices.DeleteFunc(r.Points, func(p point) bool { return !slices.Contains(both.Points, p) })
		}
		both = r
	}
	return both
}

// late reports whether a point is after the switch, where it matters which system
// it is.
func (p point) late() bool {
	switch p.Step {
	case states.AwaitReboot, states.HandOver, states.Confirm, states.Disarm, states.Verify, states.Report:
		return true
	}
	return false
}

// spread takes n points, evenly.
func spread(points []point, n int) []point {
	if n >= len(points) {
		return points
	}
	out := make([]point, n)
	for i := range out {
		out[i] = points[(2*i+1)*len(points)/(2*n)]
	}
	return out
}

// work does the runs, on all machines in parallel.
func (b *bench) work() {
	var wg sync.WaitGroup
	for _, m := range b.machines {
		wg.Go(func() {
			for {
				j, ok := b.next(m)
				if !ok || !b.do(m, j) {
					return
				}
			}
		})
	}
	wg.Wait()
	if left := len(b.jobs); left > 0 {
		b.Errorf("%d runs were not done: no machine is left", left)
	}
}

// next takes a run that can begin on the system that the machine runs, or any.
func (b *bench) next(m *machine) (job, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.jobs) == 0 || b.Context().Err() != nil {
		return job{}, false
	}
	at := max(0, slices.IndexFunc(b.jobs, func(j job) bool { return j.scenario.target(m.at) != "" && (m.at != plain || j.scenario == m.likes) }))
	j := b.jobs[at]
	b.jobs = slices.Delete(b.jobs, at, at+1)
	return j, true
}

// tries is how often a run is repeated to reach its point: the order of two threads
// of an agent may differ.
const tries = 3

// do does a run and prints how it ended; false if the machine cannot be used any
// more.
func (b *bench) do(m *machine, j job) bool {
	begin := time.Now()
	var r result
	var err error
	for range tries {
		if r, err = m.run(b.Context(), j.scenario, j.kind, j.at); err != nil || r.Struck || r.Stuck != nil || r.Wrong != nil {
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sum.Runs++
	said := string(r.State)
	switch {
	case err != nil:
		b.Errorf("%s, %s at %s: %v", j.scenario, j.kind, j.at, err)
		said = "ERROR"
	case r.Stuck != nil:
		sum.Stuck++
		said = "STUCK"
		err = r.Stuck
	case r.Wrong != nil:
		sum.Wrong++
		said = "WRONG"
		err = r.Wrong
	case !r.Struck:
		sum.Missed++
		said = "MISSED"
		b.Logf("%s, %s at %s: %d runs did not reach the point: %v", j.scenario, j.kind, j.at, tries, r.Points)
	case r.State == fleet.RolloutCompleted:
		sum.Completed++
	default:
		sum.RolledBack++
		said = fmt.Sprintf("%s (%s)", r.Outcome, r.Reason)
	}
	fmt.Printf("%-8s %-7s %-60s %s %s %.1fs\n", j.scenario, j.kind, j.at, m.id, said, time.Since(begin).Seconds())
	if err != nil {
		b.Errorf("%s, %s at %s, %s: %s: %v\n%s", j.scenario, j.kind, j.at, m.id, said, err, m.evidence(b.Context()))
	}
	return err == nil
}
