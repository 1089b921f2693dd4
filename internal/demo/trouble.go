// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// troubled rolls out a good release while the rollout is paused and resumed, an
// agent and the control plane are killed, and a machine is cut off from the
// network while it fetches.
func (s *story) troubled(ctx context.Context) (Made, error) {
	two, err := s.release(ctx, "release 2", s.Systems("2", s.everywhere(func(h *Host) { h.PayloadMiB = 4 })))
	if err != nil {
		return two, err
	}
	const name = "release 2, while other things go wrong"
	s.say("%s", name)
	var d api.RolloutDetail
	words := append([]string{"rollout", "create", "--release", string(two.Digest), "--name", name, "--batches", "1,50%,100%"}, timing...)
	if _, err = s.Nixfleet(ctx, &d, words...); err != nil {
		return two, err
	}
	if d.Plan == nil || len(d.Plan.Batches) != 3 {
		return two, fmt.Errorf("rollout %q has no plan of three batches", name)
	}
	t := &trouble{story: s, killed: d.Plan.Batches[1][0], unplugged: d.Plan.Batches[2][0], batch: 3}
	if err = t.slow(ctx); err != nil {
		return two, err
	}
	if err = s.pauseAndResume(ctx, d.ID); err != nil {
		return two, err
	}
	// Machines of a batch fetch their systems while the batch before is at work.
	t.once(2, func() error { return t.unplug(ctx) })
	_, err = s.followed(ctx, name, fleet.RolloutCompleted, Command{
		Args: []string{"rollout", "watch", string(d.ID), "--timeout", "90s"},
		Line: func(line string) { t.strike(ctx, line) },
	})
	t.wait.Wait()
	if err = errors.Join(append(t.errs, err)...); err != nil {
		return two, err
	}
	if t.strikes != 3 {
		return two, fmt.Errorf("only %d of the three faults happened", t.strikes)
	}
	s.Expect(two)
	return two, s.compare(ctx)
}

// pauseAndResume pauses a rollout in its first batch and resumes it when the batch
// is done.
func (s *story) pauseAndResume(ctx context.Context, id fleet.RolloutID) error {
	if _, err := s.Nixfleet(ctx, nil, "rollout", "pause", string(id), "--reason", "lunch"); err != nil {
		return err
	}
	err := s.Until(ctx, 30*time.Second, "the first batch is done", func(ctx context.Context) error {
		var e ended
		if _, err := s.Nixfleet(ctx, &e, "rollout", "show", string(id)); err != nil {
			return err
		}
		if e.State != fleet.RolloutPaused || e.Batches[0].Counts.InFlight > 0 || e.Batches[1].Counts.InFlight > 0 {
			return fmt.Errorf("it is %s, with %d machines at work", e.State, e.Batches[0].Counts.InFlight)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.more("paused: machines at work have finished, no other gets an offer; then resumed")
	_, err = s.Nixfleet(ctx, nil, "rollout", "resume", string(id))
	return err
}

// trouble is three faults, each at the moment of the rollout where it matters.
type trouble struct {
	*story
	killed    fleet.MachineID // whose agent is killed, in the second batch
	unplugged fleet.MachineID // whose cable is pulled, in the third batch
	batch     int             // in which the control plane is killed

	wait    sync.WaitGroup
	mu      sync.Mutex
	done    [3]bool
	strikes int
	errs    []error
}

// slow makes the machine whose cable will be pulled fetch slowly.
func (t *trouble) slow(ctx context.Context) error {
	return t.Host(t.unplugged).Cable(ctx, "6mbit")
}

// strike starts the fault that belongs to a line of progress.
func (t *trouble) strike(ctx context.Context, line string) {
	words := strings.Fields(line)
	has := func(w string) bool { return slices.Contains(words, w) }
	switch {
	case has(string(t.killed)) && has(string(fleet.AssignApplying)):
		t.once(0, func() error { return t.killAgent(ctx) })
	// What is offered may be fetched before anyone looks.
	case has(fmt.Sprint(t.batch)) && (has(string(fleet.AssignOffered)) || has(string(fleet.AssignFetching))):
		t.once(1, func() error {
			t.more("  the control plane is killed with -9, and starts again")
			return t.RestartControlPlane(ctx)
		})
	}
}

func (t *trouble) once(i int, f func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done[i] {
		return
	}
	t.done[i] = true
	t.wait.Go(func() {
		err := f()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.strikes++
		t.errs = append(t.errs, err)
	})
}

func (t *trouble) killAgent(ctx context.Context) error {
	t.more("  the agent of %s is killed with -9 in the middle of the switch", t.killed)
	_, err := t.Host(t.killed).Exec(ctx, proc.Cmd{Path: "systemctl", Args: []string{"kill", "--kill-who=main", "-s", "KILL", "nixfleet-agent"}})
	return err
}

// unplug pulls a machine's cable for two seconds while it fetches.
func (t *trouble) unplug(ctx context.Context) error {
	h := t.Host(t.unplugged)
	copying := func(ctx context.Context) error {
		_, err := h.Exec(ctx, proc.Cmd{Path: "pgrep", Args: []string{"-f", "nix-store --realise"}})
		return err
	}
	if err := t.Until(ctx, 30*time.Second, fmt.Sprintf("%s fetches", t.unplugged), copying); err != nil {
		return err
	}
	t.more("  the cable of %s is pulled for two seconds, while it fetches", t.unplugged)
	if err := h.Cable(ctx, testbed.CableOut); err != nil {
		return err
	}
	out := time.NewTimer(2 * time.Second)
	defer out.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-out.C:
	}
	return h.Cable(ctx, testbed.CableIn)
}

// specials rolls out two systems that would cut their machine off from the fleet,
// and two that are only unusual, each on one machine.
func (s *story) specials(ctx context.Context) error {
	r, err := s.release(ctx, "release 3", s.Systems("3", map[fleet.MachineID]func(*Host){
		"web-02": Faulty("network"),
		"web-03": func(h *Host) { h.NewAgent = true },
		"db-01":  Faulty("agent-crash"),
		"mon-01": func(h *Host) { h.Kernel = "2" },
	}))
	if err != nil {
		return err
	}
	boot, err := s.Host("mon-01").BootID(ctx)
	if err != nil {
		return err
	}
	e, err := s.runRollout(ctx, "release 3: cuts the network of web-02, replaces the agent of web-03, breaks that of db-01, has a new kernel for mon-01",
		r, fleet.RolloutCompleted, "--strategy", "all-at-once", "--on", "web-02,web-03,db-01,mon-01", "--max-failures", "2")
	if err != nil {
		return err
	}
	want := map[fleet.MachineID]fleet.Outcome{
		"web-02": fleet.OutcomeRolledBack, "db-01": fleet.OutcomeRolledBack, "web-03": fleet.OutcomeLive, "mon-01": fleet.OutcomeLive,
	}
	after := map[fleet.MachineID]fleet.StorePath{}
	for _, a := range e.Assignments {
		if a.Outcome != want[a.Machine] {
			return fmt.Errorf("%s: %s (%s: %s), want %s", a.Machine, a.Outcome, a.Reason, a.Message, want[a.Machine])
		}
		if a.Outcome.Success() {
			after[a.Machine] = r.Machines[a.Machine]
		} else {
			s.more("%s rolled back by itself: %s", a.Machine, oneLine(a.Message))
		}
	}
	s.Expect(Made{Machines: after})
	now, err := s.Host("mon-01").BootID(ctx)
	if err != nil {
		return err
	}
	if now == boot {
		return errors.New("mon-01 runs a new kernel without a reboot")
	}
	s.more("mon-01 rebooted into its new kernel, as its boot id shows; web-03 was verified by its new agent")
	return s.compare(ctx)
}

// audit verifies the audit trail, and shows that an altered entry is found: one is
// changed in a copy of the database.
func (s *story) audit(ctx context.Context) error {
	var v struct {
		OK   bool  `json:"ok"`
		Size int64 `json:"size"`
	}
	if _, err := s.Nixfleet(ctx, &v, "audit", "verify"); err != nil {
		return err
	}
	s.res.AuditVerified = v.OK
	s.say("the audit trail of %d entries is complete and unaltered", v.Size)
	return s.forge(ctx)
}

func (s *story) forge(ctx context.Context) error {
	dir := filepath.Join(s.TB.Dir(), "forged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	db, file, config := filepath.Join(dir, "nixfleet.db"), filepath.Join(dir, "backup"), filepath.Join(dir, "control-plane.toml")
	text := fmt.Appendf(nil, "stateDir = %q\n[database]\nurl = %q\n", strings.TrimSuffix(s.cpFile(""), "/"), "sqlite://"+db)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	program := filepath.Join(s.Bin, "nixfleet-control-plane")
	for _, args := range [][]string{
		{"backup", "--without-keys", "--config", filepath.Join(s.TB.Dir(), "control-plane.toml"), file},
		{"restore", "--config", config, file},
	} {
		if _, err := proc.Run(ctx, proc.Cmd{Path: program, Args: args}); err != nil {
			return fmt.Errorf("copy database: %w", err)
		}
	}
	b, err := os.ReadFile(db)
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	// The reason of the cancelled rollout, changed to a harmless one.
	forged := bytes.ReplaceAll(b, []byte("the service dies"), []byte("the service runs"))
	if bytes.Equal(forged, b) {
		return errors.New("the copy of the database does not hold the reason of the cancelled rollout")
	}
	if err = os.WriteFile(db, forged, 0o600); err != nil {
		return fmt.Errorf("forge database: %w", err)
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: program, Args: []string{"doctor", "--config", config}})
	out := string(res.Stdout) + string(res.Stderr)
	if err == nil || !strings.Contains(out, "audit entry") {
		return fmt.Errorf("an altered entry of the audit trail was not found: %s", strings.TrimSpace(out))
	}
	for l := range strings.Lines(out) {
		if strings.Contains(l, "audit entry") {
			s.more("in a copy of the database one entry was altered; found: %s", strings.TrimSpace(l))
			break
		}
	}
	return nil
}
