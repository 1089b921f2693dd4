// SPDX-License-Identifier: AGPL-3.0-only

package rollout_test

import (
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/test/loosen"
)

// in has a rule of a file of this package loosened.
func in(file, name, old, loose string) loosen.Rule {
	return loosen.Of(name).In("controlplane/rollout/"+file+".go", old, loose)
}

// Rules of the engine that TestStep_KeepsItsRulesAndEnds holds.
var loosenings = []loosen.Rule{
	in("failure", "tolerate a failure more", "st.spec().MaxFailures.Tolerates(b.Size); n > limit {", "st.spec().MaxFailures.Tolerates(b.Size); n > limit && !(LOOSE && n == limit+1) {"),
	in("failure", "tolerate a failure more in all", "\tif n > limit {\n", "\tif n > limit && !(LOOSE && n == limit+1) {\n"),
	in("failure", "revert what ran before", "|| a.PreviousPath == a.StorePath ||", "|| a.PreviousPath == a.StorePath && !LOOSE ||"),
	in("start", "begin without the approval", "r.Spec.Approve && !r.Approved", "r.Spec.Approve && !r.Approved && !LOOSE"),
	in("tick", "pass without the approval", "case b.Approved || b.Index+1 == len(st.batches):", "case b.Approved || b.Index+1 == len(st.batches) || LOOSE && st.spec().Approve:"),
	in("command", "let the author approve", "if r.Spec.ApproveByOther && sameOwner(", "if r.Spec.ApproveByOther && !LOOSE && sameOwner("),
	in("command", "take another spelling for another owner", "return strings.EqualFold(a, b)", "return a == b || !LOOSE && strings.EqualFold(a, b)"),
	in("tick", "soak no time", "b.State == fleet.BatchSoaking && st.run >= b.SoakUntil", "b.State == fleet.BatchSoaking && (LOOSE || st.run >= b.SoakUntil)"),
	in("tick", "soak by the wall clock", "fleet.BatchSoaking, st.run+st.spec().SoakMs, \"\"", "fleet.BatchSoaking, st.run+st.spec().SoakMs, \"\"\n\t\tif LOOSE {\n\t\t\tb.SoakUntil -= st.now - b.OpenedAt - (st.run - b.OpenedRun)\n\t\t}"),
	in("tick", "go on while machines are at work", "\tif unfinished(b.Counts) == 0 {\n\t\treturn true", "\tif unfinished(b.Counts) == 0 || LOOSE {\n\t\treturn true"),
	in("tick", "pass a batch of which nothing is known", "case b.Counts.Healthy == 0 && (", "case !LOOSE && b.Counts.Healthy == 0 && ("),
	in("report", "pass by a revert by hand", "|| b.State == fleet.BatchPassed || b.Counts.Healthy > 0", "|| LOOSE || b.State == fleet.BatchPassed || b.Counts.Healthy > 0"),
	in("gates", "pass without a gate's answer", "case g.Answer == fleet.GatePass || g.ApprovedBy != \"\":", "case g.Answer == fleet.GatePass || g.ApprovedBy != \"\" || LOOSE:"),
	in("gates", "pass by an inconclusive answer", "if r.Answer != fleet.GatePass && r.Answer != fleet.GateFail {", "if LOOSE && r.Answer == fleet.GateInconclusive {\n\t\tr.Answer = fleet.GatePass\n\t}\n\tif r.Answer != fleet.GatePass && r.Answer != fleet.GateFail {"),
	in("gates", "take a gate's answer to another question", "|| b.Gates[i].Asked != r.Asked ||", "|| b.Gates[i].Asked != r.Asked && !LOOSE ||"),
	in("hold", "offer to a frozen fleet", "if f := w.Freeze; f.Holds(now) {", "if f := w.Freeze; f.Holds(now) && !LOOSE {"),
	in("hold", "offer outside the windows", "if c.Always() || c.Open(t) {", "if c.Always() || c.Open(t) || LOOSE {"),
	in("tick", "offer to more than maxParallel", "free = n - st.total().InFlight", "free = n - st.total().InFlight\n\t\tif LOOSE {\n\t\t\tfree = n\n\t\t}"),
	in("tick", "offer to who is offline", "\tcase f.Online:\n\t\treturn true", "\tcase f.Online || LOOSE:\n\t\treturn true"),
	in("tick", "offer to a machine in maintenance", "\tcase !known || f.Lifecycle != fleet.Active:\n", "\tcase !known || f.Lifecycle != fleet.Active && !LOOSE:\n"),
	in("budget", "begin above a budget", "if len(b.Disrupted)+begun < b.Limit {", "if len(b.Disrupted)+begun < b.Limit || LOOSE {"),
	in("budget", "count no machine that a look lets begin", "b.full(len(st.begun[b.Name]))", "b.full(len(st.begun[b.Name]) * map[bool]int{false: 1}[LOOSE])"),
	in("group", "begin a group before the one ahead of it", "\tif left > 0 {\n", "\tif left > 0 && !LOOSE {\n"),
	in("group", "begin a group before other rollouts' machines", "st.rollout.ID); other != \"\" {", "st.rollout.ID); other != \"\" && !LOOSE {"),
	in("limit", "tolerate a failure more of a type", "n > tolerated {", "n > tolerated && !(LOOSE && n == tolerated+1) {"),
	in("failure", "revert what another rollout took over", "|| a.Reason == fleet.ReasonSuperseded {", "|| a.Reason == fleet.ReasonSuperseded && !LOOSE {"),
	in("orders", "prefetch what a canary may yet stop", "&& a.Batch <= r.Batch+1:", "&& (a.Batch <= r.Batch+1 || LOOSE):"),
	in("hold", "end attempts before their reboot window", "if a.Deadline < at+min(healthy, reportGrace) {", "if a.Deadline < at+min(healthy, reportGrace) && !LOOSE {"),
	in("tick", "give up too soon on who is offline", "st.run < st.offlineDeadline(f):", "st.run < st.offlineDeadline(f) && !LOOSE:"),
	in("tick", "offer while paused", "if st.rollout.State == fleet.RolloutRunning {\n\t\tst.proceed()", "if st.rollout.State == fleet.RolloutRunning || LOOSE && st.rollout.State == fleet.RolloutPaused && st.rollout.StartedAt > 0 {\n\t\tst.rollout.State = fleet.RolloutRunning\n\t\tst.proceed()"),
	in("tick", "end attempts before their time", "late := st.run >= st.due(a)", "late := st.run >= st.due(a) || LOOSE && st.run > a.OfferedRun"),
	in("tick", "end attempts by the wall clock", "\tcase !late:\n", "\tcase !late && !(LOOSE && st.now-a.OfferedAt >= st.spec().HealthyDeadlineMs):\n"),
	in("tick", "forget what ran before", "\tif !a.EverOffered {\n\t\tf, _ :=", "\tif !a.EverOffered || LOOSE {\n\t\tf, _ :="),
	in("tick", "sleep through a deadline", "st.rollout.WakeAt = st.nextWake()", "if st.rollout.WakeAt = st.nextWake(); LOOSE {\n\t\tst.rollout.WakeAt = 0\n\t}"),
	in("index", "try again what failed", "return a.State == fleet.AssignSkipped && (", "return LOOSE && a.State == fleet.AssignRolledBack || a.State == fleet.AssignSkipped && ("),
	in("report", "take reports of another attempt", "r.Attempt != a.Attempt ||", "r.Attempt != a.Attempt && !LOOSE ||"),
	in("report", "let a success undo a failure", "case a.State.InFlight(), a.State.RollingBack():", "case a.State.InFlight(), a.State.RollingBack(), LOOSE && a.State == fleet.AssignRolledBack:"),
	in("report", "take success without a check", "case !declared && r.Confirmed == \"\":", "case !declared && r.Confirmed == \"\" && !LOOSE:"),
	in("report", "take a check that says nothing for passed", "case declared && fleet.HealthOf(r.Checks) != fleet.Healthy:", "case declared && fleet.HealthOf(r.Checks) != fleet.Healthy && !LOOSE:"),
	in("report", "take success of another system", "case r.Running != a.StorePath:", "case r.Running != a.StorePath && !LOOSE:"),
	in("report", "take success too soon", "run-a.OfferedRun < spec.MinHealthyMs-spec.MinHealthyMs/10:", "run-a.OfferedRun < spec.MinHealthyMs-spec.MinHealthyMs/10 && !LOOSE:"),
}

// Each rule of the engine, loosened, breaks TestStep_KeepsItsRulesAndEnds. The seed
// is the same each time: the rarest rule breaks in about one of 500 rollouts.
func TestStep_KeepsEachRule(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := loosen.Build(t.Context(), root, t.TempDir(), loosenings)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run", "^TestStep_KeepsItsRulesAndEnds$", "-rapid.seed", "1", "-rapid.checks", "3000", "-rapid.shrinktime", "1ns", "-rapid.nofailfile"}
	for _, r := range loosenings {
		t.Run(r.Name, func(t *testing.T) {
			if out, err := program.Run(t.Context(), r.Name, nil, args...); err == nil {
				t.Errorf("nothing noticed\n%s", out)
			}
		})
	}
	if out, err := program.Run(t.Context(), "", nil, append(args, "-rapid.checks", "100")...); err != nil {
		t.Errorf("the engine as it is: %v\n%s", err, out)
	}
}
