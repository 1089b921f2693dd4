// SPDX-License-Identifier: MIT

//go:build linux

package crash

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// Times after which a run has failed. Without a kill a rollout takes some seconds.
const (
	rolloutLimit = 150 * time.Second
	restLimit    = 30 * time.Second
)

// scenario is what a machine goes through.
type scenario string

const (
	good    scenario = "good"    // to a system with another build of the agent
	dies    scenario = "dies"    // to one whose service fails soon after the switch
	mute    scenario = "mute"    // to one whose agent does not run, so that the watchdog must act
	reboots scenario = "reboots" // to one with another kernel
)

// kind is how a run is interrupted.
type kind string

const (
	nothing kind = "nothing"
	agent   kind = "kill -9"
	power   kind = "power"
)

// Systems of the fleet. Each is a release, which is signed again for each rollout.
// The scenarios good and dies always change the build of the agent.
const (
	plain   = "a"
	other   = "b"  // another build of the agent
	dying   = "da" // the service of a fails
	dying2  = "db" // the service of b fails
	silent  = "m"  // its agent ends at once
	kernel2 = "k"  // another kernel, and another build of the agent
)

func edits(name string) func(*demo.Host) {
	return func(h *demo.Host) {
		h.NewAgent = name == other || name == dying2 || name == kernel2
		switch name {
		case dying, dying2:
			h.Fault = "unhealthy"
			// However early the agent begins to probe, it probes for longer than the service runs.
			toml := "nixfleet/agent.toml"
			h.Files[toml] = strings.ReplaceAll(h.Files[toml], "successes = 3", "successes = 6")
		case silent:
			h.Fault = "agent-crash"
		case kernel2:
			h.Kernel = "2"
		}
	}
}

// target is the system to which a scenario switches a machine that runs from; "" if
// the scenario cannot begin there.
func (s scenario) target(from string) string {
	return map[scenario]map[string]string{
		good: {plain: other, other: plain}, dies: {plain: dying2, other: dying}, mute: {plain: silent, other: silent}, reboots: {plain: kernel2, kernel2: plain},
	}[s][from]
}

// keeps reports whether a machine should stay on the new system.
func (s scenario) keeps() bool { return s == good || s == reboots }

// stage is the scene with its releases.
type stage struct {
	*demo.Scene
	made map[string]demo.Made // by name of the system

	mu sync.Mutex // releases are numbered: made one after the other
	n  int
}

// prepare makes a release of each system that the scenarios need.
func (s *stage) prepare(ctx context.Context, scenarios []scenario) error {
	s.made = map[string]demo.Made{}
	names := []string{plain, other}
	if slices.Contains(scenarios, dies) {
		names = append(names, dying, dying2)
	}
	if slices.Contains(scenarios, mute) {
		names = append(names, silent)
	}
	if slices.Contains(scenarios, reboots) {
		names = append(names, kernel2)
	}
	for _, name := range names {
		each := map[fleet.MachineID]func(*demo.Host){}
		for _, m := range s.Cast {
			each[m.ID] = edits(name)
		}
		r, err := s.Release(ctx, name, s.Systems(name, each))
		if err != nil {
			return err
		}
		s.made[name] = r
	}
	return nil
}

// release signs the systems of a name again, so that the release is newer than any
// that a machine has seen.
func (s *stage) release(ctx context.Context, name string) (fleet.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	var r demo.Made
	_, err := s.Nixfleet(ctx, &r, "release", "create", "--from", string(s.made[name].Digest), "--name", fmt.Sprintf("%s-%d", name, s.n), "--sign-key", filepath.Join(s.Dir, "trust", "keys", "release.sec"))
	return r.Digest, err
}

// machine is one of the scene's.
type machine struct {
	*stage
	id    fleet.MachineID
	host  *testbed.Host
	at    string   // name of the system that it runs
	likes scenario // whose runs it does first, if it can choose
}

func (m *machine) path(name string) fleet.StorePath { return m.made[name].Machines[m.id] }

// result is how a run ended.
type result struct {
	State   fleet.RolloutState
	Outcome fleet.Outcome
	Reason  fleet.Reason
	Points  []point        // that were reached
	Alive   map[point]bool // whether there was a process to kill
	Struck  bool
	Stuck   error // the run did not end
	Wrong   error // it ended on the wrong system, or with a wrong outcome
}

// ended is what the command line prints about a rollout.
type ended struct {
	ID          fleet.RolloutID    `json:"id"`
	State       fleet.RolloutState `json:"state"`
	Why         string             `json:"why"`
	Assignments []fleet.Assignment `json:"assignments"`
}

// run runs a scenario on the machine, interrupted at a point. The error is about the
// test, not about the machine.
func (m *machine) run(ctx context.Context, s scenario, k kind, at point) (result, error) {
	target := s.target(m.at)
	if target == "" { // by way of the plain system
		if r, err := m.lead(ctx, plain, nothing, point{}); err != nil || r.Stuck != nil || r.Wrong != nil {
			return r, err
		}
		target = s.target(m.at)
	}
	r, err := m.lead(ctx, target, k, at)
	if err == nil && r.Stuck == nil && r.Wrong == nil {
		r.Wrong = judge(s, k, r)
	}
	return r, err
}

// judge says what is wrong with the outcome of a run that ended, and after which
// machine and control plane agree on what runs.
func judge(s scenario, k kind, r result) error {
	completed := r.State == fleet.RolloutCompleted
	switch {
	case !s.keeps() && completed:
		return errors.New("an unhealthy system was reported healthy")
	case !s.keeps() && k != power && r.Outcome != fleet.OutcomeRolledBack:
		return fmt.Errorf("the outcome is %q, want %q", r.Outcome, fleet.OutcomeRolledBack)
	case s.keeps() && k != power && !completed:
		return fmt.Errorf("a good system was not kept: %s, %s", r.Outcome, r.Reason)
	case !completed && r.Outcome != fleet.OutcomeRolledBack && r.Outcome != fleet.OutcomeFailed:
		return fmt.Errorf("the machine rolled back and reports %q", r.Outcome)
	}
	return nil
}

// lead rolls a system out to the machine, interrupted at a point.
func (m *machine) lead(ctx context.Context, target string, k kind, at point) (result, error) {
	digest, err := m.release(ctx, target)
	if err != nil {
		return result{}, err
	}
	if err = m.forget(ctx, target); err != nil {
		return result{}, err
	}
	s := &strike{kind: k, at: at, host: m.host, off: make(chan struct{}, 1), alive: map[point]bool{}}
	programs := []string{string(m.path(target)) + "/bin/switch-to-configuration", string(m.path(target)) + "/activate"}
	if m.at != "" {
		programs = append(programs, string(m.path(m.at))+"/bin/switch-to-configuration", string(m.path(m.at))+"/activate")
	}
	w, err := newWatch(m.host, programs, s.stop)
	if err != nil {
		return result{}, err
	}
	booted := make(chan error, 1)
	go func() {
		if _, struck := <-s.off; !struck {
			booted <- nil
			return
		}
		booted <- m.host.Boot(ctx)
	}()
	e, err := m.rollout(ctx, digest)
	var r result
	if err == nil {
		r = m.end(ctx, e, target)
	}
	err = errors.Join(err, w.close())
	close(s.off)
	r.Points, r.Alive, r.Struck = s.passed, s.alive, s.struck
	return r, errors.Join(err, s.err, <-booted)
}

// strike kills the agent or cuts the power at a point.
type strike struct {
	kind kind
	at   point
	host *testbed.Host
	off  chan struct{} // gets a value when the power was cut

	passed []point
	alive  map[point]bool
	struck bool
	err    error
}

func (s *strike) stop(p point, victim int) bool {
	s.passed = append(s.passed, p)
	s.alive[p] = victim != 0
	if s.kind == nothing || p != s.at || s.kind == agent && victim == 0 {
		return false
	}
	s.struck = true
	if s.kind == agent {
		s.err = syscall.Kill(victim, syscall.SIGKILL)
		return true
	}
	// It must be off before the process that was stopped continues.
	s.err = s.host.Crash(context.Background())
	s.off <- struct{}{}
	return true
}

// forget removes a system from the host's store, except for what it shares with
// others, so that each rollout has something to fetch.
func (m *machine) forget(ctx context.Context, name string) error {
	const script = `[ ! -e "$1" ] || [ "$(readlink /run/current-system)" = "$1" ] || nix-store --delete --ignore-liveness "$1"`
	_, err := m.host.Exec(ctx, proc.Cmd{Path: "sh", Args: []string{"-c", script, "forget", string(m.path(name))}})
	return err
}

// rollout rolls a release out to this machine and follows it.
func (m *machine) rollout(ctx context.Context, d fleet.Digest) (ended, error) {
	var e ended
	_, err := m.Nixfleet(ctx, &e, "rollout", "create", "--release", string(d), "--on", string(m.id), "--strategy", "all-at-once",
		"--min-healthy", "300ms", "--healthy-deadline", "140s", "--wait", "--timeout", rolloutLimit.String())
	return e, err
}

// end waits until the machine is idle, and says how the run ended.
func (m *machine) end(ctx context.Context, e ended, target string) result {
	r := result{State: e.State}
	for _, a := range e.Assignments {
		r.Outcome, r.Reason = a.Outcome, a.Reason
	}
	want := m.at
	switch e.State {
	case fleet.RolloutCompleted:
		want = target
	case fleet.RolloutPaused:
		if _, err := m.Nixfleet(ctx, nil, "rollout", "cancel", string(e.ID), "--reason", "the next run begins"); err != nil {
			r.Stuck = err
			return r
		}
	case fleet.RolloutFailed:
	default:
		r.Stuck = fmt.Errorf("the rollout is %s after %s: %s", e.State, rolloutLimit, e.Why)
		return r
	}
	m.at = want
	var last state
	err := m.Until(ctx, restLimit, "the machine is idle on the right system", func(ctx context.Context) error {
		s, err := m.look(ctx)
		if err != nil {
			return err
		}
		last = s
		return last.differs(m.path(want))
	})
	switch {
	case err != nil && last.journal != "idle":
		r.Stuck = errors.Join(err, last.differs(m.path(want)))
	case err != nil:
		r.Wrong = errors.Join(err, last.differs(m.path(want)))
	}
	return r
}

// state is what a machine and the control plane report.
type state struct {
	running, profile, boot fleet.StorePath
	watchdog, app, journal string
	outbox                 string
	known                  fleet.Machine
}

const lookScript = `readlink /run/current-system
readlink -f /nix/var/nix/profiles/system
cat /boot/default
if [ -e $0/watchdog.json ]; then echo armed; else echo disarmed; fi
systemctl is-active app.service || true
sed 's/.*"step":"\([a-z-]*\)".*/\1/' $0/journal.json; echo
ls $0/outbox | wc -l`

func (m *machine) look(ctx context.Context) (state, error) {
	var s state
	res, err := m.host.Exec(ctx, proc.Cmd{Path: "sh", Args: []string{"-c", lookScript, stateDir}})
	if err != nil {
		return s, err
	}
	f := strings.Fields(string(res.Stdout))
	if len(f) != 7 {
		return s, fmt.Errorf("%s says %q", m.id, res.Stdout)
	}
	s.running, s.profile, s.boot = fleet.StorePath(f[0]), fleet.StorePath(f[1]), fleet.StorePath(f[2])
	s.watchdog, s.app, s.journal, s.outbox = f[3], f[4], f[5], f[6]
	_, err = m.Nixfleet(ctx, &s.known, "machine", "show", string(m.id))
	return s, err
}

// differs says what is not as it should be on an idle machine.
func (s state) differs(want fleet.StorePath) error {
	var errs []error
	same := func(what string, got, want any) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s is %v, want %v", what, got, want))
		}
	}
	same("the journal's step", s.journal, "idle")
	same("the running system", s.running, want)
	same("the system profile", s.profile, want)
	same("the boot default", s.boot, want)
	same("the watchdog", s.watchdog, "disarmed")
	same("app.service", s.app, "active")
	same("the number of files in the outbox", s.outbox, "0")
	same("the running system, for the control plane,", s.known.Running, want)
	same("the boot default, for the control plane,", s.known.BootDefault, want)
	same("the agent's state, for the control plane,", s.known.State, fleet.AgentIdle)
	same("the machine's health, for the control plane,", s.known.Health, fleet.Healthy)
	same("drift, for the control plane,", s.known.Drift, false)
	if s.known.Desired == nil || s.known.Desired.StorePath != want {
		errs = append(errs, fmt.Errorf("the control plane wants %+v of it, want %s", s.known.Desired, want))
	}
	return errors.Join(errs...)
}

// evidence is what people need to see why a run failed.
func (m *machine) evidence(ctx context.Context) string {
	const script = `cat $0/journal.json; echo; cat $0/watchdog.json 2>&1; echo; ls -l $0 $0/outbox $0/switch; journalctl -u nixfleet-agent -u nixfleet-watchdog -u 'nixfleet-switch-*' -o short-precise -n 150 --no-pager`
	res, err := m.host.Exec(ctx, proc.Cmd{Path: "sh", Args: []string{"-c", script, stateDir}})
	if err != nil {
		return err.Error() + string(res.Stderr)
	}
	return string(res.Stdout)
}
