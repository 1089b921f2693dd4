// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// none is the input of an operation that takes none.
type none struct{}

// body is the part of an input that is a required body.
type body[T any] struct {
	Body T
}

type keyIn struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the key"`
}

func (o *operators) keyOperations() {
	handle(o, "info", func(ctx context.Context, _ access.Caller, _ *none) (api.Info, error) {
		return o.plane.Info(ctx)
	})
	handle(o, "bootstrapKey", func(ctx context.Context, _ access.Caller, in *body[api.BootstrapRequest]) (api.NewKey, error) {
		return o.plane.Keys.Bootstrap(ctx, in.Body)
	})
	handle(o, "whoami", func(ctx context.Context, c access.Caller, _ *none) (fleet.Key, error) {
		return o.plane.Keys.Own(ctx, c)
	})
	handle(o, "listKeys", func(ctx context.Context, c access.Caller, in *fleet.PageRequest) (api.Page[fleet.Key], error) {
		return o.plane.Keys.List(ctx, c, *in)
	})
	handle(o, "createKey", func(ctx context.Context, c access.Caller, in *body[api.KeyRequest]) (api.NewKey, error) {
		return o.plane.Keys.Create(ctx, c, in.Body)
	})
	handle(o, "rotateKey", func(ctx context.Context, c access.Caller, in *keyIn) (api.NewKey, error) {
		return o.plane.Keys.Rotate(ctx, c, in.ID)
	})
	handle(o, "revokeKey", func(ctx context.Context, c access.Caller, in *keyIn) (fleet.Key, error) {
		return o.plane.Keys.Revoke(ctx, c, in.ID)
	})
}
