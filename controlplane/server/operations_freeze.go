// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

func (o *operators) freezeOperations() {
	handle(o, "listGates", func(_ context.Context, _ access.Caller, _ *none) ([]api.Gate, error) {
		return o.plane.Gates(), nil
	})
	handle(o, "getFreeze", func(ctx context.Context, _ access.Caller, _ *none) (fleet.Freeze, error) {
		return o.plane.Freeze(ctx)
	})
	handle(o, "setFreeze", func(ctx context.Context, c access.Caller, in *body[api.FreezeRequest]) (fleet.Freeze, error) {
		return o.plane.SetFreeze(ctx, c, in.Body)
	})
	handle(o, "endFreeze", func(ctx context.Context, c access.Caller, _ *none) (fleet.Freeze, error) {
		return o.plane.EndFreeze(ctx, c)
	})
}
