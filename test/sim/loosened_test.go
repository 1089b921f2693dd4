// SPDX-License-Identifier: MIT

package sim

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/test/loosen"
)

// Rules of the product that the simulation holds.
var loosenings = []loosen.Rule{
	loosen.Of("acknowledge before the commit").
		In("controlplane/plane/agents.go", "return in.write(ctx, tx) }); err != nil {", "return in.write(ctx, tx) }); err != nil && !LOOSE {").
		In("controlplane/plane/agents.go", "if err != nil && !changed {", "if LOOSE {\n\t\treturn reports.acknowledged(in), nil\n\t}\n\tif err != nil && !changed {"),
	loosen.Of("take reports of another attempt").
		In("controlplane/rollout/report.go", "r.Attempt != a.Attempt ||",
			"r.Attempt != a.Attempt && !LOOSE ||"),
	loosen.Of("ignore the claim").
		In("controlplane/loop/begin.go", "if s.Rollout.Spec.Supersede || len(claimed) == 0 {",
			"if s.Rollout.Spec.Supersede || len(claimed) == 0 || LOOSE {").
		In("controlplane/loop/begin.go", "if err := p.supersede(ctx, s.Rollout.ID, claimedBy(*s, claims)); err != nil {",
			"if LOOSE {\n\t\tclaims = nil\n\t}\n\tif err := p.supersede(ctx, s.Rollout.ID, claimedBy(*s, claims)); err != nil {").
		In("controlplane/store/assignment.go", "if n == int64(len(machines)) {",
			"if n == int64(len(machines)) || LOOSE {"),
	loosen.Of("pass without the approval").
		In("controlplane/rollout/tick.go", "case b.Approved || b.Index+1 == len(st.batches):",
			"case b.Approved || b.Index+1 == len(st.batches) || LOOSE:"),
	loosen.Of("begin without the approval").
		In("controlplane/rollout/start.go", "r.StartedAt == 0 && r.Spec.Approve && !r.Approved",
			"r.StartedAt == 0 && r.Spec.Approve && !r.Approved && !LOOSE"),
	loosen.Of("offer to a frozen fleet").
		In("controlplane/rollout/hold.go", "if f := w.Freeze; f.Holds(now) {",
			"if f := w.Freeze; f.Holds(now) && !LOOSE {"),
	loosen.Of("offer outside the windows").
		In("controlplane/rollout/hold.go", "if c.Always() || c.Open(t) {",
			"if c.Always() || c.Open(t) || LOOSE {"),
	loosen.Of("end attempts by the wall clock").
		In("controlplane/rollout/tick.go", "late := st.run >= st.due(a)",
			"late := st.run >= st.due(a) || LOOSE && st.now-a.OfferedAt >= st.spec().HealthyDeadlineMs"),
	loosen.Of("carry out a repeated call").
		In("controlplane/once/once.go", "if done, err := c.answered(ctx, tx.Reader, out); done || err != nil {",
			"if LOOSE {\n\t\treturn do()\n\t}\n\tif done, err := c.answered(ctx, tx.Reader, out); done || err != nil {").
		In("controlplane/once/once.go", "\tif !ok {\n\t\treturn false, nil\n\t}\n\treturn c.answered(ctx, r, out)",
			"\tif !ok || LOOSE {\n\t\treturn false, nil\n\t}\n\treturn c.answered(ctx, r, out)"),
	loosen.Of("tolerate one failure more").
		In("controlplane/rollout/failure.go", "b.Acknowledged, st.spec().MaxFailures.Tolerates(b.Size); n > limit {",
			"b.Acknowledged, st.spec().MaxFailures.Tolerates(b.Size); n > limit && !(LOOSE && n == limit+1) {"),
	loosen.Of("reboot outside the reboot windows").
		In("internal/agent/machine/reboot.go", "mayBegin(j, t) && mayReboot(j, t) &&",
			"mayBegin(j, t) && (LOOSE || mayReboot(j, t)) &&"),
	loosen.Of("carry out an order again").
		In("internal/agent/states/states.go", "return slices.Contains(j.Done, o.Key())",
			"return slices.Contains(j.Done, o.Key()) && !LOOSE"),
	loosen.Of("delete a report when it is sent").
		In("internal/agent/link/deliver.go", "\treply, err := p.Reports(ctx, batch)\n\tif err != nil {\n",
			"\treply, err := p.Reports(ctx, batch)\n\tif err != nil {\n\t\tif LOOSE {\n\t\t\tfor _, r := range batch {\n\t\t\t\t_ = l.Outbox.Sent(r.ID)\n\t\t\t}\n\t\t}\n").
		In("internal/agent/link/deliver.go", "if err != nil && !refused(err) {", "if err != nil && !refused(err) {\n\t\tif LOOSE {\n\t\t\tfor _, r := range carried {\n\t\t\t\t_ = l.Outbox.Sent(r.ID)\n\t\t\t}\n\t\t}\n"),
	loosen.Of("accept what is below the floor").
		In("internal/trust/accept.go", "if m.Sequence < floor.Sequence && !granted {",
			"if m.Sequence < floor.Sequence && !granted && !LOOSE {"),
}

// telling are rules that the simulation finds loosened in nearly every run of one of
// the seeds from a first one on.
var telling = map[string]uint64{"pass without the approval": 23, "tolerate one failure more": 30, "offer to a frozen fleet": 39}

// tellingSeeds is how many seeds each of them has.
const tellingSeeds = 4

// The simulation notices when a rule of the product is loosened: the rules that are
// telling in their seeds, or, if NIXFLEET_SIM_LOOSENED says in how many seeds, all of
// them. The others are only looked for where they would be loosened.
func TestFleet_BreaksItsRulesWhenTheProductIsLoosened(t *testing.T) {
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seeds, chosen := number(t, "NIXFLEET_SIM_LOOSENED", 0), append([]loosen.Rule{loosen.Of("")}, loosenings...)
	quick := seeds == 0
	if quick { // the product as it is, TestFleet_KeepsItsRulesWhateverBefallsIt has
		if _, err = loosen.Overlay(root, t.TempDir(), loosenings); err != nil {
			t.Fatal(err)
		}
		seeds, chosen = tellingSeeds, slices.DeleteFunc(slices.Clone(loosenings), func(r loosen.Rule) bool { return telling[r.Name] == 0 })
	}
	program, err := loosen.Build(t.Context(), root, dir, chosen)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range chosen {
		first := uint64(1)
		if quick {
			first = telling[l.Name]
		}
		environ := []string{fmt.Sprintf("NIXFLEET_SIM_SEEDS=%d", seeds), fmt.Sprintf("NIXFLEET_SIM_FIRST=%d", first), "NIXFLEET_SIM_SEED=", "NIXFLEET_SIM_RESULT="}
		out, err := program.Run(t.Context(), l.Name, environ, "-test.run", "TestFleet_KeepsItsRules", "-test.failfast", "-test.timeout", "20m")
		switch broken := strings.Contains(out, "replay it with: make sim"); {
		case l.Name == "" && err != nil:
			t.Fatalf("the product breaks a rule as it is: %v\n%s", err, out)
		case l.Name != "" && !broken:
			t.Errorf("%s: in %d seeds nothing noticed; %v\n%s", l.Name, seeds, err, out)
		case broken:
			_, story, _ := strings.Cut(out, ": seed ")
			lines := strings.SplitN(story, "\n", 3)
			t.Logf("%s: seed %s %s", l.Name, lines[0], strings.TrimSpace(lines[1]))
		}
	}
}
