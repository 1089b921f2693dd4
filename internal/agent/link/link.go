// SPDX-License-Identifier: MIT

// Package link connects the agent to its control plane. It holds the machine's
// identity, asks for orders, delivers reports, and fetches release bundles and
// trust documents.
//
// It never judges what it fetches and never touches the machine.
package link

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/agent/wait"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Machine is what a check-in describes.
type Machine interface {
	System() fleet.System
	Seen() states.Seen
	Journal() states.Journal
	Checks() []fleet.HealthCheckResult // nil before the first results
	Inventory() fleet.Inventory
	// Changed tells that journal or health may have changed.
	Changed() <-chan struct{}
}

// Config is what a link is made of.
type Config struct {
	Agent   config.Agent
	Version string // of the agent
	Machine Machine
	Outbox  *disk.Outbox
	Floor   FloorTold // of an enrolment by the token file of the configuration
	Log     *slog.Logger
	// Dial connects to the enrolled machine's control plane; nil: by TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Link is the connection to the control plane. It can be used before the machine
// is enrolled: until then there are no orders, and every request fails with
// Unavailable.
type Link struct {
	Config
	wake    chan struct{}
	sending chan struct{} // 1 buffered: full while reports are on their way

	mu      sync.Mutex
	plane   controlPlane // nil until the machine is enrolled
	last    api.Orders
	given   bool // last was received
	contact Contact
	leftOut string          // what it cannot carry out of the last orders
	address string          // from which the last check-in was made
	told    fleet.Inventory // that the control plane has; zero: not known

	evidence fleet.EvidenceKey // of the machine; "" before it is enrolled
}

// Contact counts check-ins.
type Contact struct {
	Last             time.Time // of the last one that was answered
	Answered, Failed int64
}

// controlPlane is what an enrolled machine may ask for.
type controlPlane interface {
	CheckIn(context.Context, api.CheckIn) (api.Orders, error)
	Reports(context.Context, []fleet.Report) (api.ReportsReply, error)
	Release(context.Context, fleet.Digest) ([]byte, error)
	Document(context.Context, fleet.Digest) ([]byte, error)
	Root(ctx context.Context, version uint64) ([]byte, error)
}

// New makes a link that is not connected yet.
func New(c Config) *Link {
	return &Link{Config: c, wake: make(chan struct{}, 1), sending: make(chan struct{}, 1)}
}

// Run enrols the machine if need be, then polls, delivers and renews until ctx
// ends. It leaves nothing running.
func (l *Link) Run(ctx context.Context) {
	id := &identity{cfg: l.Agent, told: l.Floor, dial: l.Dial}
	c := l.connect(ctx, id)
	if c == nil {
		return
	}
	defer c.Close()
	l.setEvidence(id)
	l.connected(c)
	var wg sync.WaitGroup
	wg.Go(func() { l.poll(ctx, c) })
	wg.Go(func() { l.deliver(ctx, c) })
	wg.Go(func() { id.renew(ctx, c, l.Log) })
	wg.Wait()
}

// connect makes the client of an enrolled machine. It tries until that succeeds or
// ctx ends.
func (l *Link) connect(ctx context.Context, id *identity) *api.AgentClient {
	waits := backOff(10 * time.Second)
	for failures := 1; ; failures++ {
		c, err := id.enrolledClient(ctx, l.Version)
		if err == nil {
			return c
		}
		if failures == 1 || failures%20 == 0 {
			l.Log.Error("the machine has no identity yet", "error", err, "hint", fleet.ErrorHint(err))
		}
		if !wait.For(ctx, waits.NextBackOff()) {
			return nil
		}
	}
}

// backOff are the waits after failures of what is otherwise done at this interval.
func backOff(every time.Duration) *wait.Growing {
	return wait.BackOff(min(every, time.Second), min(max(5*every, time.Second), 5*time.Minute))
}

// setEvidence reads the evidence key that check-ins name.
func (l *Link) setEvidence(id *identity) {
	cert, err := id.certificate(nil)
	var k ed25519.PrivateKey
	if err == nil {
		k, err = id.evidence(cert.Leaf)
	}
	l.evidence = publicOf(k)
	if err != nil {
		l.Log.Error("the machine cannot sign evidence", "error", err, "hint", fleet.ErrorHint(err))
	}
}

func (l *Link) connected(p controlPlane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plane = p
}

// enrolled returns the control plane, or an error before the machine is
// enrolled.
func (l *Link) enrolled() (controlPlane, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.plane == nil {
		return nil, fleet.Errorf(fleet.Unavailable, "the machine is not enrolled")
	}
	return l.plane, nil
}

// Orders are the last ones that the control plane gave; false before the first.
// They stay in force while the control plane does not answer.
func (l *Link) Orders() (states.Orders, bool) {
	v, given := l.reply()
	return states.Orders{Apply: v.Apply, Revert: v.Revert, Prefetch: v.Prefetch, Documents: v.Documents, Grants: v.Grants}, given
}

// Wake tells when there are other orders.
func (l *Link) Wake() <-chan struct{} { return l.wake }

// Contact says how often, and when last, the control plane answered.
func (l *Link) Contact() Contact {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.contact
}

func (l *Link) reply() (api.Orders, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.given
}

// leaveOut notes what the agent cannot carry out of its orders.
func (l *Link) leaveOut(what []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leftOut = notCarriedOut(what)
}

// waiting is what the next check-in says of why the agent waits.
func (l *Link) waiting(why string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why != "" && l.leftOut != "" {
		why += "; "
	}
	return fleet.CleanText(why+l.leftOut, 500)
}

func (l *Link) answered(v api.Orders, at time.Time) {
	l.mu.Lock()
	l.last, l.given = v, true
	l.contact.Last = at
	l.contact.Answered++
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Link) failed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.contact.Failed++
	l.told = fleet.Inventory{} // it may have been restored from an older copy
}

// inventory is what is new to the control plane; nil for nothing.
func (l *Link) inventory() *fleet.Inventory {
	v := l.Machine.Inventory()
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.Address = l.address; v == l.told {
		return nil
	}
	return &v
}

// took notes what the control plane was told, and from which address.
func (l *Link) took(v *fleet.Inventory, from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v != nil {
		l.told = *v
	}
	l.address = from
}
