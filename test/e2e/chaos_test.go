// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// Canary rollouts between two systems, while the agent of a machine or the
// control plane is killed with -9 at a random moment: each ends completed, with
// every machine on the new system (A02, H09, H15).
func TestChaos_RolloutsSurviveKills(t *testing.T) {
	testbed.Require(t)
	kills := 2
	if v := os.Getenv("CHAOS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("CHAOS=%q is not a number of kills", v)
		}
		kills = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx := t.Context()
	s, err := demo.NewScene(ctx, bin, []demo.Actor{{ID: "web-01", Tags: []fleet.Tag{"web"}}, {ID: "web-02"}, {ID: "db-01"}})
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
	wrong, stuck := 0, 0
	for i := range kills {
		var r demo.Made
		if r, err = s.Release(ctx, fmt.Sprintf("release %d", i+1), s.Systems(strconv.Itoa(i+1), nil)); err != nil {
			t.Fatal(err)
		}
		what := strike(t, s, random)
		var ended struct {
			State fleet.RolloutState `json:"state"`
			Why   string             `json:"why"`
		}
		if _, err = s.Nixfleet(ctx, &ended, "rollout", "create", "--release", string(r.Digest), "--strategy", "canary", "--wait", "--timeout", "90s", "--min-healthy", "300ms", "--healthy-deadline", "60s"); err != nil {
			stuck++
			t.Errorf("kill %d: %v", i, err)
		}
		told := <-what
		if ended.State != fleet.RolloutCompleted {
			stuck++
			t.Errorf("kill %d (%s): rollout is %s: %s", i, told, ended.State, ended.Why)
		}
		s.Expect(r)
		if err = s.Compare(ctx); err != nil {
			wrong++
			t.Errorf("kill %d (%s): %v", i, told, err)
		}
		t.Logf("kill %d: %s: %s", i, told, ended.State)
	}
	sum, err := json.Marshal(map[string]any{"kills": kills, "stuck": stuck, "wrong": wrong, "seed": seed})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", sum)
}

// strike kills something at a random moment of the next rollout, and sends what it
// was.
func strike(t *testing.T, s *demo.Scene, random *rand.Rand) <-chan string {
	delay := time.Duration(random.IntN(5000)) * time.Millisecond
	victim := random.IntN(len(s.Cast) + 1)
	told := make(chan string, 1)
	go func() {
		<-time.After(delay) // a random moment; it waits for nothing
		ctx := context.WithoutCancel(t.Context())
		if victim == len(s.Cast) {
			if err := s.RestartControlPlane(ctx); err != nil {
				t.Errorf("restart control plane: %v", err)
			}
			told <- fmt.Sprintf("control plane after %s", delay)
			return
		}
		id := s.Cast[victim].ID
		// systemd starts the agent again, as on any machine.
		if _, err := s.Host(id).Exec(ctx, proc.Cmd{Path: "systemctl", Args: []string{"kill", "--kill-who=main", "-s", "KILL", "nixfleet-agent"}}); err != nil {
			told <- fmt.Sprintf("agent of %s after %s: not running just then", id, delay)
			return
		}
		told <- fmt.Sprintf("agent of %s after %s", id, delay)
	}()
	return told
}
