// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"path/filepath"
	"testing"

	"github.com/arcanesys/nixfleet/test/loosen"
)

// in has a rule of a file of this package loosened.
func in(file, name, old, loose string) loosen.Rule {
	return loosen.Of(name).In("controlplane/loop/"+file+".go", old, loose)
}

// Rules of the loop that TestLoop_LosesNothingAndEndsWhateverBefallsIt holds.
var loosenings = []loosen.Rule{
	in("pass", "keep in memory what was not written", "if p.dirty {\n\t\t\tl.active = nil", "if p.dirty && !LOOSE {\n\t\t\tl.active = nil"),
	in("pass", "write no batches", "\t\tc.batches[b.Index] = true\n", "\t\tif !LOOSE {\n\t\t\tc.batches[b.Index] = true\n\t\t}\n"),
	in("pass", "keep claims that have ended", "c.endClaims = append(c.endClaims, res.EndClaims...)", "if !LOOSE {\n\t\tc.endClaims = append(c.endClaims, res.EndClaims...)\n\t}"),
	in("pass", "keep what has ended at work", "if s.Rollout.State.Final() && !unfinished(s) {", "if s.Rollout.State.Final() && !unfinished(s) && !LOOSE {"),
	in("pass", "look at no rollout in time", "if w := s.Rollout.WakeAt; w == 0 || w > p.Run {", "if w := s.Rollout.WakeAt; w == 0 || w > p.Run || LOOSE {"),
	in("drain", "forget a report that was acknowledged", "for _, w := range waiting {\n\t\t\tp.apply(w)", "for _, w := range waiting {\n\t\t\tif LOOSE {\n\t\t\t\tp.applied = append(p.applied, w.Seq)\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tp.apply(w)"),
	in("changes", "apply a report again", "if err := p.Tx.MarkApplied(ctx, p.applied...); err != nil {", "if LOOSE {\n\t\tp.applied = nil\n\t}\n\tif err := p.Tx.MarkApplied(ctx, p.applied...); err != nil {"),
	in("begin", "ignore the claim", "if s.Rollout.Spec.Supersede || len(claimed) == 0 {", "if s.Rollout.Spec.Supersede || len(claimed) == 0 || LOOSE {"),
	in("begin", "take over without ending the claim's part", "rollout.Event{Superseded: claimed[other], By: by}", "rollout.Event{Superseded: map[bool][]fleet.MachineID{false: claimed[other]}[LOOSE], By: by}"),
	in("begin", "say nothing to machines of a rollout that waits", "c.assignments[id], p.touched[id] = true, true", "c.assignments[id], p.touched[id] = true, !LOOSE\n\t\tif LOOSE {\n\t\t\tdelete(p.touched, id)\n\t\t}"),
	in("budget", "count nothing that this pass lets begin", "\t\tp.work[a.Machine] = work\n", "\t\tif LOOSE {\n\t\t\tcontinue\n\t\t}\n\t\tp.work[a.Machine] = work\n"),
	in("budget", "count no other rollout's work", "at, ok := work[m.ID]\n", "at, ok := work[m.ID]\n\t\tif LOOSE {\n\t\t\tok = true\n\t\t}\n"),
}

// Each rule of the loop, loosened, breaks the property above. The seed is the same
// each time.
func TestLoop_KeepsEachRule(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := loosen.Build(t.Context(), root, t.TempDir(), loosenings)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run", "^TestLoop_LosesNothing", "-rapid.seed", "1", "-rapid.checks", "600", "-rapid.shrinktime", "1ns", "-rapid.nofailfile"}
	for _, r := range loosenings {
		t.Run(r.Name, func(t *testing.T) {
			if out, err := program.Run(t.Context(), r.Name, nil, args...); err == nil {
				t.Errorf("nothing noticed\n%s", out)
			}
		})
	}
	if out, err := program.Run(t.Context(), "", nil, append(args, "-rapid.checks", "60")...); err != nil {
		t.Errorf("the loop as it is: %v\n%s", err, out)
	}
}
