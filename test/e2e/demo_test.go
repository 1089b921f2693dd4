// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

var testbedName = regexp.MustCompile(`nixfleet-testbed-[0-9]+`)

// leftovers are folders, processes and mounts of testbeds that no program holds
// any more. Testbeds of other tests, which run at the same time, do not count.
func leftovers(t *testing.T) []string {
	t.Helper()
	var out []string
	note := func(text string) {
		for _, name := range testbedName.FindAllString(text, -1) {
			if !held(name) {
				out = append(out, strings.ReplaceAll(text, "\x00", " "))
				return
			}
		}
	}
	for _, pattern := range []string{"/var/tmp/nixfleet-testbed-*", "/nix/var/nix/gcroots/nixfleet-testbed-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			note(f)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, gone := os.ReadFile(p); gone == nil {
			note(string(b))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		note(l)
	}
	return out
}

// flakes are the copies of testbeds' flakes in the machine's store.
func flakes(t *testing.T) map[string]bool {
	t.Helper()
	found, err := filepath.Glob("/nix/store/*-source/flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil && testbedName.Match(b) {
			out[string(testbedName.Find(b))+" as "+filepath.Dir(f)] = true
		}
	}
	return out
}

// held reports whether a program holds the lock of a testbed.
func held(name string) bool {
	f, err := os.Open(filepath.Join("/var/tmp", name, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// nothingLeft fails the test if there are leftovers. It waits a little, since other
// tests may be making or removing a testbed.
func nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left := leftovers(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind: %q", left)
			return
		}
		<-tick.C
	}
}

// The demo's own JSON shows that a good release reaches all machines, a bad one is
// rolled back by the canary alone (H06), a tampered one is refused (E01), and
// nothing is left on the machine.
func TestDemo_RunsToTheEndAndLeavesNothing(t *testing.T) {
	testbed.Require(t)
	before := flakes(t)
	var told []string
	kept := make(chan []string, 1)
	p, err := proc.Start(t.Context(), proc.Cmd{
		Path: filepath.Join(bin, "nixfleet"), Args: []string{"demo", "--json", "--keep"}, Timeout: 4 * time.Minute,
		OnLine: func(_ proc.Stream, line string) {
			told = append(told, strings.TrimSpace(line))
			if strings.Contains(line, "tail -f ") { // the last of what it says of looking around
				kept <- slices.Clone(told)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case lines := <-kept:
		lookAround(t, lines)
		err = p.Signal(syscall.SIGINT)
	case <-p.Done():
	}
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Wait()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, res.Stderr, res.Stdout)
	}
	var r demo.Result
	if err := json.Unmarshal(res.Stdout, &r); err != nil {
		t.Fatalf("stdout is not one JSON document: %v\n%s", err, res.Stdout)
	}
	t.Logf("demo took %d ms", r.DurationMs)
	if !r.OK || !r.AuditVerified {
		t.Errorf("ok %t, audit verified %t", r.OK, r.AuditVerified)
	}
	for _, m := range r.Machines {
		if m.Running == "" || m.Running != m.Expected {
			t.Errorf("%s runs %q, expected %q", m.ID, m.Running, m.Expected)
		}
	}
	rolledBack, live := 0, 0
	for _, ro := range r.Rollouts {
		rolledBack += ro.Outcomes[fleet.OutcomeRolledBack]
		live += ro.Outcomes[fleet.OutcomeLive]
	}
	if rolledBack == 0 || live < 2*len(r.Machines) {
		t.Errorf("outcomes: %d rolled back and %d live, want some and at least %d", rolledBack, live, 2*len(r.Machines))
	}
	refused := map[fleet.MachineID]fleet.Reason{}
	for _, f := range r.Refusals {
		refused[f.Machine] = f.Reason
	}
	for _, m := range r.Machines {
		if refused[m.ID] != fleet.ReasonProofMismatch {
			t.Errorf("%s refused the tampered release for %q, want %q", m.ID, refused[m.ID], fleet.ReasonProofMismatch)
		}
	}
	nothingLeft(t)
	for f := range flakes(t) {
		if !before[f] && !held(testbedName.FindString(f)) {
			t.Errorf("left in the store: %s", f)
		}
	}
}

// lookAround runs what the demo prints, in a shell without any settings of Nix or
// of the fleet: the printed command works, and so does a build.
func lookAround(t *testing.T, told []string) {
	t.Helper()
	i := slices.IndexFunc(told, func(l string) bool { return strings.HasPrefix(l, "cd ") })
	if i < 0 || i+1 >= len(told) {
		t.Errorf("it does not print how to look around: %q", told)
		return
	}
	const build = `nix-store --delete "$(nix-build --no-out-link -E 'derivation { name = "nixfleet-test-look"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }')"`
	script := told[i] + "\n" + told[i+1] + " && " + build
	res, err := proc.Run(t.Context(), proc.Cmd{Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Timeout: time.Minute})
	if err != nil || !strings.Contains(string(res.Stdout), "web-01") {
		t.Errorf("looking around: %v\n%s\n%s", err, res.Stdout, res.Stderr)
	}
}

// Ctrl-C while everything runs stops and removes everything.
func TestDemo_LeavesNothingAfterCtrlC(t *testing.T) {
	testbed.Require(t)
	reached := make(chan struct{})
	p, err := proc.Start(context.Background(), proc.Cmd{
		Path: filepath.Join(bin, "nixfleet"), Args: []string{"demo"}, Timeout: 3 * time.Minute,
		OnLine: func(_ proc.Stream, line string) {
			if strings.Contains(line, "release 1: ") {
				close(reached)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-p.Done():
	}
	begin := time.Now()
	if err = p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	res, err := p.Wait()
	if code := proc.ExitCode(err); code != 4 {
		t.Errorf("exit code %d, want 4\n%s", code, res.Stderr)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("it took %s to end", d)
	}
	nothingLeft(t)
}
