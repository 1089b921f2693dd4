// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// prepare records what runs, what has failed and what answers, before anything
// changes.
func (m *Machine) prepare(ctx context.Context, j states.Journal) states.Input {
	target := string(j.Work.Target.Path)
	switch why := held(filepath.Join(m.Agent.RunDir, "inhibit.d"), time.Now()); {
	case why != "":
		return states.Held{Why: why}
	case host.LockHeld():
		return states.Held{Why: "another switch is in progress on this machine"}
	case !mayBegin(j, time.Now()):
		return states.Held{Why: "outside the windows of rollout " + string(j.Work.Order.Rollout)}
	case m.Agent.DryRun:
		return states.Held{Why: "dry run: release " + j.Work.Target.Digest.Short() + " is verified and fetched, and not activated"}
	}
	if _, err := os.Stat(target); err != nil {
		return states.Failed{Reason: fleet.ReasonPathVanished, Message: err.Error()}
	}
	reboot, err := needsReboot(target)
	if err != nil {
		return states.Failed{Reason: fleet.ReasonMalformed, Message: err.Error()}
	}
	if reboot {
		if in := bootRoom(target); in != nil {
			return in
		}
	}
	failed, err := m.Supervisor.FailedUnits(ctx)
	if err != nil {
		m.log.Warn("failed units cannot be listed", "error", err)
	}
	return states.Prepared{
		Generations: m.Generations(), FailedUnits: failed, Baseline: m.baseline(ctx, j),
		Reboot: reboot, MayReboot: m.Agent.Reboot.Policy.Allows() && j.Work.Order.Reboot.Allows(), Confirm: m.Agent.Confirm.DeadlineSeconds,
	}
}

// needsReboot compares the target with what was booted, and its switch
// inhibitors with what runs.
func needsReboot(target string) (bool, error) {
	next, err := nix.Fingerprints(target)
	if err != nil {
		return false, err
	}
	booted, err := nix.Fingerprints(nix.BootedSystem)
	if err != nil {
		return false, err
	}
	running, err := nix.Fingerprints(nix.CurrentSystem)
	if err != nil {
		return false, err
	}
	if booted.Kernel == "" && booted.Initrd == "" { // a container without a kernel of its own, or a machine that Nix did not boot
		booted = running
	}
	booted.Inhibitors = running.Inhibitors
	return !booted.Equal(next), nil
}

// bootRoom checks that the boot partition has room for another kernel. The boot
// loader copies first and cleans up afterwards (NixOS/nixpkgs#23926).
func bootRoom(target string) states.Input {
	const margin = 1 << 20
	free, err := host.Free("/boot")
	if err != nil {
		return nil // no boot partition
	}
	need := int64(margin)
	for _, name := range []string{"kernel", "initrd"} {
		if info, err := os.Stat(filepath.Join(target, name)); err == nil {
			need += info.Size()
		}
	}
	if free >= need {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonBootFull, Message: fmt.Sprintf("/boot has %d MiB free, and the new kernel and initrd need %d MiB", free>>20, need>>20)}
}

// baseline lists what answers now: the control plane, the release's caches and
// the beacons.
func (m *Machine) baseline(ctx context.Context, j states.Journal) []string {
	names := []string{controlPlaneName}
	for _, c := range j.Work.Accepted.Header.Caches {
		if strings.HasPrefix(c.URL, "http") {
			names = append(names, c.URL)
		}
	}
	names = append(names, m.Agent.Confirm.Beacons...)
	ok := make([]bool, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() { ok[i] = m.reach(ctx, n) == nil })
	}
	wg.Wait()
	out := []string{}
	for i, n := range names {
		if ok[i] {
			out = append(out, n)
		}
	}
	return out
}

// held names a local hold that is in force, or returns "". A hold is a file that
// contains the reason. After a day it no longer counts, so that a forgotten file
// does not hold a machine for ever.
func held(dir string, now time.Time) string {
	const maxAge = 24 * time.Hour
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.IsDir() || now.Sub(info.ModTime()) > maxAge {
			continue
		}
		b, _ := os.ReadFile(filepath.Join(dir, e.Name())) // a hold without a reason counts as well
		text, _, _ := strings.Cut(strings.TrimSpace(fleet.CleanText(string(b), 200)), "\n")
		return strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", fleet.ReasonHeldLocally, e.Name(), text), ": ")
	}
	return ""
}
