// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/fleet"
)

// Freeze returns what keeps the fleet from being ordered anything new. The
// error's code is NotFound if nothing does.
func (p *Plane) Freeze(context.Context) (fleet.Freeze, error) {
	f := p.loop.Freeze()
	if f == nil {
		return fleet.Freeze{}, notFrozen()
	}
	return *f, nil
}

func notFrozen() error {
	return fleet.Errorf(fleet.NotFound, "the fleet is not frozen")
}

// Gates lists what rollouts can name.
func (p *Plane) Gates() []api.Gate { return p.conf.Gates.List() }

// SetFreeze freezes the fleet, anew if it is frozen already: no machine is ordered
// anything new. What has begun goes on, machines still roll back, and can be
// reverted.
func (p *Plane) SetFreeze(ctx context.Context, c access.Caller, in api.FreezeRequest) (fleet.Freeze, error) {
	f := fleet.Freeze{Reason: fleet.CleanLine(in.Reason, 300), By: c.Actor(), At: p.now(), Until: in.Until}
	switch {
	case f.Reason == "":
		return f, fleet.Errorf(fleet.Invalid, "a freeze needs a reason").WithHint("others read it when they ask why their rollout waits")
	case f.Until != 0 && f.Until <= f.At:
		return f, fleet.Errorf(fleet.Invalid, "the freeze would end before it begins")
	}
	return f, p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error { return pass.SetFreeze(ctx, &f, c.Actor()) })
}

// EndFreeze lets rollouts go on, and returns the freeze that it ended. The error's
// code is NotFound if the fleet is not frozen.
func (p *Plane) EndFreeze(ctx context.Context, c access.Caller) (fleet.Freeze, error) {
	var ended fleet.Freeze
	err := p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) error {
		f := p.loop.Freeze()
		if f == nil {
			return notFrozen()
		}
		ended = *f
		return pass.SetFreeze(ctx, nil, c.Actor())
	})
	return ended, err
}
