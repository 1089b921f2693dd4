// SPDX-License-Identifier: AGPL-3.0-only

// Package plane is what a control plane does, without how it is reached: the
// use cases of operators and agents. It puts the rooms beside it together,
// which hold keys, trust documents, enrolment, history and health, on the loop
// that runs the engine.
//
// It never speaks HTTP and never grants authority to deploy: what it serves is
// signed by others and judged by the agents.
package plane

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/catchup"
	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/gates"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/history"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/controlplane/webhook"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/clock"
)

// Config says what a Plane works with. Store, Log and EpochKey are required.
type Config struct {
	Store   *store.Store
	Log     *slog.Logger
	Now     clock.Clock
	Version string // of the program, for Info
	// EpochKey is at least 32 secret bytes, kept outside the store: with it a
	// store that was restored from an old copy is noticed.
	EpochKey []byte
	// PollSeconds is how often an agent that holds no long poll should ask; 30
	// if 0. WaitSeconds is how long a long poll should last; 55 if 0.
	PollSeconds int
	WaitSeconds int
	// Webhooks is how webhooks' messages are tried again.
	Webhooks webhook.Retry
	// Renewal is how long machines can be away, for Health.
	Renewal   health.Renewal
	Retention loop.Retention
	// Gates are what rollouts can name; nil for none.
	Gates *gates.Set
}

// Plane is a control plane at work. Its methods, and those of its rooms, may
// be called by many goroutines at once.
type Plane struct {
	Keys      *access.Keys
	Documents *documents.Keeper
	Enrolment *enrolment.Registrar
	Epoch     *epoch.Keeper
	History   *history.Log
	Health    *health.Inspector
	CatchUp   *catchup.Keeper
	Webhooks  *webhook.Sender

	loop      *loop.Loop
	conf      Config
	releases  *releaseCache
	kept      kept
	timetable timetable
}

// Open reads the state of the fleet from the store. The plane serves reads and
// check-ins at once; what changes rollouts or machines needs Run.
func Open(ctx context.Context, c Config) (*Plane, error) {
	p, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open plane: %w", err)
	}
	return p, nil
}

func open(ctx context.Context, c Config) (*Plane, error) {
	if c.PollSeconds == 0 {
		c.PollSeconds = 30
	}
	if c.WaitSeconds == 0 {
		c.WaitSeconds = api.DefaultWaitMs / 1000
	}
	l, err := loop.Open(ctx, loop.Config{
		Store: c.Store, Log: c.Log, Clock: c.Now, Version: c.Version, Retention: c.Retention,
		Ask: c.Gates.Ask,
	})
	if err != nil {
		return nil, err
	}
	p := &Plane{loop: l, conf: c, kept: kept{since: map[fleet.MachineID]int{}}, Keys: access.NewKeys(c.Store, c.Now), History: history.New(l)}
	l.OnFlush(p.Keys.Flush)
	l.OnSweep(p.sweepReleases)
	l.OnTime(loop.Timetable{Next: p.timetable.next, Do: p.keepTime})
	if err = p.timetable.load(ctx, c.Store); err != nil {
		return nil, err
	}
	if p.releases, err = newReleaseCache(c.Store); err != nil {
		return nil, err
	}
	if p.Documents, err = documents.Open(ctx, l); err != nil {
		return nil, err
	}
	if p.Enrolment, err = enrolment.Open(ctx, l, p.Documents); err != nil {
		return nil, err
	}
	if p.Epoch, err = epoch.Open(ctx, l, c.EpochKey); err != nil {
		return nil, err
	}
	p.CatchUp = catchup.New(l, p.Documents, p.Epoch)
	p.Health = health.New(l, p.Documents, p.Epoch, p.CatchUp, c.Renewal)
	p.Webhooks, err = webhook.Open(ctx, webhook.Config{Loop: l, Key: c.EpochKey, FleetID: p.fleetID, Retry: c.Webhooks})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Run drives rollouts and sends webhooks' messages until ctx ends or Close is
// called. It must be called once. The store must be open until it returns.
func (p *Plane) Run(ctx context.Context) error {
	sending, stop := context.WithCancel(ctx)
	var sends sync.WaitGroup
	defer sends.Wait()
	defer stop()
	sends.Go(func() { p.Webhooks.Run(sending) })
	return p.loop.Run(ctx)
}

// EndPolls ends long polls and event streams, before Close ends the rest.
func (p *Plane) EndPolls() { p.loop.EndPolls() }

// Close ends long polls, event streams and Run, and waits for Run. What is in
// memory only is written. The store stays open: it is the caller's.
func (p *Plane) Close() error { return p.loop.Close() }

// Info says what is at this end.
func (p *Plane) Info(_ context.Context) (api.Info, error) {
	info := api.Info{Version: p.conf.Version, Mode: string(p.Epoch.Mode()), Time: p.now(), FleetID: p.fleetID()}
	if f := p.loop.Freeze(); f != nil {
		info.Frozen, info.FrozenUntil = true, f.Until
	}
	return info, nil
}

// fleetID is that of the pinned root; "" without one.
func (p *Plane) fleetID() string {
	if root := p.Documents.Current().Root; root != nil {
		return root.FleetID
	}
	return ""
}

// now is the present time in Unix milliseconds.
func (p *Plane) now() int64 { return p.conf.Now.UnixMilli() }
