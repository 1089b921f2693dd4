// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"fmt"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Metrics are counts of the present state, for /metrics.
type Metrics struct {
	Machines     map[fleet.Lifecycle]int    // by lifecycle
	Health       map[fleet.Health]int       // of active machines; "" never said
	Online       int                        // machines
	Drift        int                        // machines
	LastSeen     map[fleet.MachineID]int64  // Unix milliseconds
	Rollouts     map[fleet.RolloutState]int // all that are kept
	Waiting      int                        // reports not applied yet, at most 1000
	AuditEntries int64
	Restored     bool
}

// Metrics counts the present state.
func (p *Plane) Metrics(ctx context.Context) (Metrics, error) {
	m := Metrics{
		Machines: map[fleet.Lifecycle]int{}, Health: map[fleet.Health]int{}, LastSeen: map[fleet.MachineID]int64{},
		Restored: p.epoch.mode() == modeRestored,
	}
	now := p.ms()
	for _, v := range p.inventory.all() {
		m.Machines[v.Lifecycle]++
		m.LastSeen[v.ID] = v.LastContact
		if v.Lifecycle == fleet.Active {
			m.Health[v.Health]++
		}
		if p.online(v, now) {
			m.Online++
		}
		if v.Drift {
			m.Drift++
		}
	}
	err := p.st.Read(ctx, func(r store.Reader) (err error) {
		if m.Rollouts, err = r.CountRollouts(ctx); err != nil {
			return err
		}
		waiting, err := r.WaitingReports(ctx, 1000)
		if err != nil {
			return err
		}
		m.Waiting = len(waiting)
		head, err := r.AuditHead(ctx)
		m.AuditEntries = head.Size
		return err
	})
	return m, err
}

// Ready says whether the plane can serve: the store answers and Run is at
// work.
func (p *Plane) Ready(ctx context.Context) error {
	select {
	case <-p.closing:
		return errClosed()
	case <-p.loop.stopped:
		return errClosed()
	default:
	}
	_, err := p.st.AuditHead(ctx)
	return err
}

// Finding is something that an operator should know of.
type Finding struct {
	Severity string `json:"severity"` // error, warning
	Subject  string `json:"subject"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Doctor looks for what is wrong: a damaged file, an altered audit trail, a
// database older than the fleet, trust documents that end soon, reports that
// wait, claims that nobody holds. No finding means that all is well.
func (p *Plane) Doctor(ctx context.Context) ([]Finding, error) {
	found := []Finding{}
	broken, err := p.st.Integrity(ctx)
	if err != nil {
		return nil, err
	}
	for _, line := range broken {
		found = append(found, Finding{"error", "database", line, "restore a backup: nixfleet-control-plane restore FILE"})
	}
	if _, err := p.st.VerifyAudit(ctx); fleet.ErrorCode(err) == fleet.Conflict || fleet.ErrorCode(err) == fleet.Invalid {
		found = append(found, Finding{"error", "audit", err.Error(), "someone wrote to the database by hand; compare with the checkpoints that operators keep"})
	} else if err != nil {
		return nil, err
	}
	if p.epoch.mode() == modeRestored {
		found = append(found, Finding{
			"error", "database", "the fleet has seen a later state than the database has: it was wiped, or restored from an old copy; rollouts are paused",
			"look at the machines and rollouts; nixfleet-control-plane doctor --accept-restored goes on with this database",
		})
	}
	found = append(found, p.trustFindings(time.UnixMilli(p.ms()))...)
	work, err := p.workFindings(ctx)
	return append(found, work...), err
}

func (p *Plane) trustFindings(now time.Time) []Finding {
	s := p.trustNow()
	if s.root == nil {
		return []Finding{{"warning", "trust", "no root is pinned: no release can be registered", "nixfleet trust init"}}
	}
	var found []Finding
	if left := time.UnixMilli(s.root.Expires).Sub(now); left < 30*24*time.Hour {
		found = append(found, Finding{"warning", "trust", fmt.Sprintf("root version %d ends on %s", s.root.Version, time.UnixMilli(s.root.Expires).UTC().Format(time.DateOnly)), "sign a new one: nixfleet trust rotate"})
	}
	if _, wanted := s.root.Roles[fleet.TrustRoleTimestamp]; !wanted {
		return found
	}
	switch {
	case s.timestamp == nil:
		found = append(found, Finding{"error", "trust", "the root asks for a timestamp and there is none: agents accept nothing new", "nixfleet trust timestamp"})
	case trust.LifeUsed(*s.timestamp, now.UnixMilli()) >= 50:
		found = append(found, Finding{"warning", "trust", fmt.Sprintf("%d %% of the timestamp's life is over", trust.LifeUsed(*s.timestamp, now.UnixMilli())), "nixfleet trust timestamp"})
	}
	return found
}

// workFindings looks for work that does not get done.
func (p *Plane) workFindings(ctx context.Context) ([]Finding, error) {
	var found []Finding
	err := p.st.Read(ctx, func(r store.Reader) error {
		active, err := r.ActiveRollouts(ctx)
		if err != nil {
			return err
		}
		late := p.ms() - 60_000
		for _, v := range active {
			if v.WakeAt > 0 && v.WakeAt < late {
				found = append(found, Finding{"warning", "rollout:" + string(v.ID), "was due to be looked at more than a minute ago", "is the control plane running?"})
			}
		}
		waiting, err := r.WaitingReports(ctx, 1)
		if err != nil {
			return err
		}
		if len(waiting) > 0 && waiting[0].Report.At < late {
			found = append(found, Finding{"warning", "machine:" + string(waiting[0].Report.Machine), "a report has waited for more than a minute", "is the control plane running?"})
		}
		return nil
	})
	return found, err
}

// Backup writes a copy of the store to a new file while work goes on.
func (p *Plane) Backup(ctx context.Context, path string) error {
	// What is in memory only belongs into the copy.
	if err := p.flush(ctx); err != nil {
		return err
	}
	return p.st.Backup(ctx, path)
}
