// SPDX-License-Identifier: MIT

package states

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// anyJournal is a random journal at any step.
func anyJournal(t *rapid.T, base map[Step]Journal) Journal {
	var j Journal
	b, err := json.Marshal(base[rapid.SampledFrom(Steps[:]).Draw(t, "step")])
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		t.Fatal(err)
	}
	systems := []*System{nil, {Path: oldPath, Digest: oldDigest, Line: "main", Sequence: 1}, {Path: newPath, Digest: newDigest, Line: "main", Sequence: 2}, {Path: handPath}}
	paths := []fleet.StorePath{"", oldPath, newPath, handPath}
	j.Current = rapid.SampledFrom(systems).Draw(t, "current")
	j.LastGood = rapid.SampledFrom(systems).Draw(t, "last good")
	j.Staged = rapid.SampledFrom(systems).Draw(t, "staged")
	j.Drift = rapid.SampledFrom(paths).Draw(t, "drift")
	j.Waiting = rapid.SampledFrom([]string{"", "held", "something else"}).Draw(t, "waiting")
	j.Done = rapid.SampledFrom([][]string{nil, {apply.Key()}, {apply.Key(), revert.Key()}}).Draw(t, "done")
	j.Trust.HighestSignedTime = rapid.SampledFrom([]int64{0, 7, 9_000_000_000}).Draw(t, "signed")
	j.Learned.Root = rapid.SampledFrom([]fleet.Digest{"", newDigest}).Draw(t, "learned")
	if rapid.Bool().Draw(t, "floor lost") {
		j.Trust.Floor = nil
	} else if f := j.Trust.Floor; rapid.Bool().Draw(t, "pending") {
		f.Pending = &trust.Activation{
			Mark: trust.Mark{Line: "main", Sequence: 2, Digest: newDigest}, RevertWindowMs: 1000,
			ActivatedAt: rapid.SampledFrom([]int64{0, 1, boot1.WallMs}).Draw(t, "activated"),
		}
	}
	if w := j.Work; w != nil {
		w.Converged, w.ProfileOnly = rapid.Bool().Draw(t, "converged"), rapid.Bool().Draw(t, "profile only")
		w.BootID = rapid.SampledFrom([]string{"", "boot-1", "boot-2"}).Draw(t, "boot")
		w.RollbackTries = rapid.IntRange(0, maxRollback).Draw(t, "tries")
		w.Action = rapid.SampledFrom([]Action{"", ActionSwitch, ActionBoot}).Draw(t, "action")
	}
	return j
}

// The engine writes a journal if Next says that it changed, and only then.
func TestNext_SaysWhetherTheJournalChanged(t *testing.T) {
	base := map[Step]Journal{}
	for _, s := range Steps {
		base[s] = at(t, s)
	}
	all := append(inputs(), Held{}, Held{Why: "something else"}, Learned{}, Learned{Trust: trust.State{HighestSignedTime: 9}})
	rapid.Check(t, func(t *rapid.T) {
		j := anyJournal(t, base)
		in := rapid.SampledFrom(all).Draw(t, "input")
		now := rapid.SampledFrom([]Moment{boot1, boot2, {WallMs: 9_000_000_000, Boot: 1, BootID: "boot-3"}}).Draw(t, "now")
		b, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		next, changed := Next(j, in, now)
		if want := !reflect.DeepEqual(next, j); changed != want {
			t.Errorf("%s, %s: changed %t, want %t\nbefore %+v\nafter  %+v", j.Step, name(in), changed, want, j, next)
		}
		if kept, err := json.Marshal(j); err != nil || string(kept) != string(b) {
			t.Errorf("%s, %s: the journal given was changed: %v", j.Step, name(in), err)
		}
	})
}

// A03: a machine that is booted into another system before its outcome was reported
// does not report that the release is live. The report differs from one that was
// queued before the boot.
func TestNext_ABootBeforeTheReportIsJudged(t *testing.T) {
	verified := after(at(t, Verify), Healthy{}, boot1)
	before := Seen{At: boot1}.Outcome(verified)
	if j := after(verified, Rebooted{onNew}, boot2); j.Step != Report || j.Work.Outcome != fleet.OutcomeLive {
		t.Errorf("booted into the release: step %s, outcome %s", j.Step, j.Work.Outcome)
	}
	j := after(verified, Rebooted{onOld}, boot2)
	if j.Step != RollbackProfile || j.Work.Reason != fleet.ReasonBootedOld {
		t.Fatalf("booted into the old system: step %s, reason %s", j.Step, j.Work.Reason)
	}
	if r := (Seen{At: boot2}).Outcome(j); r.Outcome != fleet.OutcomeRolledBack || r.ID == before.ID {
		t.Errorf("reports %s under %s, and live under %s", r.Outcome, r.ID, before.ID)
	}
	for step, in := range map[Step][]Input{Verify: nil, Report: {Healthy{}}} {
		converged := run(after(at(t, Prepare), Prepared{Generations: onNew}, boot1), boot1, in...)
		if j := after(converged, Rebooted{onOld}, boot2); j.Step != Report || j.Work.Outcome != fleet.OutcomeFailed || j.Work.Reason != fleet.ReasonBootedOld {
			t.Errorf("ran the release already, at %s: step %s, outcome %s", step, j.Step, j.Work.Outcome)
		}
	}
}
