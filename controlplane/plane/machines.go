// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

// Machines returns the machines that the caller's key is for, by id.
func (p *Plane) Machines(ctx context.Context, c access.Caller, f fleet.MachineFilter, page fleet.PageRequest) (api.Page[fleet.Machine], error) {
	after, err := paging.After[fleet.MachineID](page)
	if err != nil {
		return api.Page[fleet.Machine]{}, err
	}
	items := p.loop.Inventory.Select(after, page.Size()+1, p.loop.Moment().Run, func(m fleet.Machine) bool {
		return c.Reaches(m) && (f.Tag == "" || slices.Contains(m.Tags.Effective, f.Tag)) && (f.Lifecycle == "" || m.Lifecycle == f.Lifecycle) &&
			(f.Health == "" || m.Health == f.Health) && (f.Release == "" || m.RunsRelease == f.Release) &&
			(!f.Drift || m.Drift) && (!f.Offline || m.Offline) && (!f.Behind || p.loop.Behind.Has(m.ID))
	})
	out := paging.Cut(items, page, func(m fleet.Machine) fleet.MachineID { return m.ID })
	for i := range out.Items {
		out.Items[i].Desired, out.Items[i].Behind = p.loop.Desired(out.Items[i].ID), p.CatchUp.Behind(out.Items[i].ID)
	}
	return out, nil
}

// Machine returns a machine that the caller's key is for.
func (p *Plane) Machine(ctx context.Context, c access.Caller, id fleet.MachineID) (fleet.Machine, error) {
	m, err := mayTouch(c, p.loop.Inventory.Machine, id)
	if err != nil {
		return fleet.Machine{}, err
	}
	m = p.loop.Inventory.Shown(m, p.loop.Moment().Run)
	m.Desired, m.Behind = p.loop.Desired(id), p.CatchUp.Behind(id)
	return m, nil
}

// MachineReports returns what a machine reported, newest first.
func (p *Plane) MachineReports(ctx context.Context, c access.Caller, id fleet.MachineID, page fleet.PageRequest) (api.Page[fleet.Report], error) {
	if _, err := mayTouch(c, p.loop.Inventory.Machine, id); err != nil {
		return api.Page[fleet.Report]{}, err
	}
	return p.loop.Store.MachineReports(ctx, id, page)
}

// RegisterMachine makes a machine known before it enrols. The error's code is
// Conflict if it is known already.
func (p *Plane) RegisterMachine(ctx context.Context, c access.Caller, in api.MachineRequest) (fleet.Machine, error) {
	if !in.ID.Valid() {
		_, err := fleet.ParseMachineID(string(in.ID))
		return fleet.Machine{}, err
	}
	if in.Lifecycle == "" {
		in.Lifecycle = fleet.Pending
	}
	if err := fleet.Pending.CheckMove(in.Lifecycle); err != nil {
		return fleet.Machine{}, err
	}
	m := fleet.Machine{ID: in.ID, Lifecycle: in.Lifecycle, Tags: fleet.NewTags(nil, in.Tags), Checks: []fleet.HealthCheckResult{}, CreatedAt: p.now(), Version: 1}
	if err := fleet.ValidateTags(m.Tags.Operator); err != nil {
		return fleet.Machine{}, err
	}
	if err := c.MayTouch(m); err != nil {
		return fleet.Machine{}, err
	}
	if err := c.MaySetTags(nil, m.Tags.Operator); err != nil {
		return fleet.Machine{}, err
	}
	err := p.act(ctx, &m, func(ctx context.Context, pass *loop.Pass) error {
		if err := mayName(ctx, pass, c, in.ID); err != nil {
			return err
		}
		return pass.Register(ctx, m, c.Actor(), nil)
	})
	return m, err
}

// mayName checks that a limited key may register a machine of that name: it is
// not another's, nor one that the newest signed entry gives to others.
func mayName(ctx context.Context, pass *loop.Pass, c access.Caller, id fleet.MachineID) error {
	if !c.Limited() {
		return nil
	}
	if _, known := pass.Machine(id); known {
		_, err := mayTouch(c, pass.Machine, id)
		return err
	}
	tags, signed, err := pass.Tx.NewestEntryTags(ctx, id)
	if err != nil || !signed {
		return err
	}
	return c.MayTouch(fleet.Machine{ID: id, Tags: fleet.NewTags(tags, nil)})
}

// update changes what operators set of a machine, if it has the given version or
// that is 0, and lets the rollouts that hold it know. The error's code is Changed
// for another version.
func (p *Plane) update(ctx context.Context, c access.Caller, id fleet.MachineID, version int64, action string, change func(m *fleet.Machine) (map[string]string, error)) (fleet.Machine, error) {
	var out fleet.Machine
	err := p.act(ctx, &out, func(ctx context.Context, pass *loop.Pass) error {
		m, err := mayTouch(c, pass.Machine, id)
		if err != nil {
			return err
		}
		if version != 0 && version != m.Version {
			return changed("machine "+string(id), m.Version, version)
		}
		before := m
		detail, err := change(&m)
		if err != nil {
			return err
		}
		if err := c.MayTouch(m); err != nil {
			return err
		}
		if m.Lifecycle == fleet.Decommissioned && before.Lifecycle != m.Lifecycle {
			if err := p.Enrolment.End(ctx, pass, &m); err != nil {
				return err
			}
		}
		if err := pass.Tx.UpdateMachine(ctx, &m); err != nil {
			return err
		}
		pass.Changed(m)
		if err := pass.Audit(ctx, c.Actor(), action, "machine:"+string(id), detail); err != nil {
			return err
		}
		if m.Lifecycle != before.Lifecycle {
			if err := pass.LifecycleChanged(ctx, m.ID); err != nil {
				return err
			}
		}
		out = p.loop.Inventory.Shown(m, pass.Run)
		out.Desired, out.Behind = pass.Desired(id), p.CatchUp.Behind(id)
		return nil
	})
	return out, err
}

// changed is the error of a change that is bound to another version.
func changed(what string, have, want int64) error {
	return fleet.Errorf(fleet.Changed, "%s has version %d, not %d", what, have, want).WithHint("look at it again, then repeat")
}

// SetLifecycle sets a machine's lifecycle. The error's code is Conflict for a move
// that there is not, Changed for another version than the caller saw.
func (p *Plane) SetLifecycle(ctx context.Context, c access.Caller, id fleet.MachineID, in api.LifecycleRequest) (fleet.Machine, error) {
	return p.update(ctx, c, id, in.IfVersion, fleet.ActionMachineLifecycle, func(m *fleet.Machine) (map[string]string, error) {
		if err := m.Lifecycle.CheckMove(in.Lifecycle); err != nil {
			return nil, err
		}
		detail := map[string]string{"from": string(m.Lifecycle), "to": string(in.Lifecycle)}
		m.Lifecycle = in.Lifecycle
		if m.Lifecycle == fleet.Active && m.Key != "" && m.EnrolledAt == 0 {
			m.EnrolledAt = p.now() // as by adoption: only a token with Replace changes its key now
		}
		return detail, nil
	})
}

// SetTags sets the operators' tags of a machine, like SetLifecycle. Rollouts that
// were planned before do not change (H19). A limited key sets and removes its own
// tags only: another would put the machine under other keys, or take it from them.
func (p *Plane) SetTags(ctx context.Context, c access.Caller, id fleet.MachineID, in api.TagsRequest) (fleet.Machine, error) {
	return p.update(ctx, c, id, in.IfVersion, fleet.ActionMachineTags, func(m *fleet.Machine) (map[string]string, error) {
		tags := fleet.NewTags(m.Tags.Signed, in.Tags)
		if err := fleet.ValidateTags(tags.Operator); err != nil {
			return nil, err
		}
		if err := c.MaySetTags(m.Tags.Operator, tags.Operator); err != nil {
			return nil, err
		}
		detail := map[string]string{"from": fmt.Sprint(m.Tags.Operator), "to": fmt.Sprint(tags.Operator)}
		m.Tags = tags
		return detail, nil
	})
}

// AdoptMachine accepts a machine that came with a good certificate and no row:
// it takes part in rollouts from now on.
func (p *Plane) AdoptMachine(ctx context.Context, c access.Caller, id fleet.MachineID) (fleet.Machine, error) {
	return p.update(ctx, c, id, 0, fleet.ActionMachineAdopt, func(m *fleet.Machine) (map[string]string, error) {
		if m.Lifecycle != fleet.Pending {
			return nil, fleet.Errorf(fleet.Conflict, "machine %s is %s, not pending", id, m.Lifecycle)
		}
		if m.LastContact == 0 && m.Key == "" {
			return nil, fleet.Errorf(fleet.Conflict, "machine %s has never checked in", id).WithHint("enrol it: nixfleet machine token %s", id)
		}
		m.Lifecycle = fleet.Active
		if m.EnrolledAt == 0 {
			m.EnrolledAt = p.now()
		}
		return nil, nil
	})
}
