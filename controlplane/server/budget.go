// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/wire"
	"github.com/arcanesys/nixfleet/fleet"
)

// What a machine may ask for: a burst, and so much a second from then on. An
// agent of ours stays far below, also when it delivers what it has queued for
// days. SECURITY.md has the same figures.
const (
	callsPerSec, callBurst       = 5, 200
	bytesPerSec, byteBurst       = 8 << 10, 16 << 20 // of bodies
	reportsPerSec, reportBurst   = 0.2, plane.MaxReports
	renewalsPerSec, renewalBurst = 1. / 60, 10

	// budgetMachines is how many machines' budgets are remembered: those that
	// called last. One that is forgotten has not called for long.
	budgetMachines = 1 << 15
	// refusalPause is how long a machine that is over its budget waits for that
	// answer, and whoever fails to enrol too often: else they would ask as fast as
	// they can.
	refusalPause = 500 * time.Millisecond
)

// budgets holds what each machine may still ask for. They bound what one
// machine can make the control plane do, and lose nothing: its agent asks again
// when it is told to.
type budgets struct {
	machines *lru.Cache[fleet.MachineID, *budget]
}

type budget struct {
	calls, bytes, reports, renewals *rate.Limiter
}

func newBudgets() (*budgets, error) {
	c, err := lru.New[fleet.MachineID, *budget](budgetMachines)
	return &budgets{machines: c}, err
}

func (b *budgets) of(m fleet.MachineID) *budget {
	if have, ok := b.machines.Get(m); ok {
		return have
	}
	fresh := &budget{
		calls: rate.NewLimiter(callsPerSec, callBurst), bytes: rate.NewLimiter(bytesPerSec, byteBurst),
		reports: rate.NewLimiter(reportsPerSec, reportBurst), renewals: rate.NewLimiter(renewalsPerSec, renewalBurst),
	}
	if first, known, _ := b.machines.PeekOrAdd(m, fresh); known {
		return first
	}
	return fresh
}

// call takes a request out of a machine's budget. Size is that of its body, -1
// if it is not known.
func (b *budgets) call(m fleet.MachineID, operation string, size int64, now time.Time) error {
	have := b.of(m)
	if err := take(have.calls, 1, now, "requests"); err != nil {
		return err
	}
	if operation == "renew" {
		if err := take(have.renewals, 1, now, "renewals"); err != nil {
			return err
		}
	}
	if size < 0 {
		size = wire.MaxReportsSize
	}
	return take(have.bytes, int(min(size, byteBurst)), now, "bytes")
}

// reports takes reports out of a machine's budget, all of them or none.
func (b *budgets) reports(m fleet.MachineID, n int, now time.Time) error {
	return take(b.of(m).reports, n, now, "reports")
}

// overBudget says when there will be enough.
type overBudget struct{ after time.Duration }

func (o *overBudget) Error() string { return "over budget for " + o.after.String() }

func take(l *rate.Limiter, n int, now time.Time, what string) error {
	if l.AllowN(now, n) {
		return nil
	}
	r := l.ReserveN(now, n)
	after := r.DelayFrom(now)
	r.CancelAt(now)
	return fleet.Errorf(fleet.RateLimited, "this machine sends more %s than an agent does: %w", what, &overBudget{after}).
		WithHint("nothing is lost: the agent sends it again")
}

// pause holds an answer that nobody needs soon.
func (s *Server) pause(ctx context.Context) {
	t := time.NewTimer(refusalPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.draining.Done():
	}
}
