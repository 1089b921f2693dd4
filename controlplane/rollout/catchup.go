// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// CatchUpMost is how many machines at most share a rollout in which they catch up.
	CatchUpMost = 500
	// catchUpApart is for how long machines wait for a rollout with which others
	// catch up to the same release: machines that are online again one after another
	// share a few rollouts.
	catchUpApart = 10 * 60 * 1000
	// catchUpParallel is how many machines of such a rollout are at work at once, if
	// the rollout that it follows has no limit.
	catchUpParallel = 100
	// catchUpFailures is how many such rollouts in a row may fail until an operator
	// has to look.
	catchUpFailures = 3
)

// Behind returns the machines without which a rollout has completed because they
// were offline, in order: they catch up when they are online again (H12).
func Behind(s State) []fleet.MachineID {
	if s.Rollout.State != fleet.RolloutCompleted {
		return nil
	}
	var ids []fleet.MachineID
	for id, a := range s.Assignments {
		if a.State == fleet.AssignSkipped && a.Reason == fleet.ReasonOffline {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// JoinsLate reports whether a machine that is not in a rollout's plan is to get its
// release once it has completed; e is its entry there.
func JoinsLate(s State, m fleet.Machine, e fleet.Entry) bool {
	if _, planned := s.Assignments[m.ID]; planned || !s.Rollout.Spec.LateJoiners || s.Rollout.State != fleet.RolloutCompleted {
		return false
	}
	sel, err := fleet.ParseSelector(s.Rollout.Spec.Select)
	return err == nil && m.Lifecycle == fleet.Active && m.RunsRelease != s.Rollout.Spec.Release && sel.Match(m.ID, fleet.NewTags(e.Tags, m.Tags.Operator).Effective)
}

// Past is a rollout of a line, as far as it matters to machines that have to catch
// up.
type Past struct {
	Rollout  fleet.Rollout
	Release  fleet.Release
	Revoked  bool // the release is, now
	Reverted bool // machines were reverted in it, by order
	Failed   bool // machines failed in it, and did not just fall silent
}

// catchesUp reports whether machines catch up in it.
func (p Past) catchesUp() bool { return p.Rollout.Spec.CatchUpOf != "" }

// Delay is why machines cannot catch up now.
type Delay struct {
	Why   string // "": they can
	Stuck bool   // it does not end by itself
}

func stuck(format string, v ...any) Delay { return Delay{Why: fmt.Sprintf(format, v...), Stuck: true} }

// CatchUp decides which rollout machines follow that have to catch up: that of their
// line's newest completed release which is not revoked and has not expired. It says
// why they cannot now: if a later rollout was reverted, if what machines caught up in
// before went wrong or is at work, or outside the windows of the rollout that they
// follow. Past has the line's rollouts from the newest release to the oldest, and of a
// release from the newest rollout to the oldest.
func CatchUp(past []Past, w World, now int64) (follow Past, d Delay) {
	d = stuck("no rollout of its line has completed")
	for i, p := range past {
		switch {
		case p.Rollout.State != fleet.RolloutCompleted || p.catchesUp():
		case p.Revoked:
			d = stuck("release %s of rollout %s is revoked", p.Release.Digest.Short(), p.Rollout.ID)
		case p.Release.Header.Expires <= now:
			d = stuck("release %s of rollout %s has expired", p.Release.Digest.Short(), p.Rollout.ID)
		default:
			return p, delayOf(p, past[:i], w, now)
		}
	}
	return Past{}, d
}

// delayOf says why machines cannot follow a rollout now; later are the line's
// rollouts of the same release and of newer ones.
func delayOf(follow Past, later []Past, w World, now int64) Delay {
	failures, counted := 0, false
	for _, p := range later {
		r := p.Rollout
		if (p.Reverted || r.State == fleet.RolloutReverting) && (!r.State.Final() || r.EndedAt >= follow.Rollout.CreatedAt) {
			return stuck("rollout %s was reverted after rollout %s; a rollout that completes after it ends the wait", r.ID, follow.Rollout.ID)
		}
		if !p.catchesUp() || p.Release.Digest != follow.Release.Digest {
			continue
		}
		switch {
		case r.State == fleet.RolloutCancelled:
			return stuck("rollout %s, in which machines caught up to the release, was cancelled; a rollout that completes after it ends the wait", r.ID)
		case r.State == fleet.RolloutPaused:
			return stuck("rollout %s, in which machines catch up to the release, is paused: nixfleet rollout resume %s", r.ID, r.ID)
		case !r.State.Final():
			if age := now - r.CreatedAt; age >= 0 && age < catchUpApart {
				return Delay{Why: fmt.Sprintf("waits for rollout %s, in which other machines catch up to the release", r.ID)}
			}
		case p.Failed && r.State == fleet.RolloutFailed && !counted:
			failures++
		case r.State == fleet.RolloutCompleted:
			counted = true
		}
	}
	if failures >= catchUpFailures {
		return stuck("the last %d rollouts in which machines caught up to the release failed; a rollout that completes after them ends the wait", failures)
	}
	calendar, err := follow.Rollout.Spec.Calendar()
	if err != nil {
		return stuck("the windows of rollout %s cannot be read: %v", follow.Rollout.ID, err)
	}
	if h := holdOf(calendar, w, now); h != nil {
		return Delay{Why: h.why}
	}
	return Delay{}
}

// CatchUpSpec is the spec of the rollout in which machines catch up: that of the
// rollout that they follow, for them alone. What guarded the way from batch to batch
// has been passed already. It tolerates the failures that the other one tolerates, at
// least one, so that a machine that fails alone ends it.
func CatchUpSpec(follow fleet.Rollout, ids []fleet.MachineID) fleet.RolloutSpec {
	s := follow.Spec
	s.Name, s.Select, s.CatchUpOf = "catch up: "+string(ids[0]), nil, follow.ID
	if more := len(ids) - 1; more > 0 {
		s.Name += fmt.Sprintf(" and %d more", more)
	}
	for _, id := range ids {
		s.Select = append(s.Select, string(id))
	}
	s.Strategy, s.Batches, s.Canaries = fleet.AllAtOnce, nil, nil
	if s.MaxFailures.Tolerates(len(ids)) == 0 {
		s.MaxFailures = fleet.Amount{N: 1}
	}
	if s.MaxParallel == 0 {
		s.MaxParallel = catchUpParallel
	}
	s.MaxFailuresTotal, s.OnFailure, s.Offline = nil, fleet.Pause, fleet.OfflineSkip
	s.Approve, s.ApproveByOther, s.Supersede = false, false, false
	s.Gates, s.GateDeadlineMs, s.OnInconclusive, s.After, s.LateJoiners = nil, 0, "", nil, false
	s.SoakMs, s.StragglerMs, s.ProgressDeadlineMs = 0, 0, 0
	return s
}
