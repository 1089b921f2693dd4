// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// H07: a verb that the state does not allow is refused with a hint; the caller
// asks in the transaction that keeps the result.
func TestCheck_SaysWhichVerbsAreThere(t *testing.T) {
	fresh := func() *sim { return newSim(t, 3, spec("1", "100%")) }
	running := fresh()
	running.settle()
	paused := fresh()
	paused.settle()
	paused.back(paused.at(0, 0), fleet.ReasonCheckFailed)
	reverting := fresh()
	reverting.settle()
	reverting.live(reverting.at(0, 0))
	reverting.verb(api.VerbRevert)
	done := fresh()
	done.settle()
	done.verb(api.VerbCancel)
	for name, tt := range map[string]struct {
		m    *sim
		want string
	}{
		"scheduled": {fresh(), "cancel pause"},
		"running":   {running, "cancel pause revert"},
		"paused":    {paused, "cancel resume retry"},
		"reverting": {reverting, ""},
		"cancelled": {done, ""},
	} {
		var got []string
		for _, v := range []api.Verb{api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbRetry, api.VerbSkip, api.VerbRevert} {
			err := rollout.Check(tt.m.state, rollout.Command{Verb: v})
			if err == nil {
				got = append(got, string(v))
			} else if v != api.VerbSkip && (fleet.ErrorCode(err) != fleet.Conflict || fleet.ErrorHint(err) == "") {
				t.Errorf("%s of a rollout that is %s: %v, want a conflict with a hint", v, name, err)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s allows %q, want %q", name, s, tt.want)
		}
	}
}

func TestCheck_Machines(t *testing.T) {
	m := newSim(t, 3, spec("1", "100%"))
	m.settle()
	m.live(m.at(0, 0))
	for name, tt := range map[string]struct {
		verb api.Verb
		ids  []fleet.MachineID
		want fleet.Code
	}{
		"skip one that waits":   {api.VerbSkip, []fleet.MachineID{m.at(1, 0)}, ""},
		"skip a healthy one":    {api.VerbSkip, []fleet.MachineID{m.at(0, 0)}, fleet.Conflict},
		"skip nobody":           {api.VerbSkip, nil, fleet.Invalid},
		"retry a healthy one":   {api.VerbRetry, []fleet.MachineID{m.at(0, 0)}, fleet.Conflict},
		"one that is not in it": {api.VerbRetry, []fleet.MachineID{"m-99"}, fleet.NotFound},
		"pause of a machine":    {api.VerbPause, []fleet.MachineID{m.at(0, 0)}, fleet.Invalid},
		"no such verb":          {"stop", nil, fleet.Invalid},
	} {
		if err := rollout.Check(m.state, rollout.Command{Verb: tt.verb, Machines: tt.ids}); fleet.ErrorCode(err) != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// Author and approver are compared by owner, whichever key each uses.
func TestCheck_AsksForAnotherOwnersApproval(t *testing.T) {
	s := spec("1", "100%")
	s.ApproveByOther = true
	m := newSim(t, 2, s)
	m.state.Rollout.CreatedBy = "key:alice@example.org"
	m.settle()
	for i := range m.state.Batches {
		if why := m.state.Rollout.Why; m.state.Batches[i].State != fleet.BatchWaiting || !strings.Contains(why, "another owner than key:alice@example.org") {
			t.Errorf("batch %d is %s: %s", i+1, m.state.Batches[i].State, why)
		}
		for actor, want := range map[string]fleet.Code{"key:alice@example.org": fleet.Forbidden, "key:Alice@Example.org": fleet.Forbidden, "key:bob": ""} {
			c := rollout.Command{Verb: api.VerbApprove, Actor: actor}
			if err := rollout.Check(m.state, c); fleet.ErrorCode(err) != want {
				t.Errorf("approved by %s: %v, want code %q", actor, err, want)
			}
			if want != "" {
				m.step(rollout.Event{Command: &c})
			}
		}
		m.step(rollout.Event{Command: &rollout.Command{Verb: api.VerbApprove, Actor: "key:bob"}})
		if b := m.state.Batches[i]; b.State != fleet.BatchOpen {
			t.Errorf("batch %d is %s after another owner's approval", i+1, b.State)
		}
		m.live(m.at(i, 0))
	}
	m.wantStates("completed = passed: healthy | passed: healthy")
}

// Whoever is for a part of a rollout does not let a batch pass for the others of
// which nothing is known.
func TestCheck_SkipOfAPartLeavesAHealthyMachine(t *testing.T) {
	m := newSim(t, 4, spec("2", "100%"))
	m.settle()
	skip := func(id fleet.MachineID) error {
		return rollout.Check(m.state, rollout.Command{Verb: api.VerbSkip, Machines: []fleet.MachineID{id}, Part: true})
	}
	if err := skip(m.at(0, 0)); fleet.ErrorCode(err) != fleet.Forbidden {
		t.Errorf("before one is healthy: %v", err)
	}
	m.live(m.at(0, 1))
	if err := skip(m.at(0, 0)); err != nil {
		t.Errorf("beside a healthy one: %v", err)
	}
	if err := skip(m.at(1, 0)); err != nil {
		t.Errorf("of the last batch: %v", err)
	}
}

func TestStep_VerbsAreAudited(t *testing.T) {
	m := newSim(t, 2, spec("1", "100%"))
	m.settle()
	v := rollout.Command{Verb: api.VerbSkip, Actor: "key:bob", Machines: []fleet.MachineID{m.at(0, 0)}, Reason: "broken disk"}
	res := m.step(rollout.Event{Command: &v})
	want := fleet.AuditEvent{
		At: m.now, Actor: "key:bob", Action: fleet.ActionRolloutSkip, Subject: "rollout:r1",
		Detail: map[string]string{"why": "broken disk", "machines": string(m.at(0, 0))},
	}
	if d := cmp.Diff(want, res.Audit[0]); d != "" {
		t.Error(d)
	}
	m.verb(api.VerbPause)
	m.verb(api.VerbResume)
	m.verb(api.VerbCancel)
	if got, want := m.actions(), "batch.open(1) rollout.skip batch.pass(1) batch.open(2) rollout.pause rollout.resume rollout.cancel"; got != want {
		t.Errorf("audit: %s\nwant   %s", got, want)
	}
}

func TestStep_PauseBeforeTheStart(t *testing.T) {
	m := newSim(t, 1, spec())
	m.verb(api.VerbPause)
	m.tick()
	m.wantStates("paused = waiting: pending")
	m.verb(api.VerbResume)
	m.wantStates("running = open: offered")
}

func TestDesired(t *testing.T) {
	old := &fleet.Assignment{Rollout: "r0", State: fleet.AssignHealthy, Digest: digest("release-1"), StorePath: system("old")}
	claim := func(s fleet.AssignmentState) *fleet.Assignment {
		return &fleet.Assignment{Rollout: "r1", State: s, Digest: digest("release-2"), StorePath: system("new")}
	}
	for _, tt := range []struct {
		claim, healthy *fleet.Assignment
		want           fleet.RolloutID
	}{
		{nil, nil, ""}, {nil, old, "r0"}, {claim(fleet.AssignPending), nil, ""}, {claim(fleet.AssignPending), old, "r0"},
		{claim(fleet.AssignOffered), old, "r1"}, {claim(fleet.AssignVerifying), nil, "r1"}, {claim(fleet.AssignHealthy), old, "r1"},
		{claim(fleet.AssignReverting), old, "r0"}, {claim(fleet.AssignReverted), old, "r0"}, {claim(fleet.AssignSkipped), old, "r0"},
	} {
		got := rollout.Desired(tt.claim, tt.healthy)
		if (got == nil) != (tt.want == "") || got != nil && got.Rollout != tt.want {
			t.Errorf("claim %v, healthy %v: %+v, want %q", tt.claim, tt.healthy, got, tt.want)
		}
	}
}

// H12: whatever waits is explained, with its deadline where it has one.
func TestExplain_NamesWhatWaits(t *testing.T) {
	s := spec("3", "100%")
	s.MaxParallel = 1
	m := newSim(t, 4, s)
	m.settle()
	m.changed(m.at(0, 1), offline)
	until := "until about 2027-01-15 08:10:00 UTC"
	want := []api.Waiting{
		{Batch: -1, State: "running", Why: "batch 1 is at work", Deadline: m.state.Rollout.WakeAt},
		{Batch: 0, State: "open", Why: "2 pending, 1 at work, 0 rolling back", Deadline: start + 10*minute},
		{Machine: m.at(0, 0), State: "offered", Why: "offered, has not begun; has " + until, Deadline: start + 10*minute},
		{Machine: m.at(0, 1), State: "pending", Why: "offline since 2027-01-15 08:00:00 UTC; its batch waits for it", Do: "nixfleet rollout skip r1 --on " + string(m.at(0, 1))},
		{Machine: m.at(0, 2), State: "pending", Why: "waits for a slot: 1 machines may be at work", Deadline: m.state.Rollout.WakeAt},
		{Batch: 1, State: "waiting", Why: "waits for batch 1 to pass", Deadline: m.state.Rollout.WakeAt},
	}
	if d := cmp.Diff(want, rollout.Explain(m.state, m.world(), m.now)); d != "" {
		t.Error(d)
	}
}
