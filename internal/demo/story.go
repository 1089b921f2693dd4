// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// cast are the machines, with the tags that their systems declare.
var cast = []struct {
	id   fleet.MachineID
	tags []fleet.Tag
}{
	{"web-01", []fleet.Tag{"web"}},
	{"web-02", []fleet.Tag{"web"}},
	{"db-01", []fleet.Tag{"db"}},
}

// host is what hosts.json says of a host: arguments of system.nix.
type host struct {
	Generation string            `json:"generation"`
	Fault      string            `json:"fault,omitempty"`
	Files      map[string]string `json:"files"`
}

// systems is one state of the flake: the same generation everywhere, with
// faults on some machines.
func (s *story) systems(generation string, faults map[fleet.MachineID]string) map[fleet.MachineID]host {
	out := map[fleet.MachineID]host{}
	for _, m := range cast {
		out[m.id] = host{Generation: generation, Fault: faults[m.id], Files: map[string]string{"nixfleet/agent.toml": s.agentTOML(m.id, m.tags)}}
	}
	return out
}

// agentTOML is a machine's agent configuration, with a check of its service.
func (s *story) agentTOML(id fleet.MachineID, tags []fleet.Tag) string {
	words := make([]string, len(tags))
	for i, t := range tags {
		words[i] = fmt.Sprintf("%q", t)
	}
	return fmt.Sprintf(`machineId = %q
tags = [%s]
[controlPlane]
url = %q
longPollSeconds = 30
pollSeconds = 1
[trust]
rootFile = "/etc/nixfleet/root.json"
[confirm]
deadlineSeconds = 15
beacons = ["tcp://%s:%d"]
[checks.app]
kind = "unit"
unit = "app.service"
intervalSeconds = 0.5
timeoutSeconds = 2
retries = 1
successes = 3
`, id, strings.Join(words, ", "), s.agentsURL(), s.tb.HubAddr(), cachePort)
}

// tell is the story.
func (s *story) tell(ctx context.Context) error {
	s.say("a control plane starts, on an embedded SQLite file and with TLS; the operator makes the fleet's keys")
	if err := s.scene(ctx); err != nil {
		return err
	}
	s.say("three machines boot, each with a real systemd, and enrol with one-time tokens: %s", names())
	if err := s.boot(ctx); err != nil {
		return err
	}
	one, err := s.release(ctx, "release 1", s.systems("1", nil))
	if err != nil {
		return err
	}
	if err := s.rollout(ctx, "release 1 to all at once", one, fleet.RolloutCompleted, "--strategy", "all-at-once"); err != nil {
		return err
	}
	two, err := s.release(ctx, "release 2", s.systems("2", nil))
	if err != nil {
		return err
	}
	if err := s.rollout(ctx, "release 2, web-01 first", two, fleet.RolloutCompleted, "--strategy", "canary", "--canary", "web-01"); err != nil {
		return err
	}
	return errors.Join(s.badCanary(ctx, two), s.audit(ctx), s.look(ctx))
}

func names() string {
	words := make([]string, len(cast))
	for i, m := range cast {
		words[i] = string(m.id)
	}
	return strings.Join(words, ", ")
}

// boot makes the machines with their first system and enrols them.
func (s *story) boot(ctx context.Context) error {
	first, err := s.build(ctx, s.systems("0", nil))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range cast {
		g.Go(func() error {
			h, err := s.tb.Create(ctx, testbed.Spec{Name: string(m.id), System: string(first[m.id])})
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.hosts[m.id], s.expect[m.id] = h, first[m.id]
			s.mu.Unlock()
			if _, err := h.Wait(ctx); err != nil {
				return err
			}
			return s.enroll(ctx, m.id, h)
		})
	}
	return g.Wait()
}

// enroll gives a machine its identity, as an operator would.
func (s *story) enroll(ctx context.Context, id fleet.MachineID, h *testbed.Host) error {
	var token api.Token
	if _, err := s.nixfleet(ctx, &token, "machine", "token", string(id)); err != nil {
		return err
	}
	const file = "/run/nixfleet-token"
	if err := h.WriteFile(ctx, file, []byte(token.Token), 0o600); err != nil {
		return err
	}
	if _, err := h.Exec(ctx, proc.Cmd{Path: "/run/current-system/sw/bin/nixfleet-agent", Args: []string{"enroll", "--config", "/etc/nixfleet/agent.toml", "--token-file", file}}); err != nil {
		return err
	}
	return s.until(ctx, 20*time.Second, fmt.Sprintf("%s has checked in", id), func(ctx context.Context) error {
		var m fleet.Machine
		if _, err := s.nixfleet(ctx, &m, "machine", "show", string(id)); err != nil {
			return err
		}
		if m.Lifecycle != fleet.Active || m.Running != s.expected(id) {
			return fmt.Errorf("it is %s and runs %q", m.Lifecycle, m.Running)
		}
		return nil
	})
}

func (s *story) expected(id fleet.MachineID) fleet.StorePath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expect[id]
}

// build builds a state of the flake without making a release.
func (s *story) build(ctx context.Context, hosts map[fleet.MachineID]host) (map[fleet.MachineID]fleet.StorePath, error) {
	if err := s.writeHosts(hosts); err != nil {
		return nil, err
	}
	out := map[fleet.MachineID]fleet.StorePath{}
	args := []string{"build", "--no-link", "--json"}
	ids := slices.Sorted(maps.Keys(hosts))
	for _, id := range ids {
		args = append(args, fmt.Sprintf("path:%s#nixosConfigurations.%q.config.system.build.toplevel", s.flakeDir(), id))
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args, Env: s.env})
	if err != nil {
		return nil, fmt.Errorf("build first systems: %s", bytes.TrimSpace(res.Stderr))
	}
	var built []struct {
		Outputs map[string]fleet.StorePath `json:"outputs"`
	}
	if err := json.Unmarshal(res.Stdout, &built); err != nil || len(built) != len(ids) {
		return nil, fmt.Errorf("build first systems: %q: %w", res.Stdout, err)
	}
	for i, id := range ids {
		out[id] = built[i].Outputs["out"]
	}
	return out, s.remember(ctx, slices.Collect(maps.Values(out))...)
}

func (s *story) writeHosts(hosts map[fleet.MachineID]host) error {
	b, err := json.MarshalIndent(hosts, "", "  ")
	if err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.flakeDir(), "hosts.json"), b, 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	return nil
}

// made is a release and what it wants of each machine.
type made struct {
	Digest   fleet.Digest                        `json:"digest"`
	Machines map[fleet.MachineID]fleet.StorePath `json:"machines"`
}

// release evaluates, builds, pushes, signs and registers a state of the flake.
func (s *story) release(ctx context.Context, name string, hosts map[fleet.MachineID]host) (made, error) {
	if err := s.writeHosts(hosts); err != nil {
		return made{}, err
	}
	var r made
	begin := time.Now()
	if _, err := s.nixfleet(ctx, &r, "release", "create", "--name", name, "--sign-key", filepath.Join(s.dir, "trust", "keys", "release.sec")); err != nil {
		return made{}, err
	}
	s.res.Releases = append(s.res.Releases, Release{Name: name, Digest: r.Digest})
	s.say("%s: evaluated, built, pushed to the signed cache, signed and registered in %.1fs; digest %s", name, time.Since(begin).Seconds(), r.Digest.Short())
	return r, s.remember(ctx, slices.Collect(maps.Values(r.Machines))...)
}

// ended is how a rollout ended, as the command line prints it.
type ended struct {
	api.RolloutDetail
	Assignments []fleet.Assignment `json:"assignments"`
}

// rollout runs a rollout to its end and compares each machine with it.
func (s *story) rollout(ctx context.Context, name string, r made, want fleet.RolloutState, args ...string) error {
	_, err := s.runRollout(ctx, name, r, want, args...)
	if err != nil {
		return err
	}
	for id, path := range r.Machines {
		s.expect[id] = path
	}
	return s.compare(ctx)
}

func (s *story) runRollout(ctx context.Context, name string, r made, want fleet.RolloutState, args ...string) (ended, error) {
	var e ended
	begin := time.Now()
	s.say("%s", name)
	args = append([]string{"rollout", "create", "--release", string(r.Digest), "--name", name, "--wait", "--timeout", "60s", "--min-healthy", "500ms", "--healthy-deadline", "30s"}, args...)
	if _, err := s.nixfleet(ctx, &e, args...); err != nil {
		return e, err
	}
	d := time.Since(begin)
	out := map[fleet.Outcome]int{}
	for _, a := range e.Assignments {
		if a.Outcome != "" {
			out[a.Outcome]++
		}
	}
	s.res.Rollouts = append(s.res.Rollouts, Rollout{Name: name, State: e.State, DurationMs: d.Milliseconds(), Outcomes: out})
	if e.State != want {
		return e, fmt.Errorf("rollout %q is %s (%s), want %s", name, e.State, e.Why, want)
	}
	s.more("%s after %.1fs", e.State, d.Seconds())
	return e, nil
}

// badCanary rolls out a release whose service dies a second after it starts.
func (s *story) badCanary(ctx context.Context, good made) error {
	three, err := s.release(ctx, "release 3", s.systems("3", map[fleet.MachineID]string{"web-01": "unhealthy", "web-02": "unhealthy", "db-01": "unhealthy"}))
	if err != nil {
		return err
	}
	e, err := s.runRollout(ctx, "release 3, whose service dies, web-01 first", three, fleet.RolloutPaused, "--strategy", "canary", "--canary", "web-01")
	if err != nil {
		return err
	}
	for _, a := range e.Assignments {
		switch {
		case a.Machine == "web-01" && a.Outcome == fleet.OutcomeReverted:
			s.more("%s went back to release 2 by itself, because: %s", a.Machine, a.Message)
		case a.Machine != "web-01" && a.Attempt == 0:
			s.more("%s was not touched", a.Machine)
		default:
			return fmt.Errorf("%s: attempt %d, state %s, outcome %q", a.Machine, a.Attempt, a.State, a.Outcome)
		}
	}
	if err := s.compare(ctx); err != nil {
		return err
	}
	_, err = s.nixfleet(ctx, nil, "rollout", "cancel", string(e.ID))
	return err
}

// compare reads from each machine what it really runs.
func (s *story) compare(ctx context.Context) error {
	var errs []error
	for _, m := range cast {
		running, err := s.running(ctx, m.id)
		if err == nil && running != s.expect[m.id] {
			err = fmt.Errorf("%s runs %s, expected %s", m.id, running, s.expect[m.id])
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.more("read from the machines themselves: all run what they should")
	return nil
}

func (s *story) running(ctx context.Context, id fleet.MachineID) (fleet.StorePath, error) {
	res, err := s.hosts[id].Exec(ctx, proc.Cmd{Path: "readlink", Args: []string{"/run/current-system"}})
	return fleet.StorePath(strings.TrimSpace(string(res.Stdout))), err
}

// audit checks the audit trail.
func (s *story) audit(ctx context.Context) error {
	var v struct {
		OK   bool  `json:"ok"`
		Size int64 `json:"size"`
	}
	if _, err := s.nixfleet(ctx, &v, "audit", "verify"); err != nil {
		return err
	}
	s.res.AuditVerified = v.OK
	s.say("the audit trail of %d entries is whole", v.Size)
	return nil
}

// look fills in the machines' part of the result.
func (s *story) look(ctx context.Context) error {
	for _, m := range cast {
		running, err := s.running(ctx, m.id)
		if err != nil {
			return err
		}
		var known fleet.Machine
		if _, err := s.nixfleet(ctx, &known, "machine", "show", string(m.id)); err != nil {
			return err
		}
		s.res.Machines = append(s.res.Machines, Machine{ID: m.id, Expected: s.expect[m.id], Running: running, AgentState: known.State})
	}
	return nil
}

// lookAround says how to use what keeps running.
func (s *story) lookAround() {
	s.say("all keeps running until Ctrl-C. To look around, as root in another terminal:")
	enter := s.tb.HubCommand(proc.Cmd{Path: filepath.Join(s.Bin, "nixfleet"), Args: []string{"machine", "list"}})
	s.more("cd %s; export HOME=%s NIXFLEET_SERVER=%s NIXFLEET_CA=%s", s.dir, filepath.Join(s.dir, "home"), s.operatorsURL(), s.cpFile("ca.pem"))
	s.more("%s", enter)
	for _, m := range cast {
		s.more("%s   # a shell on %s", s.hosts[m.id].Shell(), m.id)
	}
	s.more("tail -f %s", filepath.Join(s.tb.Dir(), "control-plane.log"))
}
