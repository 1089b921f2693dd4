// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// A machine that was healthy runs what it ran before again, although it accepts no
// older release, and stays above its floor: undo makes a new one.
func TestRolloutUndo_BringsMachinesToWhatTheyRanBefore(t *testing.T) {
	testbed.Require(t)
	ctx := t.Context()
	s, err := demo.NewScene(ctx, bin, []demo.Actor{{ID: "web-01"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := s.Clean(context.Background()); cerr != nil {
			t.Errorf("clean up: %v", cerr)
		}
	})
	if err = s.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	made := map[string]demo.Made{}
	for _, name := range []string{"one", "two"} {
		if made[name], err = s.Release(ctx, name, s.Systems(name, nil)); err != nil {
			t.Fatal(err)
		}
		if got := roll(t, s, made[name]); got != fleet.RolloutCompleted {
			t.Fatalf("release %s: the rollout is %s", name, got)
		}
	}
	var rollouts []fleet.Rollout
	if _, err := s.Nixfleet(ctx, &rollouts, "rollout", "list"); err != nil {
		t.Fatal(err)
	}
	var ended struct {
		State fleet.RolloutState `json:"state"`
	}
	key := s.Dir + "/trust/keys/release.sec"
	if _, err := s.Nixfleet(ctx, &ended, "rollout", "undo", string(rollouts[0].ID), "--yes", "--sign-key", key, "--wait", "--timeout", "90s"); err != nil {
		t.Fatal(err)
	}
	if ended.State != fleet.RolloutCompleted {
		t.Errorf("the rollout is %s", ended.State)
	}
	s.Expect(made["one"])
	if err := s.Compare(ctx); err != nil {
		t.Error(err)
	}
	var list []fleet.Release
	if _, err := s.Nixfleet(ctx, &list, "release", "list"); err != nil {
		t.Fatal(err)
	}
	if list[0].Header.Sequence != 3 {
		t.Errorf("the newest release has sequence %d", list[0].Header.Sequence)
	}
}
