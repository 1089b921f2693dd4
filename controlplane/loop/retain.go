// SPDX-License-Identifier: AGPL-3.0-only

package loop

import (
	"context"
	"errors"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Retention says for how long what is history is kept; 0 is for ever.
type Retention struct {
	Events, Reports, Audit, Releases time.Duration
}

const (
	// sweepEvery is how often what is past its retention is looked for. The first time
	// is not at the start: a clock that a machine boots with may be years ahead.
	sweepEvery = time.Hour
	// sweepAtOnce is how many rows are deleted at once, so that other writes wait for a
	// moment only, and sweepAgain how soon more of them are.
	sweepAtOnce = 1000
	sweepAgain  = 200 * time.Millisecond
)

// OnSweep adds what else deletes something that is old: a little in a pass. It says
// whether there is more. It must be called before Run.
func (l *Loop) OnSweep(sweep func(ctx context.Context, p *Pass) (more bool, err error)) {
	l.sweeps = append(l.sweeps, sweep)
}

// sweep deletes some of what is past its retention.
func (l *Loop) sweep(ctx context.Context) error {
	more, err := l.sweepSome(ctx)
	l.sweepIn = sweepEvery
	if more {
		l.sweepIn = sweepAgain
	}
	return err
}

func (l *Loop) sweepSome(ctx context.Context) (more bool, err error) {
	now := l.Clock.UnixMilli()
	before := func(keep time.Duration) (int64, bool) { return now - keep.Milliseconds(), keep > 0 }
	err = l.Store.Write(ctx, func(tx *store.Tx) error {
		var events, reports int64
		var failed error
		if at, ok := before(l.retention.Events); ok {
			events, failed = tx.DeleteEventsBefore(ctx, at, sweepAtOnce)
		}
		if at, ok := before(l.retention.Reports); ok && failed == nil {
			reports, failed = tx.DeleteReportsBefore(ctx, at, sweepAtOnce)
		}
		more = events == sweepAtOnce || reports == sweepAtOnce
		return errors.Join(failed,
			tx.DeleteTokensBefore(ctx, now-tokenRetentionMs),
			tx.DeleteAnswersBefore(ctx, now-answerRetentionMs),
			tx.DeleteCertificatesBefore(ctx, now-dayMs, now-hourMs),
		)
	})
	if err != nil {
		return false, err
	}
	for _, do := range append([]func(context.Context, *Pass) (bool, error){l.cutAudit}, l.sweeps...) {
		if err = l.pass(ctx, func(ctx context.Context, p *Pass) error {
			m, failed := do(ctx, p)
			more = more || m
			return failed
		}); err != nil {
			return false, err
		}
	}
	return more, nil
}

// cutAudit removes the oldest entries of the audit trail, and says in the trail where
// it begins now.
func (l *Loop) cutAudit(ctx context.Context, p *Pass) (more bool, err error) {
	if l.retention.Audit == 0 {
		return false, nil
	}
	from, err := p.Tx.AuditCut(ctx)
	if err != nil {
		return false, err
	}
	cut, err := p.Tx.CutAudit(ctx, p.Now-l.retention.Audit.Milliseconds(), sweepAtOnce)
	if err != nil || cut.Size == 0 {
		return false, err
	}
	p.note(rollout.EngineActor, fleet.ActionAuditCut, "audit", fleet.AuditCut(cut))
	return cut.Size-from.Size == sweepAtOnce, nil
}
