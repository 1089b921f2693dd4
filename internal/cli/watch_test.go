// SPDX-License-Identifier: MIT

package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// O05: the exit code tells how a rollout ended. Here it ended before the watch
// began, so that nothing changes during the watch.
func TestWatch_TellsTheEndByItsExitCode(t *testing.T) {
	for _, tc := range []struct {
		state   fleet.RolloutState
		machine fleet.AssignmentState
		code    int
	}{
		{fleet.RolloutCompleted, fleet.AssignHealthy, command.ExitDone},
		{fleet.RolloutCompleted, fleet.AssignSkipped, command.ExitPartial},
		{fleet.RolloutCompleted, fleet.AssignReverted, command.ExitPartial},
		{fleet.RolloutFailed, fleet.AssignReverted, command.ExitFailed},
		{fleet.RolloutPaused, fleet.AssignFailed, command.ExitFailed},
		{fleet.RolloutCancelled, fleet.AssignPending, command.ExitCancelled},
		{fleet.RolloutSuperseded, fleet.AssignSuperseded, command.ExitCancelled},
	} {
		t.Run(string(tc.state)+" "+string(tc.machine), func(t *testing.T) {
			p := newPlane(t)
			p.rollouts = []fleet.Rollout{{ID: "01a", State: tc.state}}
			p.assignments = []fleet.Assignment{{Machine: "web-01", State: tc.machine}}
			r := newUser(t).of(p).mustRun(tc.code, "rollout", "watch", "--timeout", "20s")
			if !strings.Contains(r.out, string(tc.machine)) {
				t.Errorf("stdout %q, want the machine's state", r.out)
			}
		})
	}
}

func TestWatch_FollowsToTheEndAndPrintsEachChange(t *testing.T) {
	p := newPlane(t)
	p.rollouts = []fleet.Rollout{{ID: "01a", State: fleet.RolloutRunning}}
	p.events = func(yield func(api.Event) bool) {
		_ = yield(api.Event{Assignment: &fleet.Assignment{Machine: "web-01", State: fleet.AssignVerifying}})
		_ = yield(api.Event{Batch: &fleet.Batch{State: fleet.BatchPassed, Size: 1}})
		_ = yield(api.Event{Rollout: &fleet.Rollout{ID: "01a", State: fleet.RolloutPaused}})
		_ = yield(api.Event{Rollout: &fleet.Rollout{ID: "01a", State: fleet.RolloutCompleted}})
	}
	// The state is read when the stream begins, and at the event of a pause: by
	// then the rollout was resumed. At the third read it has ended.
	reads := 0
	p.onRollout = func() {
		if reads++; reads == 3 {
			p.rollouts[0].State = fleet.RolloutCompleted
		}
	}
	r := newUser(t).of(p).mustRun(command.ExitDone, "rollout", "watch", "--timeout", "20s")
	if reads != 3 {
		t.Errorf("the state was read %d times, want 3", reads)
	}
	for _, want := range []string{"web-01", "verifying", "batch 1  passed", "rollout  completed"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, r.stderr)
		}
	}
}

func TestWatch_TimeoutAndCtrlCHaveCodesOfTheirOwn(t *testing.T) {
	p := newPlane(t)
	p.rollouts = []fleet.Rollout{{ID: "01a", State: fleet.RolloutRunning}}
	u := newUser(t).of(p)
	if r := u.mustRun(command.ExitTimeout, "rollout", "watch", "--timeout", "50ms", "--json"); !strings.Contains(r.stderr, "has not ended after 50ms") {
		t.Errorf("stderr %q", r.stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.onRollout = cancel // the stream has begun, the state is being read
	var out, stderr bytes.Buffer
	code := Run(ctx, command.Invocation{Args: []string{"rollout", "watch"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Env: func(k string) string { return u.env[k] }})
	if code != command.ExitCancelled || out.Len() > 0 {
		t.Errorf("exit code %d with %q, want %d and nothing", code, out.String(), command.ExitCancelled)
	}
}

// A timeout while the control plane answers slowly is a timeout too.
func TestWatch_TimeoutWhileReadingIsATimeout(t *testing.T) {
	p := newPlane(t)
	p.rollouts = []fleet.Rollout{{ID: "01a", State: fleet.RolloutRunning}}
	stop := make(chan struct{})
	p.onRollout = func() {
		select {
		case <-stop:
		case <-time.After(10 * time.Second):
		}
	}
	u := newUser(t).of(p)
	r := u.run("rollout", "watch", "--timeout", "200ms")
	close(stop)
	if r.code != command.ExitTimeout {
		t.Errorf("exit code %d, want %d; stderr %q", r.code, command.ExitTimeout, r.stderr)
	}
}
