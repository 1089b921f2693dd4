// SPDX-License-Identifier: AGPL-3.0-only

// Package health says how a control plane is: whether it can serve, what
// /metrics counts, and what the doctor finds.
//
// It never changes anything.
package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/catchup"
	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Inspector looks at a control plane.
type Inspector struct {
	loop      *loop.Loop
	documents *documents.Keeper
	epoch     *epoch.Keeper
	catchUp   *catchup.Keeper
	renewal   Renewal
}

// New returns an inspector of what a control plane is made of.
func New(l *loop.Loop, d *documents.Keeper, e *epoch.Keeper, c *catchup.Keeper, r Renewal) *Inspector {
	return &Inspector{loop: l, documents: d, epoch: e, catchUp: c, renewal: r}
}

// Metrics are counts of the present state, for /metrics.
type Metrics struct {
	Machines     map[fleet.Lifecycle]int    // by lifecycle
	Health       map[fleet.Health]int       // of active machines; "" never said
	Online       int                        // machines
	Drift        int                        // machines
	Silent       map[time.Duration]int      // active machines that were heard of before, but not for so long
	Rollouts     map[fleet.RolloutState]int // all that are kept
	Waiting      int                        // reports not applied yet, at most 1000
	AuditEntries int64
	Restored     bool
	Frozen       bool                     // no machine is ordered anything new
	Certificates map[CertificateState]int // of active machines and those in maintenance
	Lives        []Life                   // of trust documents and of lines' newest releases
}

// Metrics counts the present state.
func (i *Inspector) Metrics(ctx context.Context) (Metrics, error) {
	m := Metrics{
		Machines: map[fleet.Lifecycle]int{}, Health: map[fleet.Health]int{}, Silent: map[time.Duration]int{},
		Restored: i.epoch.Mode() == epoch.Restored, Frozen: i.loop.Freeze() != nil, Certificates: map[CertificateState]int{},
	}
	certificates, _, err := i.certificates(ctx)
	if err != nil {
		return m, err
	}
	for s, ids := range certificates {
		m.Certificates[s] = len(ids)
	}
	if m.Lives, err = i.lives(ctx); err != nil {
		return m, err
	}
	now := i.loop.Moment()
	i.loop.Inventory.Each(now.Run, func(v fleet.Machine) {
		m.Machines[v.Lifecycle]++
		if v.Lifecycle == fleet.Active {
			m.Health[v.Health]++
			for _, d := range Silences() {
				if v.LastContact > 0 && now.Wall-v.LastContact > d.Milliseconds() {
					m.Silent[d]++
				}
			}
		}
		if !v.Offline {
			m.Online++
		}
		if v.Drift {
			m.Drift++
		}
	})
	err = i.loop.Store.Read(ctx, func(r store.Reader) (err error) {
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

// Silences are the times for which machines are counted that were not heard of for
// so long.
func Silences() []time.Duration {
	return []time.Duration{15 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}
}

// LastContacts are when machines were last heard of, in Unix milliseconds; 0 for
// never.
func (i *Inspector) LastContacts() map[fleet.MachineID]int64 {
	last := map[fleet.MachineID]int64{}
	i.loop.Inventory.Each(i.loop.Moment().Run, func(v fleet.Machine) { last[v.ID] = v.LastContact })
	return last
}

// Ready returns nil if the control plane can serve: the store answers and takes
// writes, no damage was found, and the loop is at work. The error says what is
// wrong and where.
func (i *Inspector) Ready(ctx context.Context) error {
	if err := i.loop.Running(); err != nil {
		return err
	}
	if err := i.loop.Store.Trouble(); err != nil {
		return err
	}
	_, err := i.loop.Store.AuditHead(ctx)
	return err
}

// Finding is something that an operator should know of.
type Finding struct {
	Severity string `json:"severity"` // error, warning
	Subject  string `json:"subject"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Deep looks for damage in the whole file, and for rows that refer to nothing.
// Each page is read.
func (i *Inspector) Deep(ctx context.Context) ([]Finding, error) {
	broken, err := i.loop.Store.Integrity(ctx)
	if fleet.ErrorCode(err) == fleet.StorageFailed {
		broken, err = []string{err.Error()}, nil
	}
	var found []Finding
	for _, line := range broken {
		found = append(found, Finding{"error", "database", line, restoreBackup})
	}
	return found, err
}

const restoreBackup = "stop the control plane and put a backup of the database and its keys in place of these files"

// Doctor looks for what is wrong: a file that is not whole, an altered audit
// trail, a database older than the fleet, a wall clock that was set, trust documents that end soon, machines that can
// soon renew no more or cannot catch up, reports that wait, rollouts that are late. No finding means
// that all is well; Deep finds what is damaged elsewhere in the file.
func (i *Inspector) Doctor(ctx context.Context) ([]Finding, error) {
	found := []Finding{}
	if _, err := i.loop.Store.VerifyAudit(ctx); fleet.ErrorCode(err) == fleet.Conflict || fleet.ErrorCode(err) == fleet.Invalid {
		found = append(found, Finding{"error", "audit", err.Error(), "someone wrote to the database by hand; compare with the checkpoints that operators keep"})
	} else if err != nil {
		return nil, err
	} else if err := i.loop.Store.Look(ctx); fleet.ErrorCode(err) == fleet.StorageFailed {
		found = append(found, Finding{"error", "database", err.Error(), restoreBackup})
	} else if err != nil {
		return nil, err
	}
	if i.epoch.Mode() == epoch.Restored {
		found = append(found, Finding{
			"error", "database", "the fleet has seen a later state than the database has: it was wiped, or restored from an old copy; rollouts are paused",
			"look at the machines and rollouts; nixfleet-control-plane doctor --accept-restored goes on with this database",
		})
	}
	if f := i.loop.Freeze(); f != nil {
		found = append(found, Finding{
			"warning", "fleet", fmt.Sprintf("frozen by %s since %s: %s; no machine is ordered anything new", f.By, time.UnixMilli(f.At).UTC().Format(time.RFC3339), f.Reason),
			"nixfleet unfreeze lets rollouts go on",
		})
	}
	found = append(found, i.trustFindings(i.loop.Clock.Now())...)
	lives, err := i.lifeFindings(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, lives...)
	clock, err := i.clockFindings(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, clock...)
	certificates, err := i.certificateFindings(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, certificates...)
	found = append(found, i.behindFindings()...)
	work, err := i.workFindings(ctx)
	return append(found, work...), err
}

// Hints on documents that another one has to replace. The control plane holds
// no key to sign one.
const (
	newRoot      = "the root role's keys sign the next version: nixfleet trust rotate --years N --out FILE, then nixfleet trust submit FILE"
	newTimestamp = "the timestamp role's keys sign the next one: nixfleet trust timestamp"
)

func (i *Inspector) trustFindings(now time.Time) []Finding {
	have := i.documents.Current()
	if have.Root == nil {
		return []Finding{{"warning", "trust", "no root is pinned: no release can be registered", "nixfleet trust init"}}
	}
	var found []Finding
	if left := time.UnixMilli(have.Root.Expires).Sub(now); left < 30*24*time.Hour && have.Root.SignedAt == 0 {
		found = append(found, Finding{"warning", "trust", fmt.Sprintf("root version %d ends on %s", have.Root.Version, time.UnixMilli(have.Root.Expires).UTC().Format(time.DateOnly)), newRoot})
	}
	if _, wanted := have.Root.Roles[fleet.TrustRoleTimestamp]; !wanted {
		return found
	}
	if have.Timestamp == nil {
		found = append(found, Finding{"error", "trust", "the root asks for a timestamp and there is none: agents accept nothing new", newTimestamp})
	}
	return found
}

// behindFindings names machines that are there and cannot catch up until an operator
// did something.
func (i *Inspector) behindFindings() []Finding {
	var found []Finding
	stuck := i.catchUp.Stuck()
	for _, why := range slices.Sorted(maps.Keys(stuck)) {
		found = append(found, Finding{"warning", "machines", some(stuck[why]) + " cannot catch up: " + why, "nixfleet machine list --behind shows who has to catch up, and since when"})
	}
	return found
}

// workFindings looks for work that does not get done.
func (i *Inspector) workFindings(ctx context.Context) ([]Finding, error) {
	var found []Finding
	err := i.loop.Store.Read(ctx, func(r store.Reader) error {
		active, err := r.ActiveRollouts(ctx)
		if err != nil {
			return err
		}
		kept, _, err := r.RunningTime(ctx)
		if err != nil {
			return err
		}
		late, last := i.loop.Clock.UnixMilli()-60_000, rollout.Moment{Wall: kept.Wall, Run: kept.Run}
		for _, v := range active {
			if v.WakeAt > 0 && last.Expect(v.WakeAt) < late {
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
