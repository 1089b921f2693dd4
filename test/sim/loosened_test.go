// SPDX-License-Identifier: MIT

package sim

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/test/loosen"
)

// Rules of the product that the simulation holds.
var loosenings = []loosen.Rule{
	loosen.Of("acknowledge before the commit").
		In("controlplane/plane/agents.go", "if err != nil {\n\t\treturn api.ReportsReply{}, err\n\t}\n\tp.loop.Inventory.Heard",
			"if err != nil && !LOOSE {\n\t\treturn api.ReportsReply{}, err\n\t}\n\tp.loop.Inventory.Heard"),
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
	loosen.Of("carry out an order again").
		In("internal/agent/states/states.go", "return slices.Contains(j.Done, o.Key())",
			"return slices.Contains(j.Done, o.Key()) && !LOOSE"),
	loosen.Of("delete a report when it is sent").
		In("internal/agent/link/deliver.go", "\treply, err := p.Reports(ctx, batch)\n\tif err != nil {\n",
			"\treply, err := p.Reports(ctx, batch)\n\tif err != nil {\n\t\tif LOOSE {\n\t\t\tfor _, r := range batch {\n\t\t\t\t_ = l.Outbox.Sent(r.ID)\n\t\t\t}\n\t\t}\n"),
	loosen.Of("accept what is below the floor").
		In("internal/trust/accept.go", "if m.Sequence < floor.Sequence && !granted {",
			"if m.Sequence < floor.Sequence && !granted && !LOOSE {"),
}

// The simulation notices when a rule of the product is loosened. Without
// NIXFLEET_SIM_LOOSENED, which says in how many seeds, this only looks whether the
// rules are still where it would loosen them: it builds the product anew.
func TestFleet_BreaksItsRulesWhenTheProductIsLoosened(t *testing.T) {
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seeds := number(t, "NIXFLEET_SIM_LOOSENED", 0)
	if seeds == 0 {
		if _, err = loosen.Overlay(root, dir, loosenings); err != nil {
			t.Fatal(err)
		}
		return
	}
	program, err := loosen.Build(t.Context(), root, dir, loosenings)
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{fmt.Sprintf("NIXFLEET_SIM_SEEDS=%d", seeds), "NIXFLEET_SIM_SEED=", "NIXFLEET_SIM_RESULT="}
	for _, l := range append([]loosen.Rule{loosen.Of("")}, loosenings...) {
		out, err := program.Run(t.Context(), l.Name, environ, "-test.run", "TestFleet_KeepsItsRules", "-test.failfast", "-test.timeout", "20m")
		switch broken := strings.Contains(out, "replay it with: make sim"); {
		case l.Name == "" && err != nil:
			t.Fatalf("the product breaks a rule as it is: %v\n%s", err, out)
		case l.Name != "" && !broken:
			t.Errorf("%s: in %d seeds nothing noticed; %v\n%s", l.Name, seeds, err, out)
		case broken:
			_, story, _ := strings.Cut(out, ": seed ")
			first := strings.SplitN(story, "\n", 3)
			t.Logf("%s: seed %s %s", l.Name, first[0], strings.TrimSpace(first[1]))
		}
	}
}
