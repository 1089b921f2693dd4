// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// MachineRef is the part of an input that names a machine.
type MachineRef struct {
	ID string `path:"id" maxLength:"63" doc:"Id of the machine"`
}

func (m MachineRef) machine() (fleet.MachineID, error) { return fleet.ParseMachineID(m.ID) }

type (
	machineIn struct {
		Known
		MachineRef
	}
	machinesIn struct {
		fleet.PageRequest
		fleet.MachineFilter
	}
	machineReportsIn struct {
		fleet.PageRequest
		MachineRef
	}
	lifecycleIn struct {
		MachineRef
		Match
		Body api.LifecycleRequest
	}
	tagsIn struct {
		MachineRef
		Match
		Body api.TagsRequest
	}
	renameIn struct {
		MachineRef
		Match
		Body api.RenameRequest
	}
	deleteMachineIn struct {
		MachineRef
		Match
	}
	tokenIn struct {
		MachineRef
		Body *api.TokenRequest
	}
)

func (o *operators) machineOperations() {
	handle(o, "listMachines", func(ctx context.Context, c access.Caller, in *machinesIn) (api.Page[fleet.Machine], error) {
		return o.plane.Machines(ctx, c, in.MachineFilter, in.PageRequest)
	})
	handle(o, "registerMachine", func(ctx context.Context, c access.Caller, in *body[api.MachineRequest]) (fleet.Machine, error) {
		return o.plane.RegisterMachine(ctx, c, in.Body)
	})
	one(o, "getMachine", func(ctx context.Context, c access.Caller, in machineIn) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		return o.plane.Machine(ctx, c, m)
	})
	handle(o, "machineReports", func(ctx context.Context, c access.Caller, in *machineReportsIn) (api.Page[fleet.Report], error) {
		m, err := in.machine()
		if err != nil {
			return api.Page[fleet.Report]{}, err
		}
		return o.plane.MachineReports(ctx, c, m, in.PageRequest)
	})
	o.machineWrites()
}

func (o *operators) machineWrites() {
	handle(o, "setLifecycle", func(ctx context.Context, c access.Caller, in *lifecycleIn) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		if err = in.into(&in.Body.IfVersion); err != nil {
			return fleet.Machine{}, err
		}
		v, err := o.plane.SetLifecycle(ctx, c, m, in.Body)
		if err == nil {
			o.closeRefused(m)
		}
		return v, err
	})
	handle(o, "setTags", func(ctx context.Context, c access.Caller, in *tagsIn) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		if err = in.into(&in.Body.IfVersion); err != nil {
			return fleet.Machine{}, err
		}
		return o.plane.SetTags(ctx, c, m, in.Body)
	})
	o.machineNames()
	handle(o, "createToken", func(ctx context.Context, c access.Caller, in *tokenIn) (api.Token, error) {
		m, err := in.machine()
		if err != nil {
			return api.Token{}, err
		}
		if err := o.issues(); err != nil {
			return api.Token{}, err
		}
		var req api.TokenRequest
		if in.Body != nil {
			req = *in.Body
		}
		return o.plane.Enrolment.CreateToken(ctx, c, m, req, api.CAHash(o.identity.anchor()))
	})
	handle(o, "adoptMachine", func(ctx context.Context, c access.Caller, in *MachineRef) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		return o.plane.AdoptMachine(ctx, c, m)
	})
}

func (o *operators) machineNames() {
	handle(o, "renameMachine", func(ctx context.Context, c access.Caller, in *renameIn) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		if err = in.into(&in.Body.IfVersion); err != nil {
			return fleet.Machine{}, err
		}
		v, err := o.plane.RenameMachine(ctx, c, m, in.Body)
		if err == nil {
			o.closeRefused(m)
		}
		return v, err
	})
	handle(o, "deleteMachine", func(ctx context.Context, c access.Caller, in *deleteMachineIn) (fleet.Machine, error) {
		m, err := in.machine()
		if err != nil {
			return fleet.Machine{}, err
		}
		var version int64
		if err = in.into(&version); err != nil {
			return fleet.Machine{}, err
		}
		return o.plane.DeleteMachine(ctx, c, m, version)
	})
}
