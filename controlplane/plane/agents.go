// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/calls"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/epoch"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// CheckIn takes in what an agent says of its machine and answers with its
// orders, as soon as they are others than it has, at the latest after
// in.WaitMs. If that is 0, it acknowledges the reports that came along: one that
// carries some must not wait. One that says nothing new writes nothing.
func (p *Plane) CheckIn(ctx context.Context, machine fleet.MachineID, in api.CheckIn) (api.Orders, error) {
	acknowledged, err := p.TakeIn(ctx, machine, in)
	if err != nil {
		return api.Orders{}, err
	}
	if in.WaitMs <= 0 {
		o, err := p.ordersOf(machine, p.loop.Presence.Assignment(machine))
		o.Reports = acknowledged
		return o, err
	}
	return p.wait(ctx, machine, in.Have, time.Duration(min(in.WaitMs, api.MaxWaitMs))*time.Millisecond)
}

// TakeIn takes in what an agent says of its machine, and says what became of the
// reports that came along; nil if there were none, or none is taken in. The orders are
// left to Hold.
func (p *Plane) TakeIn(ctx context.Context, machine fleet.MachineID, in api.CheckIn) (*api.ReportsReply, error) {
	select {
	case <-p.loop.Ending(): // else an agent would ask again at once
		return nil, loop.ErrClosed()
	default:
	}
	if err := cleanCheckIn(machine, &in); err != nil {
		return nil, err
	}
	if err := p.Enrolment.Admit(ctx, machine); err != nil {
		return nil, err
	}
	if err := p.Epoch.Check(ctx, "machine:"+string(machine), in.Epoch); err != nil {
		return nil, err
	}
	return p.takeIn(ctx, machine, in)
}

// signal is a Waker that is waited for.
type signal chan struct{}

// Wake is for loop.Waker.
func (s signal) Wake() { close(s) }

// wait answers once the orders are others than have, or the time is over.
func (p *Plane) wait(ctx context.Context, machine fleet.MachineID, have string, limit time.Duration) (api.Orders, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	changed := make(signal)
	defer func() { p.EndHold(machine, changed) }()
	o, err := p.Hold(machine, changed)
	for last := false; err == nil && o.Etag == have && !last; {
		select {
		case <-changed:
			changed = make(signal)
		case <-timeout.C:
			last = true
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), calls.ErrNewer) {
				return api.Orders{}, ctx.Err()
			}
			last = true
		}
		o, err = p.Look(machine, changed)
	}
	return o, err
}

// Hold holds a machine's check-in until EndHold, and looks at its orders.
func (p *Plane) Hold(machine fleet.MachineID, w loop.Waker) (api.Orders, error) {
	p.loop.Inventory.Hold(machine, p.loop.Moment(), 1)
	return p.Look(machine, w)
}

// Look returns what a machine may do now, and has w woken once when that may have
// changed. The error's code is Unavailable when the control plane stops.
func (p *Plane) Look(machine fleet.MachineID, w loop.Waker) (api.Orders, error) {
	current := p.loop.Presence.Watch(machine, w)
	select {
	case <-p.loop.Ending():
		return api.Orders{}, loop.ErrClosed()
	default:
	}
	return p.ordersOf(machine, current)
}

// EndHold ends what Hold began. It lets go of w.
func (p *Plane) EndHold(machine fleet.MachineID, w loop.Waker) {
	p.loop.Presence.Unwatch(machine, w)
	p.loop.Inventory.Hold(machine, p.loop.Moment(), -1)
}

func (p *Plane) ordersOf(machine fleet.MachineID, current loop.CurrentAssignment) (api.Orders, error) {
	m, ok := p.loop.Inventory.Machine(machine)
	if !ok {
		return api.Orders{}, loop.NoMachine(machine)
	}
	if err := enrolment.CheckContact(m); err != nil {
		return api.Orders{}, err
	}
	return p.ordersFor(m, current)
}

// ordersFor is what a machine may do now. One that takes no part in rollouts
// gets nothing to apply; nor does any while the database may be an old copy.
func (p *Plane) ordersFor(m fleet.Machine, current loop.CurrentAssignment) (api.Orders, error) {
	var o api.Orders
	if (m.Lifecycle == fleet.Active || m.Lifecycle == fleet.Maintenance) && p.Epoch.Mode() != epoch.Restored {
		o = current.Orders(p.loop.Moment().Run)
		if p.loop.Freeze() != nil {
			o.Prefetch = ""
		}
	}
	o.Documents = p.Documents.Current().Digests
	o.Grants = p.Documents.Grants(m.ID, p.now())
	o.PollAfterMs, o.WaitMs = int64(p.conf.PollSeconds)*1000, int64(p.conf.WaitSeconds)*1000
	o.Epoch = p.Epoch.Token()
	tag, err := etag(o)
	o.Etag = tag
	return o, err
}

// etag names what an agent acts on: not the epoch, nor how much time is left.
func etag(o api.Orders) (string, error) {
	o.Epoch = ""
	if o.Apply != nil {
		apply := *o.Apply
		apply.DeadlineMs = 0
		o.Apply = &apply
	}
	b, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("encode orders: %w", err)
	}
	return fleet.SHA256(b).Short(), nil
}

// cleanCheckIn refuses a check-in of another machine (E07), and drops marks of
// earlier replies that are none of ours. What the agent says of its machine is
// cleaned where it is taken in.
func cleanCheckIn(machine fleet.MachineID, in *api.CheckIn) error {
	if in.Machine != machine {
		return fleet.Errorf(fleet.Forbidden, "the certificate is that of %s, the check-in that of %.80q", machine, in.Machine)
	}
	if len(in.Have) > maxEcho {
		in.Have = ""
	}
	return nil
}

// maxEcho bounds the mark that an agent repeats from a reply, in bytes.
const maxEcho = 300

// takeIn notes the contact, and writes what is new, with the reports that came along.
// Without room for those alone it answers all the same, and acknowledges none.
func (p *Plane) takeIn(ctx context.Context, machine fleet.MachineID, in api.CheckIn) (*api.ReportsReply, error) {
	reports, err := p.judge(machine, in.Reports)
	if err != nil {
		return nil, err
	}
	now := p.loop.Moment()
	have, wasOffline, known := p.loop.Inventory.CheckedIn(machine, now, in.WaitMs, in.PollMs)
	if !known {
		return nil, loop.NoMachine(machine)
	}
	if wasOffline {
		p.loop.Reconnected(machine)
	}
	m := merge(have, in)
	changed, tell := !sameStatus(have, m), notable(have, m)
	if !changed && len(reports.good) == 0 {
		return reports.acknowledged(in), nil
	}
	err = p.loop.Store.WriteAgain(ctx, func(tx *store.Tx) (fault error) {
		if changed {
			fault = tx.UpdateMachineStatus(ctx, m)
		}
		if tell && fault == nil {
			fault = tx.AddEvents(ctx, []api.Event{{At: now.Wall, Machine: &m}})
		}
		if fault != nil {
			return fault
		}
		return reports.write(ctx, tx)
	})
	if err != nil && !changed {
		p.loop.Log.Warn("the reports of a check-in cannot be stored", "machine", machine, "error", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if changed {
		p.loop.Inventory.PutStatus(m)
	}
	if tell {
		p.loop.Events.Notify()
	}
	if len(reports.good) > 0 {
		p.loop.Wake()
	}
	return reports.acknowledged(in), nil
}

// acknowledged is what the reply to a check-in says of its reports; nil if it had none.
func (in reportsIn) acknowledged(c api.CheckIn) *api.ReportsReply {
	if len(c.Reports) == 0 {
		return nil
	}
	return &in.reply
}

func merge(m fleet.Machine, in api.CheckIn) fleet.Machine {
	m.System, m.Line, m.BootID, m.State, m.Waiting = in.System, in.Line, in.BootID, in.State, in.Waiting
	m.AgentVersion, m.Drift, m.RunsRelease, m.Generations = in.AgentVersion, in.Drift, in.RunsRelease, in.Generations
	m.NeedsReboot = in.NeedsReboot
	if in.Inventory != nil {
		m.Inventory = in.Inventory
	}
	m.ClaimedTags = in.Tags
	m.Checks = slices.Clone(in.Checks)
	m.CleanStatus()
	if m.Checks == nil {
		m.Checks = []fleet.HealthCheckResult{}
	}
	m.Health = fleet.HealthOf(m.Checks)
	return m
}

// sameStatus reports whether there is nothing to write: the same state, and
// checks that say the same. When a check last ran is nothing new.
func sameStatus(a, b fleet.Machine) bool {
	if notable(a, b) || !sameInventory(a.Inventory, b.Inventory) || a.Waiting != b.Waiting || a.BootID != b.BootID || a.AgentVersion != b.AgentVersion || len(a.Checks) != len(b.Checks) {
		return false
	}
	for i, c := range a.Checks {
		d := b.Checks[i]
		if c.Name != d.Name || c.Kind != d.Kind || c.Status != d.Status || c.Required != d.Required || c.Status != fleet.HealthCheckPassing && c.Observed != d.Observed {
			return false
		}
	}
	return true
}

func sameInventory(a, b *fleet.Inventory) bool { return a == b || a != nil && b != nil && *a == *b }

// notable reports whether operators want to hear of the difference.
func notable(a, b fleet.Machine) bool {
	return a.System != b.System || a.Line != b.Line || a.State != b.State || a.Generations != b.Generations ||
		a.RunsRelease != b.RunsRelease || a.Health != b.Health || a.Drift != b.Drift || a.NeedsReboot != b.NeedsReboot || !slices.Equal(a.ClaimedTags, b.ClaimedTags)
}

// MaxReports bounds how many reports come at once; an agent sends the rest
// next.
const MaxReports = 1000

// keptReports is how many applied reports of a machine are kept at most, so that
// no machine fills the disk.
const keptReports = 2000

// keptEvery is how many reports of a machine may come before those beyond are
// deleted, which costs as much as to keep one.
const keptEvery = 100

// kept counts the machines' reports since their old ones were deleted.
type kept struct {
	mu    sync.Mutex
	since map[fleet.MachineID]int
}

// due counts n more, and reports whether the old ones are to be deleted now: with
// the first ones since the start, and then now and again.
func (k *kept) due(m fleet.MachineID, n int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, known := k.since[m]
	if known && have+n < keptEvery {
		k.since[m] = have + n
		return false
	}
	k.since[m] = 0
	return true
}

// reportsIn are reports of a machine that came together.
type reportsIn struct {
	machine fleet.MachineID
	good    []fleet.Report // that are kept
	reply   api.ReportsReply
	at      int64
	tidy    bool // the machine's old ones are to be deleted
}

// judge says which reports are kept. A malformed one is rejected, and delays no other.
// The error's code is Forbidden for one of another machine (E07).
func (p *Plane) judge(machine fleet.MachineID, reports []fleet.Report) (reportsIn, error) {
	in := reportsIn{machine: machine, at: p.now(), reply: api.ReportsReply{Accepted: []string{}, Rejected: []string{}, Reasons: map[string]string{}}}
	for _, r := range reports {
		if r.Machine != machine && r.Machine.Valid() {
			return in, fleet.Errorf(fleet.Forbidden, "the certificate is that of %s, the report that of %.80q", machine, r.Machine)
		}
		r.Clean()
		if err := r.Validate(); err != nil {
			in.reply.Rejected = append(in.reply.Rejected, r.ID)
			in.reply.Reasons[r.ID] = err.Error()
			continue
		}
		in.reply.Accepted = append(in.reply.Accepted, r.ID)
		in.good = append(in.good, r)
	}
	if n := len(in.reply.Rejected); n > 0 { // one line, however many they are
		first := in.reply.Rejected[0]
		p.loop.Log.Warn("rejected reports", "machine", machine, "count", n, "first", fleet.CleanLine(first, 64), "err", in.reply.Reasons[first])
	}
	if len(in.good) > 0 {
		in.tidy = p.kept.due(machine, len(in.good))
	}
	return in, nil
}

// write keeps the good ones. One that came before is kept once.
func (in reportsIn) write(ctx context.Context, tx *store.Tx) error {
	if _, err := tx.AddReports(ctx, in.at, in.good...); err != nil || !in.tidy {
		return err
	}
	return tx.DeleteReportsBeyond(ctx, in.machine, keptReports)
}

// SubmitReports keeps a machine's reports and returns when they are durable.
// A report that came before is accepted again and has no second effect. A
// malformed one is rejected, and delays no other.
func (p *Plane) SubmitReports(ctx context.Context, machine fleet.MachineID, reports []fleet.Report) (api.ReportsReply, error) {
	if len(reports) > MaxReports {
		return api.ReportsReply{}, fleet.Errorf(fleet.TooLarge, "%d reports, at most %d at once", len(reports), MaxReports)
	}
	if err := p.Enrolment.Admit(ctx, machine); err != nil {
		return api.ReportsReply{}, err
	}
	in, err := p.judge(machine, reports)
	if err != nil || len(in.good) == 0 {
		return in.reply, err
	}
	if err = p.loop.Store.WriteAgain(ctx, func(tx *store.Tx) error { return in.write(ctx, tx) }); err != nil {
		return api.ReportsReply{}, err
	}
	p.loop.Inventory.Heard(machine, p.loop.Moment())
	p.loop.Wake()
	return in.reply, nil
}
