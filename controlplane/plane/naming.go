// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/fleet"
)

// DeleteMachine forgets a machine that has never enrolled; its enrolment token
// ends. The error's code is Conflict for one of which more is kept than its row,
// Changed for another version than the caller saw; version 0 is any.
func (p *Plane) DeleteMachine(ctx context.Context, c access.Caller, id fleet.MachineID, version int64) (fleet.Machine, error) {
	var gone fleet.Machine
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		m, err := mayTouch(c, pass.Machine, id)
		if err != nil {
			return err
		}
		if version != 0 && version != m.Version {
			return changed("machine "+string(id), m.Version, version)
		}
		trace, err := pass.Tx.MachineTrace(ctx, id)
		if err != nil {
			return err
		}
		if trace != "" {
			return fleet.Errorf(fleet.Conflict, "machine %s cannot be deleted: it has %s", id, trace).
				WithHint("end it instead: nixfleet machine set-lifecycle %s decommissioned", id)
		}
		gone = p.loop.Inventory.Shown(m, pass.Run)
		return forget(ctx, pass, c, id, nil)
	})
	return gone, err
}

func forget(ctx context.Context, pass *loop.Pass, c access.Caller, id fleet.MachineID, detail map[string]string) error {
	if err := pass.Tx.DeleteMachine(ctx, id); err != nil {
		return err
	}
	pass.Removed(id)
	return pass.Audit(ctx, c.Actor(), fleet.ActionMachineDelete, "machine:"+string(id), detail)
}

// RenameMachine gives a machine another name, under which it has to enrol anew:
// certificates, tokens and grants are bound to the old one and end with it. The new
// row takes the operators' tags. What happened under the old name stays with that:
// its row is decommissioned, or deleted if nothing did. The error's code is Conflict
// while a rollout has the machine, and for a name that is known.
func (p *Plane) RenameMachine(ctx context.Context, c access.Caller, id fleet.MachineID, in api.RenameRequest) (fleet.Machine, error) {
	if !in.To.Valid() {
		_, err := fleet.ParseMachineID(string(in.To))
		return fleet.Machine{}, err
	}
	var out fleet.Machine
	err := p.act(ctx, &out, func(ctx context.Context, pass *loop.Pass) error {
		old, err := mayTouch(c, pass.Machine, id)
		if err != nil {
			return err
		}
		if err = mayRename(ctx, pass, c, old, in); err != nil {
			return err
		}
		m := fleet.Machine{
			ID: in.To, Formerly: id, Lifecycle: fleet.Provisioning, Tags: fleet.NewTags(nil, old.Tags.Operator),
			Checks: []fleet.HealthCheckResult{}, CreatedAt: pass.Now, Version: 1,
		}
		if old.Lifecycle == fleet.Pending {
			m.Lifecycle = fleet.Pending
		}
		if err = c.MayTouch(m); err != nil {
			return err
		}
		if err = p.endName(ctx, pass, c, old, in.To); err != nil {
			return err
		}
		out = p.loop.Inventory.Shown(m, pass.Run)
		return pass.Register(ctx, m, c.Actor(), map[string]string{"formerly": string(id)})
	})
	return out, err
}

func mayRename(ctx context.Context, pass *loop.Pass, c access.Caller, old fleet.Machine, in api.RenameRequest) error {
	if err := mayName(ctx, pass, c, in.To); err != nil {
		return err
	}
	switch _, known := pass.Machine(in.To); {
	case in.IfVersion != 0 && in.IfVersion != old.Version:
		return changed("machine "+string(old.ID), old.Version, in.IfVersion)
	case known:
		return fleet.Errorf(fleet.Conflict, "machine %s is known already", in.To)
	case old.Lifecycle == fleet.Decommissioned:
		return fleet.Errorf(fleet.Conflict, "machine %s is decommissioned", old.ID)
	}
	if held := pass.RolloutsOf(old.ID); len(held) > 0 {
		return fleet.Errorf(fleet.Conflict, "machine %s is in rollout %s, which has not ended", old.ID, held[0]).
			WithHint("wait for it, or end it: nixfleet rollout cancel %s", held[0])
	}
	return nil
}

// endName ends what a machine has under a name.
func (p *Plane) endName(ctx context.Context, pass *loop.Pass, c access.Caller, old fleet.Machine, to fleet.MachineID) error {
	detail := map[string]string{"to": string(to)}
	trace, err := pass.Tx.MachineTrace(ctx, old.ID)
	if err != nil {
		return err
	}
	if err = pass.Audit(ctx, c.Actor(), fleet.ActionMachineRename, "machine:"+string(old.ID), detail); err != nil {
		return err
	}
	if trace == "" {
		return forget(ctx, pass, c, old.ID, detail)
	}
	if err = pass.Tx.EndTokens(ctx, old.ID); err != nil {
		return err
	}
	if err = p.Enrolment.End(ctx, pass, &old); err != nil {
		return err
	}
	old.Lifecycle = fleet.Decommissioned
	if err = pass.Tx.UpdateMachine(ctx, &old); err != nil {
		return err
	}
	pass.Changed(old)
	return nil
}
