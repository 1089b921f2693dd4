// SPDX-License-Identifier: MIT

package states

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

var update = flag.Bool("update", false, "write testdata/transitions.txt")

const (
	oldPath  fleet.StorePath = "/nix/store/00000000000000000000000000000000-old"
	newPath  fleet.StorePath = "/nix/store/11111111111111111111111111111111-new"
	handPath fleet.StorePath = "/nix/store/22222222222222222222222222222222-hand"
)

var (
	oldDigest = fleet.SHA256([]byte("old"))
	newDigest = fleet.SHA256([]byte("new"))
	boot1     = Moment{WallMs: 1_000_000, Boot: 100, BootID: "boot-1"}
	boot2     = Moment{WallMs: 2_000_000, Boot: 10, BootID: "boot-2"}
	onOld     = fleet.Generations{Running: oldPath, Booted: oldPath, BootDefault: oldPath}
	onNew     = fleet.Generations{Running: newPath, Booted: oldPath, BootDefault: newPath}
	apply     = Order{Kind: Apply, Order: fleet.Order{Digest: newDigest, Rollout: "r1", Attempt: 1, MinHealthyMs: 1000, DeadlineMs: 60_000}}
	revert    = Order{Kind: Revert, Order: fleet.Order{Digest: newDigest, Rollout: "r1", Attempt: 1}}
)

func accepted() trust.Accepted {
	return trust.Accepted{
		Digest: newDigest, Line: "main",
		Header: fleet.Header{Line: "main", Sequence: 2, Policy: fleet.Policy{ConfirmWindowMs: 30_000, RevertWindowMs: 3600_000}},
		Entry:  fleet.Entry{ID: "web-01", StorePath: newPath},
	}
}

// atRest is an idle machine that runs the release old.
func atRest() Journal {
	j := New()
	j.Current = &System{Path: oldPath, Digest: oldDigest, Line: "main", Sequence: 1}
	j.Trust.Floor = &trust.Floor{Lines: map[fleet.Line]trust.Mark{"main": {Line: "main", Sequence: 1, Digest: oldDigest}}}
	return j
}

// at is a journal of a good attempt that has reached a step.
func at(t testing.TB, s Step) Journal {
	t.Helper()
	j := atRest()
	rollback := map[Step]bool{RollbackProfile: true, RollbackSwitch: true, RollbackReboot: true, RollbackHandOver: true, Report: true}[s]
	reboot := s == AwaitReboot || s == RollbackReboot
	if s == Idle {
		return j
	}
	steps := []Input{
		Ordered{apply}, Accepted{accepted()}, Done{},
		Prepared{Generations: onOld, FailedUnits: []string{"lame.service"}, Baseline: []string{"control-plane"}, Reboot: reboot, MayReboot: true},
		Done{}, Done{},
	}
	for _, in := range steps {
		if j.Step == s {
			return j
		}
		j = after(j, in, boot1)
	}
	if reboot {
		j = after(j, Switched{Generations: fleet.Generations{Running: oldPath, BootDefault: newPath}}, boot1)
		if s == AwaitReboot {
			return j
		}
		j = after(j, Rebooted{onNew}, boot2)
	}
	rest := []Input{Switched{Generations: onNew}, Done{}, Confirmed{By: "control-plane"}, Done{}}
	if rollback {
		rest = append(rest, Unhealthy{Reason: fleet.ReasonCheckFailed, Message: "check app is failing"}, Done{}, Switched{Generations: onOld}, Done{})
	}
	for _, in := range rest {
		if j.Step == s {
			break
		}
		j = after(j, in, boot1)
	}
	if j.Step != s {
		t.Fatalf("the script reaches %s, not %s", j.Step, s)
	}
	return j
}

// inputs has each kind of input, with each value that matters to a decision.
func inputs() []Input {
	learned := Learned{Trust: trust.State{HighestSignedTime: 7}, Documents: fleet.DocumentDigests{Root: newDigest}}
	return []Input{
		Ordered{apply}, Ordered{revert}, Withdrawn{}, Observed{onOld}, Observed{fleet.Generations{Running: handPath}}, learned, Adopted{trust.Floor{}},
		Rebooted{onOld}, Rebooted{onNew}, WatchdogFired{Generations: onOld, Message: "rolled back"}, WatchdogFired{Generations: onNew},
		Done{}, Failed{Reason: fleet.ReasonDiskFull, Message: "full"}, Failed{Reason: fleet.ReasonFetchFailed, Message: "down", Again: true}, Held{Why: "held"},
		Accepted{accepted()}, Refused{Reason: fleet.ReasonBadSignature}, Refused{Reason: fleet.ReasonFloorUnknown},
		Prepared{Generations: onOld}, Prepared{Generations: onOld, Reboot: true}, Prepared{Generations: onNew},
		Switched{Generations: onNew}, Switched{Generations: onOld}, Switched{Generations: onNew, Code: 2}, Switched{Generations: onNew, Code: 4, FailedUnits: []string{"app.service"}},
		Switched{Generations: onNew, Code: -1}, Switched{Generations: onOld, Code: -1, TimedOut: true},
		Confirmed{By: "control-plane"}, Unconfirmed{Message: "nothing"}, Healthy{}, Healthy{FailedUnits: []string{"app.service"}}, Unhealthy{Reason: fleet.ReasonCheckFailed, Message: "app"},
	}
}

// name is an input for the table, short.
func name(in Input) string {
	n := strings.TrimPrefix(fmt.Sprintf("%T", in), "states.")
	switch v := in.(type) {
	case Ordered:
		n += " " + string(v.Order.Kind)
	case Observed:
		n += map[fleet.StorePath]string{oldPath: " old", handPath: " hand"}[v.Running]
	case Rebooted:
		n += map[fleet.StorePath]string{oldPath: " old", newPath: " new"}[v.Running]
	case WatchdogFired:
		n += map[fleet.StorePath]string{oldPath: " old", newPath: " new"}[v.Running]
	case Failed:
		n += fmt.Sprintf(" again=%t", v.Again)
	case Refused:
		n += " " + string(v.Reason)
	case Prepared:
		n += fmt.Sprintf("%s reboot=%t", map[fleet.StorePath]string{oldPath: " old", newPath: " new"}[v.Running], v.Reboot)
	case Switched:
		n += fmt.Sprintf("%s code=%d late=%t", map[fleet.StorePath]string{oldPath: " old", newPath: " new"}[v.Running], v.Code, v.TimedOut)
	case Healthy:
		n += fmt.Sprintf(" failed=%d", len(v.FailedUnits))
	}
	return n
}

// Every step has an answer to every input. Inputs that change nothing are left
// out of the table.
func TestNext_AnswersEveryInputAtEveryStep(t *testing.T) {
	var b strings.Builder
	for _, s := range Steps {
		for _, in := range inputs() {
			j := at(t, s)
			before := at(t, s)
			now := boot1
			if _, ok := in.(Rebooted); ok {
				now = Moment{WallMs: 3_000_000, Boot: 20, BootID: "boot-3"}
			}
			next, changed := Next(j, in, now)
			if changed == cmp.Equal(next, before) {
				t.Errorf("%s, %s: changed %t", s, name(in), changed)
			}
			if d := cmp.Diff(j, before); d != "" {
				t.Fatalf("%s, %s: the journal given was changed:\n%s", s, name(in), d)
			}
			if err := sane(next); err != nil {
				t.Errorf("%s, %s: %v", s, name(in), err)
			}
			if cmp.Equal(next, before) {
				continue
			}
			line := fmt.Sprintf("%-14s %-38s -> %s", s, name(in), next.Step)
			if w := next.Work; w != nil && w.Outcome != "" {
				line += fmt.Sprintf(" %s %s", w.Outcome, w.Reason)
			}
			if next.Waiting != "" {
				line += " waiting: " + next.Waiting
			}
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	const file = "testdata/transitions.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), string(want)); d != "" {
		t.Errorf("-got +want (go test -update writes it):\n%s", d)
	}
}

// sane reports what must never be true of a journal.
func sane(j Journal) error {
	w := j.Work
	switch {
	case (w == nil) != (j.Step == Idle):
		return fmt.Errorf("step %s, work %v", j.Step, w)
	case w == nil:
		return nil
	case (w.Outcome != "") != (j.Step == Report || j.Step.State() == fleet.AgentRollingBack):
		return fmt.Errorf("step %s, outcome %q", j.Step, w.Outcome)
	case j.Step.State() == fleet.AgentRollingBack && w.Previous.Path == "":
		return fmt.Errorf("step %s leads nowhere", j.Step)
	case (j.Step == Switch || j.Step == RollbackSwitch) && (w.Unit == "" || w.SwitchUntil <= 0):
		return fmt.Errorf("step %s without unit or limit", j.Step)
	case w.Outcome != "" && !w.Outcome.Valid() || w.Reason != "" && !w.Reason.Valid():
		return fmt.Errorf("outcome %q, reason %q", w.Outcome, w.Reason)
	}
	return nil
}

// For any sequence of inputs: a rollback never becomes an attempt again, switches
// never share a name (A06), an order is carried out once (H03), the floor never
// falls, and a revert order is obeyed once per digest (E04).
func TestNext_HoldsItsPromisesForAnySequenceOfInputs(t *testing.T) {
	all := inputs()
	rapid.Check(t, func(t *rapid.T) {
		j := atRest()
		j.LastGood = &System{Path: handPath, Digest: fleet.SHA256([]byte("older")), Line: "main", Sequence: 1}
		now := boot1
		units := map[string]bool{}
		begun := map[string]int{}
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			in := rapid.SampledFrom(all).Draw(t, "input")
			now.Boot += rapid.Float64Range(0, 20).Draw(t, "seconds")
			now.WallMs += 1000
			if _, ok := in.(Rebooted); ok {
				now.BootID, now.Boot = now.BootID+"'", 5
			}
			next, _ := Next(j, in, now)
			if err := sane(next); err != nil {
				t.Fatalf("%s, %s: %v", j.Step, name(in), err)
			}
			if j.Step.State() == fleet.AgentRollingBack && next.Step.State() != fleet.AgentRollingBack && next.Step != Report {
				t.Fatalf("from %s to %s", j.Step, next.Step)
			}
			if w := next.Work; w != nil && w.Unit != "" && (j.Work == nil || w.Unit != j.Work.Unit) {
				if units[w.Unit] {
					t.Fatalf("unit %s is used twice", w.Unit)
				}
				units[w.Unit] = true
			}
			if next.Step == Report && j.Step != Report && j.Step != Idle {
				begun[next.Work.Order.Key()]++
			}
			if a, b := floorOf(j), floorOf(next); b < a {
				t.Fatalf("floor falls from %d to %d", a, b)
			}
			j = next
		}
		for k, n := range begun {
			if n > 1 {
				t.Fatalf("%s was carried out %d times", k, n)
			}
		}
	})
}

func floorOf(j Journal) fleet.Sequence {
	if j.Trust.Floor == nil {
		return 0
	}
	return j.Trust.Floor.Lines["main"].Sequence
}

// after is the journal that an input leads to.
func after(j Journal, in Input, now Moment) Journal {
	j, _ = Next(j, in, now)
	return j
}

func run(j Journal, now Moment, in ...Input) Journal {
	for _, i := range in {
		j = after(j, i, now)
	}
	return j
}

// A05: exit code 4 means that units failed. Only units that had not failed before
// are listed, and the system stays if its checks pass.
func TestNext_ExitCodeFourIsLiveDegradedByTheUnitsThatFailedSince(t *testing.T) {
	j := run(at(t, Switch), boot1, Switched{Generations: onNew, Code: 4, FailedUnits: []string{"app.service", "lame.service"}})
	if j.Step != HandOver {
		t.Fatalf("step %s", j.Step)
	}
	j = run(j, boot1, Done{}, Confirmed{By: "control-plane"}, Done{}, Healthy{FailedUnits: []string{"app.service", "lame.service"}})
	if w := j.Work; w.Outcome != fleet.OutcomeLiveDegraded || !cmp.Equal(w.Failed, []string{"app.service"}) {
		t.Errorf("outcome %s, failed %v", w.Outcome, w.Failed)
	}
	j = run(at(t, Switch), boot1, Switched{Generations: onNew, Code: 4, FailedUnits: []string{"lame.service"}}, Done{}, Confirmed{By: "control-plane"}, Done{}, Healthy{FailedUnits: []string{"lame.service"}})
	if w := j.Work; w.Outcome != fleet.OutcomeLive {
		t.Errorf("a unit that failed before: outcome %s", w.Outcome)
	}
}

// A07, O09: a rollback that fails is tried three times, then reported.
func TestNext_ARollbackThatFailsIsReportedAsSuch(t *testing.T) {
	j := at(t, RollbackSwitch)
	for range 2 {
		unit := j.Work.Unit
		if j = after(j, Switched{Generations: onNew, Code: 2}, boot1); j.Step != RollbackSwitch || j.Work.Unit == unit {
			t.Fatalf("step %s, unit %s after %s", j.Step, j.Work.Unit, unit)
		}
	}
	j = after(j, Switched{Generations: onNew, Code: 2}, boot1)
	if j.Step != Report || j.Work.Outcome != fleet.OutcomeRollbackFailed || j.Work.Reason != fleet.ReasonPreviousFailed {
		t.Errorf("step %s, outcome %s, reason %s", j.Step, j.Work.Outcome, j.Work.Reason)
	}
	bad := fleet.Generations{Running: oldPath, BootDefault: newPath}
	if j = after(at(t, RollbackSwitch), Switched{Generations: bad}, boot1); j.Work.Outcome != fleet.OutcomeRollbackFailed || j.Work.Reason != fleet.ReasonProfileFailed {
		t.Errorf("boot default not set: outcome %s, reason %s", j.Work.Outcome, j.Work.Reason)
	}
}

// H06: the second attempt of a rollout still rolls back to what ran before the first.
func TestNext_NeverRollsBackToASystemThatFailedHere(t *testing.T) {
	j := at(t, RollbackSwitch)
	for range 3 {
		j = after(j, Switched{Generations: onNew, Code: 2}, boot1)
	}
	j = run(j, boot1, Done{}) // revert-failed: the new system still runs
	retry := apply
	retry.Attempt = 2
	other := accepted()
	other.Entry.StorePath = handPath
	j = run(j, boot1, Ordered{retry}, Accepted{other}, Done{}, Prepared{Generations: onNew})
	if j.Work.Previous.Path != oldPath {
		t.Errorf("rolls back to %s, want %s", j.Work.Previous.Path, oldPath)
	}
}

// E04: a revert order is obeyed once per digest, within its window, for the
// release that runs, and leads to the last good one.
func TestNext_ObeysARevertOrderOnce(t *testing.T) {
	live := run(at(t, Verify), boot1, Healthy{}, Done{})
	if live.Step != Idle || live.Current.Path != newPath || live.LastGood.Path != oldPath {
		t.Fatalf("journal = %+v", live)
	}
	j := after(live, Ordered{revert}, boot1)
	if j.Step != RollbackProfile || j.Work.Previous.Path != oldPath || j.Work.Reason != fleet.ReasonRevertOrdered {
		t.Fatalf("step %s, work %+v", j.Step, j.Work)
	}
	j = run(j, boot1, Done{}, Switched{Generations: onOld}, Done{}, Done{})
	if j.Current.Path != oldPath || j.LastGood != nil || j.Drifted(oldPath) {
		t.Errorf("after the revert: current %+v, last good %+v", j.Current, j.LastGood)
	}
	again := revert
	again.Attempt = 2
	if j = after(j, Ordered{again}, boot1); j.Work.Outcome != fleet.OutcomeRefused || j.Work.Reason != fleet.ReasonRevertRepeated {
		t.Errorf("repeated: %s %s", j.Work.Outcome, j.Work.Reason)
	}
	late := boot1
	late.WallMs += 3600_001
	if j = after(live, Ordered{revert}, late); j.Work.Reason != fleet.ReasonRevertLate {
		t.Errorf("late: %s", j.Work.Reason)
	}
	stranger := revert
	stranger.Digest = fleet.SHA256([]byte("stranger"))
	if j = after(live, Ordered{stranger}, boot1); j.Work.Reason != fleet.ReasonRevertUnknown {
		t.Errorf("never applied here: %s", j.Work.Reason)
	}
}

// H13: what runs already is not switched again, and not rolled back.
func TestNext_ASystemThatRunsAlreadyIsOnlyVerified(t *testing.T) {
	j := after(at(t, Prepare), Prepared{Generations: onNew}, boot1)
	if j.Step != Verify || !j.Work.Converged {
		t.Fatalf("step %s", j.Step)
	}
	if k := after(j, Unhealthy{Reason: fleet.ReasonCheckFailed}, boot1); k.Step != Report || k.Work.Outcome != fleet.OutcomeFailed {
		t.Errorf("unhealthy: step %s, outcome %s", k.Step, k.Work.Outcome)
	}
	if j = run(j, boot1, Healthy{}, Done{}); j.Current.Digest != newDigest {
		t.Errorf("current = %+v", j.Current)
	}
}

// A11: a needed reboot waits for the policy and is proven by the boot id. A boot
// of the old system is reported as such.
func TestNext_ARebootIsProvenByTheBootID(t *testing.T) {
	j := at(t, AwaitReboot)
	if k := after(j, Rebooted{onOld}, boot1); k.Step != AwaitReboot {
		t.Errorf("the same boot: step %s", k.Step)
	}
	if k := after(j, Rebooted{onNew}, boot2); k.Step != HandOver || k.Work.ConfirmUntil != boot2.Boot+30 {
		t.Errorf("booted: step %s, confirm until %g", k.Step, k.Work.ConfirmUntil)
	}
	if k := after(j, Rebooted{onOld}, boot2); k.Step != RollbackProfile || k.Work.Reason != fleet.ReasonBootedOld {
		t.Errorf("booted old: step %s, reason %s", k.Step, k.Work.Reason)
	}
	staged := run(at(t, Prepare), boot1, Prepared{Generations: onOld, Reboot: true}, Done{}, Done{}, Switched{Generations: fleet.Generations{Running: oldPath, BootDefault: newPath}})
	if w := staged.Work; w.Outcome != fleet.OutcomeStagedReboot {
		t.Fatalf("reboot never: outcome %s", w.Outcome)
	}
	staged = run(staged, boot1, Done{})
	if staged.Drifted(oldPath) || staged.Drifted(newPath) || staged.Current.Path != oldPath {
		t.Errorf("staged: current %v, drift %t %t", staged.Current, staged.Drifted(oldPath), staged.Drifted(newPath))
	}
	if staged = after(staged, Rebooted{onNew}, boot2); staged.Current.Path != newPath || staged.LastGood.Path != oldPath {
		t.Errorf("booted: current %v", staged.Current)
	}
}

// A13: drift is recorded once for each system, and not undone.
func TestNext_DriftIsRecordedAndNotUndone(t *testing.T) {
	j := after(atRest(), Observed{fleet.Generations{Running: handPath}}, boot1)
	if j.Step != Idle || j.Drift != handPath || !j.Drifted(handPath) {
		t.Errorf("journal = %+v", j)
	}
	if k := after(j, Observed{fleet.Generations{Running: handPath}}, boot1); !cmp.Equal(j, k) {
		t.Error("recorded twice")
	}
	if k := after(j, Observed{onOld}, boot1); k.Drift != "" {
		t.Errorf("drift %q after it is over", k.Drift)
	}
}
