// SPDX-License-Identifier: MIT

// Package agent is the program on each machine. It asks the control plane for
// orders, judges releases by the trust rules, applies them, and rolls back by
// itself if the new system is not healthy.
//
// It never activates what a release signer has not signed for this machine, and
// never accepts a health check or a policy from the control plane.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/nix"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Options are what the command line says.
type Options struct {
	ConfigFile string
	Version    string
	Log        *slog.Logger
}

// Run is the agent. It returns nil when ctx ends, and an error if it cannot start:
// the configuration or the state is invalid, or another agent runs.
func Run(ctx context.Context, o Options) error {
	cfg, err := config.ReadAgent(o.ConfigFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(o.ConfigFile)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	unlock, err := lockState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err = os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	k, err := load(cfg, nix.RootsDir)
	if err != nil {
		return err
	}
	j := k.journal
	dir := disk.Dir(cfg.StateDir)
	outbox, err := disk.OpenOutbox(dir.Outbox())
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sweep(), k.copy.Sweep()); err != nil {
		return err
	}
	snap := machine.NewSnapshot(cfg.MachineID, j, o.Log)
	k.tell(o.Log, snap.Seen(), outbox.Put)
	l := link.New(link.Config{Agent: cfg, Version: o.Version, Machine: snap, Outbox: outbox, Floor: leaveFloor(cfg, snap.Journal, o.Log), Log: o.Log})
	m := machine.New(machine.Config{
		Snapshot: snap, Agent: cfg, ConfigFile: o.ConfigFile, ConfigText: text, ReadConfig: config.ReadAgent, Plane: l, Outbox: outbox,
		OnlyAPersonSetsTheFloor: k.damaged != nil,
	})
	e := &Engine{Save: k.save(), Report: outbox.Put, Changed: snap.SetJournal, Effects: m, Machine: cfg.MachineID, Log: o.Log}
	if err := dir.Releases(cfg.RunDir).Show(); err != nil {
		o.Log.Warn("the release file cannot be copied", "error", err)
	}
	parts := []func(context.Context){l.Run}
	if listen := cfg.Metrics.Listen; listen != "" {
		parts = append(parts, func(ctx context.Context) {
			if err := (metrics{listen, o.Version, snap, outbox, l.Contact}).serve(ctx); err != nil {
				o.Log.Error("metrics cannot be served", "listen", listen, "error", err)
			}
		})
	}
	o.Log.Info("agent started", "machine", cfg.MachineID, "version", o.Version, "step", j.Step, "running", snap.Generations().Running)
	alongside(ctx, parts, func(ctx context.Context) { e.Run(ctx, j) })
	return nil
}

// alongside runs the engine until ctx ends, and the other parts of the agent with
// it. The engine does not need an identity: an attempt under way is finished also
// on a machine that is not enrolled.
func alongside(ctx context.Context, parts []func(context.Context), engine func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, part := range parts {
		wg.Go(func() { part(ctx) })
	}
	engine(ctx)
}

// withRoot pins the root document of the running system.
func withRoot(cfg config.Agent, j states.Journal) (states.Journal, error) {
	if cfg.Trust.RootFile == "" {
		return j, nil
	}
	text, err := os.ReadFile(cfg.Trust.RootFile)
	if err != nil {
		return j, fleet.Errorf(fleet.NotFound, "read root document: %w", err).WithHint("set trust.rootFile in the configuration to the fleet's root document")
	}
	if j.Trust.Root == nil {
		root, err := trust.PinRoot(text)
		if err != nil {
			return j, err
		}
		j.Trust.Root = &root
		return j, nil
	}
	// A newer system may contain the next version before the control plane offers it.
	if root, err := trust.AdvanceRoot(*j.Trust.Root, time.Now().UnixMilli(), text); err == nil {
		j.Trust.Root = &root
	}
	return j, nil
}

// lockState prevents two agents from using one state directory.
func lockState(dir string) (unlock func(), err error) {
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fleet.Errorf(fleet.Conflict, "another agent uses %s", dir).WithHint("stop it first: systemctl stop nixfleet-agent")
	}
	return func() { f.Close() }, nil
}
