// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// The documented first use: a machine that enrols by its token file has the floor
// that came with the token. It accepts its first release, and none that is older
// than the newest when the token was made.
func TestFloor_ComesWithTheEnrolmentToken(t *testing.T) {
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
	made := map[string]demo.Made{}
	for _, name := range []string{"older", "newest"} {
		if made[name], err = s.Release(ctx, name, s.Systems(name, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err = s.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	want := trust.Mark{Line: "main", Sequence: 2, Digest: made["newest"].Digest}
	err = s.Until(ctx, 20*time.Second, "web-01 has adopted its floor", func(ctx context.Context) (err error) {
		res, err := s.Host("web-01").Exec(ctx, proc.Cmd{Path: "/run/current-system/sw/bin/nixfleet-agent", Args: []string{"status", "--json"}})
		if err != nil {
			return err
		}
		var status struct{ Floor *trust.Floor }
		if err := json.Unmarshal(res.Stdout, &status); err != nil {
			return err
		}
		if status.Floor == nil || status.Floor.Lines["main"] != want {
			return fmt.Errorf("its status is %s", res.Stdout)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := roll(t, s, made["older"]); got != fleet.RolloutFailed && got != fleet.RolloutPaused {
		t.Errorf("a release below the floor: the rollout is %s", got)
	}
	var machine struct{ Reports []fleet.Report }
	if _, err := s.Nixfleet(ctx, &machine, "machine", "show", "web-01"); err != nil {
		t.Fatal(err)
	}
	if len(machine.Reports) == 0 || machine.Reports[0].Reason != fleet.ReasonBelowFloor {
		t.Errorf("a release below the floor: reports %+v", machine.Reports)
	}
	if got := roll(t, s, made["newest"]); got != fleet.RolloutCompleted {
		t.Errorf("the first release: the rollout is %s", got)
	}
	s.Expect(made["newest"])
	if err := s.Compare(ctx); err != nil {
		t.Error(err)
	}
}

// roll rolls a release out, instead of one that did not succeed, and returns how
// that ended.
func roll(t *testing.T, s *demo.Scene, r demo.Made) fleet.RolloutState {
	t.Helper()
	var ended struct {
		State fleet.RolloutState `json:"state"`
	}
	if _, err := s.Nixfleet(t.Context(), &ended, "rollout", "create", "--release", string(r.Digest), "--strategy", "all-at-once", "--supersede", "--wait", "--timeout", "90s", "--min-healthy", "300ms", "--healthy-deadline", "60s"); err != nil {
		t.Fatal(err)
	}
	return ended.State
}
