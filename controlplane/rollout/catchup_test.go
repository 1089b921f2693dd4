// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
)

// H12: machines that were skipped because they were offline catch up when they are
// online again after the rollout has completed: they are offered the release, in one
// rollout, within the windows and with the times of the one that went on without them.
func TestStep_SkippedMachinesCatchUpAfterTheEnd(t *testing.T) {
	s := spec("3", "100%")
	s.Offline, s.OfflineAfterMs, s.Approve, s.MaxFailures = fleet.OfflineSkip, 5*minute, false, fleet.Amount{N: 1}
	s.Windows = []string{"0 0 * * * 24h"}
	m := newSim(t, 5, s)
	off, kept := []fleet.MachineID{m.at(0, 1), m.at(0, 2)}, m.at(1, 0)
	slices.Sort(off)
	for _, id := range off {
		f := m.facts[id]
		offline(&f)
		m.facts[id] = f
	}
	m.settle()
	m.live(m.at(0, 0))
	m.sleepTo(m.now + 6*minute)
	m.live(m.plan.Batches[1]...)
	m.wantStates("completed = passed: healthy skipped skipped | passed: healthy healthy")
	if a := m.a(off[0]); !strings.Contains(a.Message, "it catches up when it is online again") || !strings.Contains(m.state.Rollout.Why, "2 to catch up") {
		t.Errorf("it is told %q, the rollout %q", a.Message, m.state.Rollout.Why)
	}
	m.sleepTo(m.now + 60*minute)
	if d := cmp.Diff(off, rollout.Behind(m.state)); d != "" || len(m.caughtUp) != 0 {
		t.Errorf("behind (-want +got):\n%s", d)
	}
	m.changed(off[0], online)
	m.changed(off[1], online)
	m.sleepTo(m.now + minute)
	for _, id := range off {
		if a := m.a(id); a.State != fleet.AssignOffered || a.Digest != s.Release || m.a(kept).State != fleet.AssignHealthy {
			t.Fatalf("online again, it is %s", a)
		}
	}
	own := m.caughtUp[off[0]].Rollout
	if own.ID != m.caughtUp[off[1]].Rollout.ID || own.Spec.HealthyDeadlineMs != s.HealthyDeadlineMs || own.Spec.CatchUpOf != m.state.Rollout.ID || own.Spec.Strategy != fleet.AllAtOnce || len(own.Spec.Windows) != 1 {
		t.Errorf("their own rollout is %+v", own.Spec)
	}
}

// Only a completed rollout leaves machines behind, and only those that were offline.
func TestBehind_IsOfCompletedRollouts(t *testing.T) {
	state := rollout.State{Rollout: fleet.Rollout{State: fleet.RolloutCompleted}, Assignments: map[fleet.MachineID]fleet.Assignment{
		"b": {State: fleet.AssignSkipped, Reason: fleet.ReasonOffline}, "a": {State: fleet.AssignSkipped, Reason: fleet.ReasonOffline},
		"by-hand": {State: fleet.AssignSkipped, Reason: fleet.ReasonSkipped}, "gone": {State: fleet.AssignSkipped, Reason: fleet.ReasonLifecycle},
		"failed": {State: fleet.AssignFailed, Reason: fleet.ReasonOffline}, "taken": {State: fleet.AssignSuperseded}, "well": {State: fleet.AssignHealthy},
	}}
	if d := cmp.Diff([]fleet.MachineID{"a", "b"}, rollout.Behind(state)); d != "" {
		t.Error(d)
	}
	for _, s := range []fleet.RolloutState{fleet.RolloutRunning, fleet.RolloutFailed, fleet.RolloutCancelled, fleet.RolloutSuperseded} {
		if state.Rollout.State = s; rollout.Behind(state) != nil {
			t.Errorf("a rollout that is %s leaves machines behind", s)
		}
	}
}

// The release to catch up to is the newest that completed, unless it is revoked or
// has expired. Nobody catches up to it after a later rollout was reverted, while what
// others catch up in does not go well, outside its windows, or while the fleet is frozen.
func TestCatchUp_FollowsTheNewestCompletedRelease(t *testing.T) {
	type change = func(*rollout.Past)
	past := func(id string, state fleet.RolloutState, change ...change) rollout.Past {
		p := rollout.Past{
			Rollout: fleet.Rollout{ID: fleet.RolloutID(id), State: state, CreatedAt: start - 60*minute},
			Release: fleet.Release{Digest: digest(id[:2]), Header: fleet.Header{Expires: start + 1}},
		}
		if state.Final() {
			p.Rollout.EndedAt = start - 30*minute
		}
		for _, c := range change {
			c(&p)
		}
		return p
	}
	revoked := func(p *rollout.Past) { p.Revoked = true }
	expired := func(p *rollout.Past) { p.Release.Header.Expires = start }
	reverted := func(p *rollout.Past) { p.Reverted = true }
	before := func(p *rollout.Past) { p.Rollout.EndedAt = start - 90*minute }
	catchUp := func(p *rollout.Past) { p.Rollout.Spec.CatchUpOf = "r3" }
	failed := func(p *rollout.Past) { p.Failed = true }
	young := func(p *rollout.Past) { p.Rollout.CreatedAt = start - 9*minute }
	nights := func(p *rollout.Past) { p.Rollout.Spec.Windows = []string{"0 2 * * * 2h"} }
	completed, atWork, bad := fleet.RolloutCompleted, fleet.RolloutRunning, fleet.RolloutFailed
	for name, tt := range map[string]struct {
		past  []rollout.Past
		want  string // a rollout, or a part of why there is none
		ends  bool   // the delay ends by itself
		world func(*rollout.World)
	}{
		"nothing yet":              {nil, "no rollout of its line has completed", false, nil},
		"the newest":               {[]rollout.Past{past("r3", completed), past("r2", completed)}, "r3", false, nil},
		"one at work":              {[]rollout.Past{past("r3", atWork), past("r2", completed)}, "r2", false, nil},
		"one that failed":          {[]rollout.Past{past("r3", bad, failed), past("r2", completed)}, "r2", false, nil},
		"revoked":                  {[]rollout.Past{past("r3", completed, revoked), past("r2", completed)}, "r2", false, nil},
		"expired":                  {[]rollout.Past{past("r3", completed, expired), past("r2", completed)}, "r2", false, nil},
		"all revoked":              {[]rollout.Past{past("r3", completed, revoked)}, "r3 is revoked", false, nil},
		"all expired":              {[]rollout.Past{past("r3", completed, expired)}, "r3 has expired", false, nil},
		"followed by a reverted":   {[]rollout.Past{past("r3", bad, reverted), past("r2", completed)}, "r3 was reverted", false, nil},
		"a batch was reverted":     {[]rollout.Past{past("r3", fleet.RolloutPaused, reverted), past("r2", completed)}, "r3 was reverted", false, nil},
		"is being reverted":        {[]rollout.Past{past("r3", fleet.RolloutReverting), past("r2", completed)}, "r3 was reverted", false, nil},
		"reverted, then completed": {[]rollout.Past{past("r4", completed), past("r3", bad, reverted)}, "r4", false, nil},
		"reverted before":          {[]rollout.Past{past("r3", bad, reverted, before), past("r2", completed)}, "r2", false, nil},

		"others caught up":              {[]rollout.Past{past("r3c", completed, catchUp), past("r3", completed)}, "r3", false, nil},
		"others catch up":               {[]rollout.Past{past("r3c", atWork, catchUp, young), past("r3", completed)}, "waits for rollout r3c", true, nil},
		"others catch up for long":      {[]rollout.Past{past("r3c", atWork, catchUp), past("r3", completed)}, "r3", false, nil},
		"others catch up to an older":   {[]rollout.Past{past("r3", completed), past("r2c", fleet.RolloutPaused, catchUp)}, "r3", false, nil},
		"others are paused":             {[]rollout.Past{past("r3c", fleet.RolloutPaused, catchUp), past("r3", completed)}, "resume r3c", false, nil},
		"others were cancelled":         {[]rollout.Past{past("r3c", fleet.RolloutCancelled, catchUp), past("r3", completed)}, "r3c, in which machines caught up to the release, was cancelled", false, nil},
		"others failed twice":           {[]rollout.Past{past("r3d", bad, catchUp, failed), past("r3c", bad, catchUp, failed), past("r3", completed)}, "r3", false, nil},
		"others failed three times":     {[]rollout.Past{past("r3e", bad, catchUp, failed), past("r3d", bad, catchUp, failed), past("r3c", bad, catchUp, failed), past("r3", completed)}, "the last 3 rollouts", false, nil},
		"others failed, one did not":    {[]rollout.Past{past("r3f", completed, catchUp), past("r3e", bad, catchUp, failed), past("r3d", bad, catchUp, failed), past("r3c", bad, catchUp, failed), past("r3", completed)}, "r3", false, nil},
		"others were skipped":           {[]rollout.Past{past("r3e", bad, catchUp), past("r3d", bad, catchUp), past("r3c", bad, catchUp), past("r3", completed)}, "r3", false, nil},
		"only what others caught up in": {[]rollout.Past{past("r3c", completed, catchUp)}, "no rollout of its line has completed", false, nil},
		"outside its windows":           {[]rollout.Past{past("r3", completed, nights)}, "outside its windows", true, nil},
		"frozen":                        {[]rollout.Past{past("r3", completed)}, "frozen by alice", true, func(w *rollout.World) { w.Freeze = &fleet.Freeze{By: "alice", Reason: "audit"} }},
	} {
		w := rollout.World{}
		if tt.world != nil {
			tt.world(&w)
		}
		follow, d := rollout.CatchUp(tt.past, w, start)
		switch {
		case d.Why == "" && string(follow.Rollout.ID) != tt.want, d.Why != "" && !strings.Contains(d.Why, tt.want):
			t.Errorf("%s: follows %q, delay %+v, want %q", name, follow.Rollout.ID, d, tt.want)
		case d.Stuck != (d.Why != "" && !tt.ends):
			t.Errorf("%s: delay %+v", name, d)
		}
	}
}

// The rollout in which machines catch up has limits, and no way to hang: it waits for
// no approval, and one machine that fails ends it.
func TestCatchUpSpec_EndsByItself(t *testing.T) {
	s := spec("1", "100%")
	s.MaxFailures, s.ApproveByOther, s.OnFailure = fleet.Amount{N: 5, Percent: true}, true, fleet.RevertAll
	for n, tolerated := range map[int]int{1: 1, 19: 1, 40: 2, rollout.CatchUpMost: 25} {
		ids := make([]fleet.MachineID, n)
		for i := range ids {
			ids[i] = fleet.MachineID(fmt.Sprintf("m-%03d", i))
		}
		got := rollout.CatchUpSpec(fleet.Rollout{ID: "r1", Spec: s}, ids)
		if err := got.Validate(); err != nil || got.MaxFailures.Tolerates(n) != tolerated || got.MaxParallel == 0 || got.Approve || got.ApproveByOther || got.OnFailure != fleet.Pause {
			t.Errorf("%d machines: %+v, %v", n, got, err)
		}
	}
}
