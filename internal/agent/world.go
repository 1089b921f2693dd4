// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
)

// controlPlane is what the agent asks of a control plane.
type controlPlane interface {
	CheckIn(context.Context, api.CheckIn) (api.Orders, error)
	Reports(context.Context, []fleet.Report) (api.ReportsReply, error)
	Release(context.Context, fleet.Digest) ([]byte, error)
	Document(context.Context, fleet.Digest) ([]byte, error)
	Root(ctx context.Context, version uint64) ([]byte, error)
}

// world is this machine, and what the agent reaches from it.
type world struct {
	cfg      config.Agent
	cfgFile  string
	cfgBytes []byte // of the configuration that this process runs with
	version  string
	cp       controlPlane
	sup      host.Supervisor
	orders   *orders
	outbox   *disk.Outbox
	history  disk.History
	watch    disk.WatchFile
	checks   atomic.Pointer[[]fleet.HealthCheckResult]
	engine   *engine
	snapshot *snapshot
	contact  *contact
	log      *slog.Logger

	// Of an idle agent, forgotten when it ends.
	notBefore    map[string]time.Time // orders that could not begin, and when to look at them again
	delay        map[string]time.Duration
	prefetched   fleet.Digest
	notBeforeDoc map[fleet.Digest]time.Time
	lastRunning  fleet.StorePath
	warnedLife   int // percent of the timestamp's life that was warned of
}

var _ effects = (*world)(nil)

func (w *world) switchDir() string { return filepath.Join(w.cfg.StateDir, "switch") }

// Generations reads what the machine runs, booted and would boot.
func (w *world) Generations() fleet.Generations { return nix.Generations() }

// Now reads the clocks.
func (w *world) Now() states.Moment {
	m, err := host.Now()
	if err != nil {
		w.log.Error("the clock cannot be read", "error", err)
		return states.Moment{WallMs: time.Now().UnixMilli()}
	}
	return m
}

// Wake tells when there are other orders.
func (w *world) Wake() <-chan struct{} { return w.orders.wake }

// Interrupts looks at the orders.
func (w *world) Interrupts(j states.Journal) (states.Input, bool) {
	v, any := w.orders.get()
	if !any {
		return nil, false
	}
	return interrupts(v, j)
}

// Fired tells whether the watchdog has gone back, and waits while it does so.
func (w *world) Fired(ctx context.Context) (string, bool) {
	for begin := time.Now(); ; {
		o, armed, err := w.watch.Read()
		if err != nil {
			w.log.Error("the watchdog's orders cannot be read", "error", err)
		}
		if !armed || !o.Fired {
			return "", false
		}
		if o.Done || time.Since(begin) > 15*time.Minute {
			return o.Message, true
		}
		if !pause(ctx, 200*time.Millisecond) {
			return "", false
		}
	}
}

// Perform does what the step stands for.
func (w *world) Perform(ctx context.Context, j states.Journal) states.Input {
	var in states.Input
	switch j.Step {
	case states.Judge:
		in = w.judge(ctx, j)
	case states.Fetch:
		in = w.fetch(ctx, j)
	case states.Prepare:
		in = w.prepare(ctx, j)
	case states.Arm:
		in = done(w.arm(j), fleet.ReasonDiskFull)
	case states.Profile:
		in = w.profile(ctx, j.Work.Target.Path)
	case states.Switch:
		in = w.runSwitch(ctx, j, j.Work.Target.Path)
	case states.AwaitReboot:
		in = w.reboot(ctx, w.inWindow)
	case states.HandOver:
		in = w.handOver(ctx, j)
	case states.Confirm:
		in = w.confirm(ctx, j)
	case states.Disarm:
		in = done(w.watch.Remove(), fleet.ReasonDiskFull)
	case states.Verify:
		in = w.verify(ctx, j)
	case states.RollbackProfile:
		w.rearm(j)
		in = w.profile(ctx, j.Work.Previous.Path)
	case states.RollbackSwitch:
		in = w.runSwitch(ctx, j, j.Work.Previous.Path)
	case states.RollbackReboot:
		in = w.reboot(ctx, func(time.Time) bool { return true })
	case states.RollbackHandOver:
		in = w.replace(ctx, 30*time.Second)
	case states.Report:
		in = w.conclude(j)
	case states.Idle:
	}
	if ctx.Err() != nil {
		return nil
	}
	return in
}

func done(err error, reason fleet.Reason) states.Input {
	if err != nil {
		return states.Failed{Reason: reason, Message: err.Error()}
	}
	return states.Done{}
}

// bootGrace is how long a machine may take from its boot to its agent.
const bootGrace = 60.0

// arm orders the watchdog to go back unless it is told otherwise. For a system
// that is staged only a later boot counts.
func (w *world) arm(j states.Journal) error {
	work := j.Work
	if err := nix.SetRoot(nix.RootsDir, "previous", work.Previous.Path); err != nil {
		return err
	}
	o := disk.Watch{
		Previous: work.Previous.Path, Unit: fmt.Sprintf("nixfleet-switch-%d-watchdog", work.Began.WallMs),
		BootID: work.BootID, Deadline: work.WatchUntil, AfterBoot: bootGrace + work.Confirm + states.WatchMargin(work.Confirm),
	}
	if work.Action == states.ActionBoot {
		o.Deadline = 0
	}
	return w.watch.Write(o)
}

// rearm gives the watchdog as much time again as going back takes.
func (w *world) rearm(j states.Journal) {
	o, armed, err := w.watch.Read()
	if err != nil || !armed || o.Fired {
		return
	}
	now := w.Now()
	o.BootID, o.Deadline = now.BootID, now.Boot+2*j.Work.SwitchLimit()+states.WatchMargin(60)
	if err := w.watch.Write(o); err != nil {
		w.log.Error("the watchdog cannot be given more time", "error", err)
	}
}

func (w *world) profile(ctx context.Context, system fleet.StorePath) states.Input {
	if _, err := os.Stat(string(system)); errors.Is(err, fs.ErrNotExist) {
		return states.Failed{Reason: fleet.ReasonPathVanished, Message: err.Error()}
	}
	return done(nix.SetProfile(ctx, system), fleet.ReasonProfileFailed)
}

func (w *world) runSwitch(ctx context.Context, j states.Journal, system fleet.StorePath) states.Input {
	work := j.Work
	s := host.Switch{
		Name: work.Unit, Dir: w.switchDir(), Program: string(system) + "/bin/switch-to-configuration", Args: []string{string(work.Action)},
		Limit: time.Duration((work.SwitchUntil - w.Now().Boot) * float64(time.Second)),
	}
	if host.System().Darwin() {
		s.Program, s.Args = string(system)+"/activate", nil
	}
	// Another hand's switch is waited for (A13).
	for !s.Started() && host.LockHeld() && w.Now().Boot < work.SwitchUntil {
		if !pause(ctx, 250*time.Millisecond) {
			return nil
		}
	}
	res, err := w.sup.Run(ctx, s)
	if err != nil {
		return states.Failed{Reason: fleet.ReasonActivation, Message: err.Error()}
	}
	failed, err := w.sup.FailedUnits(ctx)
	if err != nil {
		w.log.Warn("failed units cannot be listed", "error", err)
	}
	return states.Switched{Generations: w.Generations(), Code: res.Code, TimedOut: res.TimedOut, FailedUnits: failed, Message: res.Output}
}

// inWindow reports whether the machine's policy lets it reboot at t.
func (w *world) inWindow(t time.Time) bool {
	if w.cfg.Reboot.Policy != config.RebootWindow {
		return true
	}
	open, err := windowOpen(w.cfg.Reboot.Window, t)
	if err != nil {
		w.log.Error("the reboot window makes no sense", "window", w.cfg.Reboot.Window, "error", err)
	}
	return open
}

// askGrace is for a service manager that was asked to end this process: it ends
// the program that asked as well, which may be seen to fail before the agent is
// told itself.
const askGrace = 2 * time.Second

// reboot waits until it may, lets the reports go out, and reboots.
func (w *world) reboot(ctx context.Context, may func(time.Time) bool) states.Input {
	for !may(time.Now()) {
		if !pause(ctx, 10*time.Second) {
			return nil
		}
	}
	for range 50 {
		if w.outbox.Len() == 0 || !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	if err := w.sup.Reboot(ctx); err != nil && pause(ctx, askGrace) {
		return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: err.Error()}
	}
	w.log.Info("rebooting")
	if !pause(ctx, 10*time.Minute) {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonRebootNeeded, Message: "the machine did not reboot within 10 minutes"}
}

// handOver gives the watchdog its final deadline, and the new system's agent
// the word.
func (w *world) handOver(ctx context.Context, j states.Journal) states.Input {
	if o, armed, err := w.watch.Read(); err == nil && armed && !o.Fired {
		o.BootID = j.Work.BootID
		o.Deadline = j.Work.ConfirmUntil + states.WatchMargin(j.Work.Confirm)
		if err := w.watch.Write(o); err != nil {
			w.log.Error("the watchdog's deadline cannot be set", "error", err)
		}
	}
	left := time.Duration((j.Work.ConfirmUntil - w.Now().Boot) * float64(time.Second))
	return w.replace(ctx, left)
}

// replace lets the service manager start the program and the configuration
// that the running system declares, unless they are this process's own.
func (w *world) replace(ctx context.Context, limit time.Duration) states.Input {
	next, mine, err := w.sup.Successor(ctx)
	if err != nil {
		w.log.Warn("the agent's service cannot be read", "error", err)
	}
	text, err := os.ReadFile(w.cfgFile)
	changed := err == nil && string(text) != string(w.cfgBytes)
	if !mine || !next && !changed {
		return states.Done{}
	}
	w.log.Info("handing over to the agent of the system that runs")
	if err := w.sup.RestartAgent(ctx); err != nil && pause(ctx, askGrace) {
		return states.Failed{Reason: fleet.ReasonWatchdog, Message: err.Error()}
	}
	if !pause(ctx, max(limit, time.Second)) {
		return nil
	}
	return states.Failed{Reason: fleet.ReasonWatchdog, Message: "the running system's agent did not take over in time"}
}

// conclude queues the outcome and tidies up. It is the last step: all of it
// can be done again.
func (w *world) conclude(j states.Journal) states.Input {
	work := j.Work
	var errs []error
	r := w.engine.about(j, fleet.ReportOutcome)
	r.Outcome, r.Reason, r.Message, r.Checks, r.Failed, r.Confirmed = work.Outcome, work.Reason, work.Message, work.Checks, work.Failed, work.Confirmed
	r.ID = reportID(w.cfg.MachineID, j, "outcome")
	r.Clean()
	errs = append(errs, w.outbox.Put(r), w.history.Add(r), w.watch.Remove(), host.Sweep(w.switchDir()))
	switch {
	case work.Outcome.Success():
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Target.Path), w.writeRelease(work))
		if work.Previous.Path != "" && work.Previous.Path != work.Target.Path {
			errs = append(errs, nix.SetRoot(nix.RootsDir, "last-good", work.Previous.Path))
		}
	case work.Outcome.OnPrevious() && work.Previous.Path != "":
		errs = append(errs, nix.SetRoot(nix.RootsDir, "current", work.Previous.Path))
		if work.Order.Kind == states.Revert {
			errs = append(errs, w.restoreRelease())
		}
	}
	errs = append(errs, nix.RemoveRoot(nix.RootsDir, "target"), nix.RemoveRoot(nix.RootsDir, "previous"))
	if err := errors.Join(errs...); err != nil {
		w.log.Error("the attempt's end is not tidy", "error", err)
	}
	return states.Done{}
}

// releaseFile is what programs on the machine may read about what runs.
type releaseFile struct {
	Machine   fleet.MachineID `json:"machine"`
	Digest    fleet.Digest    `json:"digest"`
	Name      string          `json:"name,omitempty"`
	Line      fleet.Line      `json:"line"`
	Sequence  fleet.Sequence  `json:"sequence"`
	StorePath fleet.StorePath `json:"storePath"`
	Source    fleet.Source    `json:"source"`
}

// writeRelease writes what is known of the release that went live, and keeps
// what was known of the one before.
func (w *world) writeRelease(work *states.Work) error {
	b, err := json.MarshalIndent(releaseFile{
		w.cfg.MachineID, work.Target.Digest, work.Target.Name, work.Target.Line, work.Target.Sequence, work.Target.Path, work.Accepted.Header.Source,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode release: %w", err)
	}
	now := filepath.Join(w.cfg.StateDir, "release.json")
	if old, err := os.ReadFile(now); err == nil && string(old) != string(b) {
		if err := disk.WriteFile(filepath.Join(w.cfg.StateDir, "release-last-good.json"), old, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(disk.WriteFile(now, b, 0o644), disk.WriteFile(filepath.Join(w.cfg.RunDir, "release.json"), b, 0o644))
}

// restoreRelease brings back what was known of the release before.
func (w *world) restoreRelease() error {
	b, err := os.ReadFile(filepath.Join(w.cfg.StateDir, "release-last-good.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(disk.Remove(filepath.Join(w.cfg.StateDir, "release.json")), disk.Remove(filepath.Join(w.cfg.RunDir, "release.json")))
	}
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	return errors.Join(disk.WriteFile(filepath.Join(w.cfg.StateDir, "release.json"), b, 0o644), disk.WriteFile(filepath.Join(w.cfg.RunDir, "release.json"), b, 0o644))
}

// held names a local hold that is in force, or returns "". A hold is a file;
// what it says is the reason; after a day it counts no longer, so that a
// forgotten one does not keep a machine back for ever.
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
		b, _ := os.ReadFile(filepath.Join(dir, e.Name())) // without a text it holds all the same
		text, _, _ := strings.Cut(strings.TrimSpace(fleet.CleanText(string(b), 200)), "\n")
		return strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", fleet.ReasonHeldLocally, e.Name(), text), ": ")
	}
	return ""
}

// pause waits and reports whether ctx lasted.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}
