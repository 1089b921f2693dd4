// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// tell is the story.
func (s *story) tell(ctx context.Context) error {
	s.say("three machines boot, each with a real systemd, and enrol with one-time tokens: %s", s.names())
	if err := s.Boot(ctx); err != nil {
		return err
	}
	one, err := s.release(ctx, "release 1", s.Systems("1", nil))
	if err != nil {
		return err
	}
	if err := s.rollout(ctx, "release 1 to all at once", one, fleet.RolloutCompleted, "--strategy", "all-at-once"); err != nil {
		return err
	}
	two, err := s.release(ctx, "release 2", s.Systems("2", nil))
	if err != nil {
		return err
	}
	if err := s.rollout(ctx, "release 2, web-01 first", two, fleet.RolloutCompleted, "--strategy", "canary", "--canary", "web-01"); err != nil {
		return err
	}
	if err := s.badCanary(ctx, two); err != nil {
		return err
	}
	four, err := s.release(ctx, "release 4", s.Systems("4", nil))
	if err != nil {
		return err
	}
	if err := s.attack(ctx, "release 4", four); err != nil {
		return err
	}
	return errors.Join(s.audit(ctx), s.look(ctx))
}

func (s *story) names() string {
	words := make([]string, len(s.Cast))
	for i, m := range s.Cast {
		words[i] = string(m.ID)
	}
	return strings.Join(words, ", ")
}

// ended is how a rollout ended, as the command line prints it.
type ended struct {
	api.RolloutDetail
	Assignments []fleet.Assignment `json:"assignments"`
}

// rollout runs a rollout to its end and compares each machine with it.
func (s *story) rollout(ctx context.Context, name string, r Made, want fleet.RolloutState, args ...string) error {
	_, err := s.runRollout(ctx, name, r, want, args...)
	if err != nil {
		return err
	}
	s.Expect(r)
	return s.compare(ctx)
}

func (s *story) runRollout(ctx context.Context, name string, r Made, want fleet.RolloutState, args ...string) (ended, error) {
	var e ended
	begin := time.Now()
	s.say("%s", name)
	args = append([]string{"rollout", "create", "--release", string(r.Digest), "--name", name, "--wait", "--timeout", "60s", "--min-healthy", "500ms", "--healthy-deadline", "30s"}, args...)
	if _, err := s.Nixfleet(ctx, &e, args...); err != nil {
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
func (s *story) badCanary(ctx context.Context, good Made) error {
	three, err := s.release(ctx, "release 3", s.Systems("3", map[fleet.MachineID]string{"web-01": "unhealthy", "web-02": "unhealthy", "db-01": "unhealthy"}))
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
	_, err = s.Nixfleet(ctx, nil, "rollout", "cancel", string(e.ID))
	return err
}

// audit checks the audit trail.
func (s *story) audit(ctx context.Context) error {
	var v struct {
		OK   bool  `json:"ok"`
		Size int64 `json:"size"`
	}
	if _, err := s.Nixfleet(ctx, &v, "audit", "verify"); err != nil {
		return err
	}
	s.res.AuditVerified = v.OK
	s.say("the audit trail of %d entries is whole", v.Size)
	return nil
}

// look fills in the machines' part of the result.
func (s *story) look(ctx context.Context) error {
	for _, m := range s.Cast {
		running, err := s.Running(ctx, m.ID)
		if err != nil {
			return err
		}
		var known fleet.Machine
		if _, err := s.Nixfleet(ctx, &known, "machine", "show", string(m.ID)); err != nil {
			return err
		}
		s.res.Machines = append(s.res.Machines, Machine{ID: m.ID, Expected: s.expected(m.ID), Running: running, AgentState: known.State})
	}
	return nil
}

// lookAround says how to use what keeps running.
func (s *story) lookAround() {
	s.say("all keeps running until Ctrl-C. To look around, as root in another terminal:")
	enter := s.TB.HubCommand(proc.Cmd{Path: filepath.Join(s.Bin, "nixfleet"), Args: []string{"machine", "list"}})
	s.more("cd %s; export HOME=%s NIXFLEET_SERVER=%s NIXFLEET_CA=%s", s.Dir, filepath.Join(s.Dir, "home"), s.operatorsURL(), s.cpFile("ca.pem"))
	s.more("%s", enter)
	for _, m := range s.Cast {
		s.more("%s   # a shell on %s", s.Host(m.ID).Shell(), m.ID)
	}
	s.more("tail -f %s", filepath.Join(s.TB.Dir(), "control-plane.log"))
}

// release makes a release and tells of it.
func (s *story) release(ctx context.Context, name string, hosts map[fleet.MachineID]Host) (Made, error) {
	begin := time.Now()
	r, err := s.Release(ctx, name, hosts)
	if err != nil {
		return r, err
	}
	s.res.Releases = append(s.res.Releases, Release{Name: name, Digest: r.Digest})
	s.say("%s: evaluated, built, pushed to the signed cache, signed and registered in %.1fs; digest %s", name, time.Since(begin).Seconds(), r.Digest.Short())
	return r, nil
}

// compare reads from each machine what it really runs.
func (s *story) compare(ctx context.Context) error {
	if err := s.Compare(ctx); err != nil {
		return err
	}
	s.more("read from the machines themselves: all run what they should")
	return nil
}
