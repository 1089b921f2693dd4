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

// tell plays the story.
func (s *story) tell(ctx context.Context) error {
	s.say("%d machines boot, each with a real systemd, and enrol with one-time tokens: %s", len(s.Cast), s.names())
	if err := s.Boot(ctx); err != nil {
		return err
	}
	if err := s.keys(ctx); err != nil {
		return err
	}
	one, err := s.release(ctx, "release 1", s.Systems("1", nil))
	if err != nil {
		return err
	}
	if err = s.rollout(ctx, "release 1, in stages of 1, 50% and 100%", one, "--batches", "1,50%,100%", "--soak", "300ms"); err != nil {
		return err
	}
	if err = s.badCanary(ctx); err != nil {
		return err
	}
	two, err := s.troubled(ctx)
	if err != nil {
		return err
	}
	if err = s.specials(ctx); err != nil {
		return err
	}
	four, err := s.release(ctx, "release 4", s.Systems("4", nil))
	if err != nil {
		return err
	}
	if err := s.attack(ctx, "release 4", four); err != nil {
		return err
	}
	if err := s.undo(ctx, two); err != nil {
		return err
	}
	if err := s.audit(ctx); err != nil {
		return err
	}
	return s.look(ctx)
}

func (s *story) names() string {
	words := make([]string, len(s.Cast))
	for i, m := range s.Cast {
		words[i] = string(m.ID)
	}
	return strings.Join(words, ", ")
}

// keys shows what API keys may do.
func (s *story) keys(ctx context.Context) error {
	var k, rotated api.NewKey
	if _, err := s.Nixfleet(ctx, &k, "key", "create", "--owner", "auditor", "--role", "readonly"); err != nil {
		return err
	}
	if _, err := s.Run(ctx, Command{Key: k.Secret, Args: []string{"machine", "list"}}); err != nil {
		return err
	}
	if _, err := s.Run(ctx, Command{Key: k.Secret, Args: []string{"machine", "set-lifecycle", "db-01", "maintenance"}}); err == nil {
		return errors.New("a readonly key could set a machine's lifecycle")
	}
	if _, err := s.Nixfleet(ctx, &rotated, "key", "rotate", k.Key.ID); err != nil {
		return err
	}
	if _, err := s.Run(ctx, Command{Key: k.Secret, Args: []string{"machine", "list"}}); err == nil {
		return errors.New("a rotated key's old secret still works")
	}
	if _, err := s.Nixfleet(ctx, nil, "key", "revoke", rotated.Key.ID); err != nil {
		return err
	}
	if _, err := s.Run(ctx, Command{Key: rotated.Secret, Args: []string{"machine", "list"}}); err == nil {
		return errors.New("a revoked key still works")
	}
	s.say("an API key for the auditor may read and change nothing; after rotation its old secret is refused, after revocation the key")
	return nil
}

// release makes a release and reports it.
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

// ended is how a rollout ended, as the command line prints it.
type ended struct {
	api.RolloutDetail
	Assignments []fleet.Assignment `json:"assignments"`
}

// timing suits the machines of the demo, which are quick.
var timing = []string{"--min-healthy", "500ms", "--healthy-deadline", "30s"}

// rollout brings all machines to a release and compares each with it.
func (s *story) rollout(ctx context.Context, name string, r Made, args ...string) error {
	if _, err := s.runRollout(ctx, name, r, fleet.RolloutCompleted, args...); err != nil {
		return err
	}
	s.Expect(r)
	return s.compare(ctx)
}

func (s *story) runRollout(ctx context.Context, name string, r Made, want fleet.RolloutState, args ...string) (ended, error) {
	s.say("%s", name)
	words := append([]string{"rollout", "create", "--release", string(r.Digest), "--name", name, "--wait", "--timeout", "100s"}, timing...)
	return s.followed(ctx, name, want, Command{Args: append(words, args...)})
}

// followed runs a command that follows a rollout to its end, prints each change
// as it happens, and records how the rollout ended.
func (s *story) followed(ctx context.Context, name string, want fleet.RolloutState, c Command) (ended, error) {
	var e ended
	begin := time.Now()
	hook := c.Line
	c.Out = &e
	c.Line = func(line string) {
		s.more("%s", strings.TrimRight(line, " "))
		if hook != nil {
			hook(line)
		}
	}
	if _, err := s.Run(ctx, c); err != nil {
		return e, err
	}
	out := map[fleet.Outcome]int{}
	for _, a := range e.Assignments {
		if a.Outcome != "" {
			out[a.Outcome]++
		}
	}
	s.ended = append(s.ended, e)
	s.res.Rollouts = append(s.res.Rollouts, Rollout{Name: name, State: e.State, DurationMs: time.Since(begin).Milliseconds(), Outcomes: out})
	if e.State != want {
		return e, fmt.Errorf("rollout %q is %s (%s), want %s", name, e.State, e.Why, want)
	}
	return e, nil
}

// everywhere edits all machines the same way.
func (s *Scene) everywhere(edit func(*Host)) map[fleet.MachineID]func(*Host) {
	edits := map[fleet.MachineID]func(*Host){}
	for _, m := range s.Cast {
		edits[m.ID] = edit
	}
	return edits
}

// badCanary rolls out a release whose service fails a second after it starts.
func (s *story) badCanary(ctx context.Context) error {
	bad, err := s.release(ctx, "release 2, broken", s.Systems("2b", s.everywhere(Faulty("unhealthy"))))
	if err != nil {
		return err
	}
	e, err := s.runRollout(ctx, "release 2, broken: its service dies; web-01 goes first", bad, fleet.RolloutPaused, "--strategy", "canary", "--canary", "web-01")
	if err != nil {
		return err
	}
	for _, a := range e.Assignments {
		switch {
		case a.Machine == "web-01" && a.Outcome == fleet.OutcomeRolledBack:
			s.more("%s rolled back to release 1 by itself: %s", a.Machine, oneLine(a.Message))
		case a.Machine != "web-01" && a.Attempt == 0:
		default:
			return fmt.Errorf("%s: attempt %d, state %s, outcome %q", a.Machine, a.Attempt, a.State, a.Outcome)
		}
	}
	s.more("the other machines were not touched")
	if err = s.compare(ctx); err != nil {
		return err
	}
	_, err = s.Nixfleet(ctx, nil, "rollout", "cancel", string(e.ID), "--reason", "the service dies")
	return err
}

// undo restores the systems of an older release by a new one.
func (s *story) undo(ctx context.Context, old Made) error {
	var r Made
	if _, err := s.Nixfleet(ctx, &r, "release", "create", "--from", string(old.Digest), "--name", "release 5", "--sign-key", s.signKey()); err != nil {
		return err
	}
	s.res.Releases = append(s.res.Releases, Release{Name: "release 5", Digest: r.Digest})
	s.say("release 5: the systems of release 2, signed again, since no machine accepts a release below its floor; digest %s", r.Digest.Short())
	return s.rollout(ctx, "release 5, with the systems of release 2", r, "--strategy", "all-at-once")
}

func (s *Scene) signKey() string { return filepath.Join(s.Dir, "trust", "keys", "release.sec") }

// compare checks what each machine runs, read from the machine itself.
func (s *story) compare(ctx context.Context) error {
	if err := s.Compare(ctx); err != nil {
		return err
	}
	s.say("read from the machines themselves: all run what they should")
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

// lookAround prints how to use the fleet while it keeps running.
func (s *story) lookAround() {
	s.say("everything keeps running until Ctrl-C. To look around, as root in another terminal:")
	enter := s.TB.HubCommand(proc.Cmd{Path: filepath.Join(s.Bin, "nixfleet"), Args: []string{"machine", "list"}})
	s.more("cd %s; export HOME=%s NIX_USER_CONF_FILES=%s NIXFLEET_SERVER=%s NIXFLEET_CA=%s",
		s.Dir, filepath.Join(s.Dir, "home"), filepath.Join(s.Dir, "nix.conf"), s.operatorsURL(), s.cpFile("ca.pem"))
	s.more("%s", enter)
	for _, m := range s.Cast {
		s.more("%s   # a shell on %s", s.Host(m.ID).Shell(), m.ID)
	}
	s.more("tail -f %s", filepath.Join(s.TB.Dir(), "control-plane.log"))
}

// oneLine joins the lines of a message.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }
