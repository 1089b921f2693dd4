// SPDX-License-Identifier: AGPL-3.0-only

// Package plane is what a control plane does, without how it is reached: the
// use cases of operators and agents, and the one loop that drives rollouts.
//
// What is reported is durable before it is acknowledged; the loop takes it from
// the store, lets the engine (controlplane/rollout) decide, and keeps rows,
// audit and events in one transaction. After a restart it goes on from the
// store. The package never speaks HTTP and never gives anyone a right to
// deploy: what it serves is signed by others and judged by the agents.
package plane

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Config says what a Plane works with. Store, Log and EpochKey are required.
type Config struct {
	Store   *store.Store
	Log     *slog.Logger
	Now     func() time.Time // time.Now if nil
	Version string           // of the program, for Info
	// EpochKey is at least 32 secret bytes, kept outside the store: with it a
	// store that was restored from an old copy is noticed.
	EpochKey []byte
	// PollSeconds is how often an agent that holds no long poll should ask; 30
	// if 0. WaitSeconds is how long a long poll should last; 55 if 0.
	PollSeconds int
	WaitSeconds int
}

// engineActor is who the audit trail names for what nobody ordered.
const engineActor = "control-plane"

// Caller is an operator who was recognized.
type Caller struct {
	Owner string
	KeyID string
	Role  fleet.Role
	Tags  []fleet.Tag // may touch machines with one of these only; none: all
}

func (c Caller) actor() string { return "key:" + c.Owner }

// Plane is a control plane at work. Its methods may be called by many
// goroutines at once.
type Plane struct {
	st   *store.Store
	log  *slog.Logger
	now  func() time.Time
	conf Config

	inventory *inventory
	presence  *presence
	releases  *releaseCache
	epoch     epochKeeper
	started   int64 // Unix milliseconds

	trustMu sync.RWMutex
	trust   trustState
	keyMu   sync.Mutex
	keyUse  map[string]int64 // key id -> last use, not written yet
	serials *revokedSerials
	events  notifier

	// Of the loop's goroutine: rollouts at work, nil to load them anew.
	active map[fleet.RolloutID]*rollout.State

	commands chan command
	inbox    chan struct{} // 1 buffered: reports wait
	closing  chan struct{}
	once     sync.Once
	runMu    sync.Mutex // held where running begins or closing ends it
	running  sync.WaitGroup
	loop     loopState
}

// Open reads the state of the fleet from the store. The plane serves reads and
// check-ins at once; what changes rollouts or machines needs Run.
func Open(ctx context.Context, c Config) (*Plane, error) {
	if len(c.EpochKey) < sha256.Size {
		return nil, fleet.Errorf(fleet.Invalid, "open plane: the epoch key must have at least 32 bytes")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.PollSeconds == 0 {
		c.PollSeconds = 30
	}
	if c.WaitSeconds == 0 {
		c.WaitSeconds = api.DefaultWaitMs / 1000
	}
	p := &Plane{
		st: c.Store, log: c.Log, now: c.Now, conf: c,
		inventory: newInventory(), presence: newPresence(), releases: newReleaseCache(c.Store), serials: newRevokedSerials(),
		keyUse: map[string]int64{}, commands: make(chan command), inbox: make(chan struct{}, 1), closing: make(chan struct{}),
		events: newNotifier(),
	}
	p.started = p.ms()
	p.loop.stopped = make(chan struct{})
	for _, load := range []func(context.Context) error{p.loadMachines, p.loadTrust, p.loadSerials, p.loadActive, p.loadEpoch} {
		if err := load(ctx); err != nil {
			return nil, fmt.Errorf("open plane: %w", err)
		}
	}
	return p, nil
}

func (p *Plane) ms() int64 { return p.now().UnixMilli() }

// Close ends long polls, event streams and the loop, and waits for the loop.
// What is in memory only is written. The store stays open: it is the caller's.
func (p *Plane) Close() error {
	var err error
	p.once.Do(func() {
		p.runMu.Lock()
		close(p.closing)
		p.runMu.Unlock()
		p.running.Wait()
		// Nobody's context: the process is on its way out.
		err = p.flush(context.Background())
	})
	return err
}

// Info says what is at this end.
func (p *Plane) Info(_ context.Context) (api.Info, error) {
	info := api.Info{Version: p.conf.Version, Mode: string(p.epoch.mode()), Time: p.ms()}
	if root := p.trustNow().root; root != nil {
		info.FleetID = root.FleetID
	}
	return info, nil
}

// errClosed is the answer to what comes after Close.
func errClosed() error {
	return fleet.Errorf(fleet.Unavailable, "the control plane is stopping").WithHint("try again in a moment")
}

// write runs a write that concerns neither rollouts nor machines' rows, with
// its audit event.
func (p *Plane) write(ctx context.Context, event fleet.AuditEvent, fn func(tx *store.Tx) error) error {
	if event.At == 0 {
		event.At = p.ms()
	}
	return p.st.Write(ctx, func(tx *store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.AddAudit(ctx, event)
	})
}

// flush writes what is kept in memory to spare the disk: when machines were
// last heard, and when keys were last used.
func (p *Plane) flush(ctx context.Context) error {
	contacts := p.inventory.takeContacts()
	p.keyMu.Lock()
	used := p.keyUse
	p.keyUse = map[string]int64{}
	p.keyMu.Unlock()
	if len(contacts) == 0 && len(used) == 0 {
		return nil
	}
	err := p.st.Write(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.TouchMachines(ctx, contacts), tx.TouchKeys(ctx, used))
	})
	if err != nil {
		return fmt.Errorf("write last contacts: %w", err)
	}
	return nil
}
