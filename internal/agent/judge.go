// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// judge gets the bundle of the release that the order names and lets the trust
// rules decide.
func (w *world) judge(ctx context.Context, j states.Journal) states.Input {
	a, in := w.accept(ctx, j, j.Work.Order.Digest)
	if in != nil {
		return in
	}
	return states.Accepted{Release: a}
}

// accept returns a release that may be fetched, or the input that says why not.
func (w *world) accept(ctx context.Context, j states.Journal, d fleet.Digest) (trust.Accepted, states.Input) {
	raw, err := w.cp.Release(ctx, d)
	if err != nil {
		return trust.Accepted{}, states.Busy{Why: "get release " + d.Short() + ": " + err.Error()}
	}
	bundle, err := trust.ParseBundle(raw)
	if err != nil {
		return trust.Accepted{}, states.Refused{Reason: trust.ReasonOf(err), Message: err.Error()}
	}
	a, r := trust.Accept(w.trustState(j), w.Now().WallMs, bundle)
	if r != nil {
		return trust.Accepted{}, states.Refused{Reason: r.Reason, Message: r.Detail}
	}
	if a.Digest != d {
		return trust.Accepted{}, states.Refused{Reason: fleet.ReasonMalformed, Message: fmt.Sprintf("release %s was ordered and %s was delivered", d.Short(), a.Digest.Short())}
	}
	return a, nil
}

// trustState adds to what the journal knows what the running system says.
func (w *world) trustState(j states.Journal) trust.State {
	s := j.Trust
	s.Machine, s.System, s.Line, s.Unsigned = w.cfg.MachineID, host.System(), w.cfg.Line, w.cfg.Trust.Unsigned
	s.Running = w.Generations().Running
	return s
}

// Limits of a fetch.
const (
	stallLimit = 2 * time.Minute
	roomMargin = 64 << 20 // bytes that must stay free
	maxTries   = 20       // of a fetch whose order has no deadline
	maxBadTry  = 2        // of a fetch that brought what was not signed
)

func (w *world) fetch(ctx context.Context, j states.Journal) states.Input {
	work := j.Work
	if n := work.Tries; n > 0 && !pause(ctx, jitter(min(time.Minute, time.Second<<min(n, 6)))) {
		return nil
	}
	in := w.bring(ctx, work.Accepted, "target", time.UnixMilli(work.Began.WallMs))
	if f, ok := in.(states.Failed); ok {
		switch f.Reason {
		case fleet.ReasonBadCacheSig, fleet.ReasonNarHashMismatch:
			f.Again = work.Tries < maxBadTry
		default:
			f.Again = work.Tries < maxTries
		}
		w.log.Warn("the fetch failed", "reason", f.Reason, "again", f.Again, "error", f.Message)
		return f
	}
	return in
}

// bring copies a release's system into the store and compares it with what was
// signed. since is when the first try began.
func (w *world) bring(ctx context.Context, a trust.Accepted, root string, since time.Time) states.Input {
	e := a.Entry
	if err := nix.SetRoot(nix.RootsDir, root, e.StorePath); err != nil {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: err.Error()}
	}
	f := nix.Fetch{Path: e.StorePath, Caches: a.Header.Caches, Stall: stallLimit}
	if !nix.Valid(ctx, e.StorePath) {
		if in := room(ctx, f, e.ClosureSize); in != nil {
			return in
		}
		if err := f.Run(ctx); err != nil {
			var fe *nix.FetchError
			if errors.As(err, &fe) {
				return states.Failed{Reason: fe.Reason, Message: fe.Text}
			}
			return states.Failed{Reason: fleet.ReasonFetchFailed, Message: err.Error()}
		}
	}
	reason, err := f.CheckFetched(ctx, e, since)
	switch {
	case reason != "":
		return states.Refused{Reason: reason, Message: err.Error()}
	case err != nil:
		return states.Failed{Reason: fleet.ReasonFetchFailed, Message: err.Error()}
	}
	if in := w.inspect(e); in != nil {
		return in
	}
	return states.Done{}
}

// room looks before the copy whether the store has room for it. Most of a
// closure is there already as a rule, so Nix is asked when the whole would not
// fit.
func room(ctx context.Context, f nix.Fetch, size int64) states.Input {
	free, err := host.Free(fleet.StoreDir)
	if err != nil || free >= size+roomMargin {
		return nil
	}
	if need := f.Missing(ctx); need >= 0 && free < need+roomMargin {
		return states.Failed{Reason: fleet.ReasonDiskFull, Message: fmt.Sprintf("%d MiB are free in the store, and the system needs %d MiB", free>>20, need>>20)}
	}
	return nil
}

// inspect refuses a system that could not come back by itself.
func (w *world) inspect(e fleet.Entry) states.Input {
	if e.Detach {
		return nil
	}
	watchdog := []string{"etc/systemd/system/" + host.WatchdogUnit, "etc/systemd/system/" + host.WatchdogTimer}
	if e.System.Darwin() {
		watchdog = []string{"Library/LaunchDaemons/" + host.WatchdogLabel + ".plist"}
	}
	for _, file := range watchdog {
		if _, err := os.Stat(filepath.Join(string(e.StorePath), file)); err != nil {
			return states.Refused{Reason: fleet.ReasonNoWatchdog, Message: "the system does not declare " + filepath.Base(file) + ", and its entry does not say detach"}
		}
	}
	c, err := ReadConfig(filepath.Join(string(e.StorePath), config.AgentFile))
	if err != nil {
		return states.Refused{Reason: fleet.ReasonMalformed, Message: "the system's own agent could not start: " + err.Error()}
	}
	if c.MachineID != w.cfg.MachineID {
		return states.Refused{Reason: fleet.ReasonWrongMachine, Message: "the system's agent is that of " + string(c.MachineID)}
	}
	return nil
}

// prepare notes what runs, what has failed and what answers, before anything
// changes.
func (w *world) prepare(ctx context.Context, j states.Journal) states.Input {
	target := string(j.Work.Target.Path)
	switch why := held(filepath.Join(w.cfg.RunDir, "inhibit.d"), time.Now()); {
	case why != "":
		return states.Busy{Why: why}
	case host.LockHeld():
		return states.Busy{Why: "another switch is in progress on this machine"}
	case w.cfg.DryRun:
		return states.Busy{Why: "dry run: release " + j.Work.Target.Digest.Short() + " is verified and fetched, and not activated"}
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
	failed, err := w.sup.FailedUnits(ctx)
	if err != nil {
		w.log.Warn("failed units cannot be listed", "error", err)
	}
	return states.Prepared{
		Generations: w.Generations(), FailedUnits: failed, Baseline: w.baseline(ctx, j),
		Reboot: reboot, MayReboot: w.cfg.Reboot.Policy != config.RebootNever, Confirm: w.cfg.Confirm.DeadlineSeconds,
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
	if booted.Kernel == "" && booted.Initrd == "" { // a container, which has no kernel of its own, or nothing was booted by Nix
		booted = running
	}
	booted.Inhibitors = running.Inhibitors
	return !booted.Equal(next), nil
}

// bootRoom looks whether the boot partition has room for another kernel: the
// boot loader copies first and cleans up afterwards (NixOS/nixpkgs#23926).
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
func (w *world) baseline(ctx context.Context, j states.Journal) []string {
	names := []string{controlPlaneName}
	for _, c := range j.Work.Accepted.Header.Caches {
		if strings.HasPrefix(c.URL, "http") {
			names = append(names, c.URL)
		}
	}
	names = append(names, w.cfg.Confirm.Beacons...)
	ok := make([]bool, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() { ok[i] = w.reach(ctx, n) == nil })
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
