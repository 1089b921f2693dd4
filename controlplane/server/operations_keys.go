// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/fleet"
)

// none is the input of an operation that takes none, and the reply of one that
// has nothing to say.
type none struct{}

// Paging is the part of an input that asks for a page of a list.
type Paging struct {
	Cursor string `query:"cursor" maxLength:"200" doc:"Next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Items of a page"`
}

// body is the part of an input that is a body which must be there.
type body[T any] struct {
	Body T
}

type keyIn struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the key"`
}

func (o *operators) keyOperations() {
	handle(o, "info", func(ctx context.Context, _ plane.Caller, _ *none) (api.Info, error) {
		return o.plane.Info(ctx)
	})
	handle(o, "bootstrapKey", func(ctx context.Context, _ plane.Caller, in *body[api.BootstrapRequest]) (api.NewKey, error) {
		return o.plane.BootstrapKey(ctx, in.Body)
	})
	handle(o, "whoami", func(ctx context.Context, c plane.Caller, _ *none) (fleet.Key, error) {
		return o.plane.Whoami(ctx, c)
	})
	handle(o, "listKeys", func(ctx context.Context, _ plane.Caller, in *Paging) (api.Page[fleet.Key], error) {
		keys, err := o.plane.ListKeys(ctx)
		if err != nil {
			return api.Page[fleet.Key]{}, err
		}
		return pageOfKeys(keys, in.Cursor, in.Limit)
	})
	handle(o, "createKey", func(ctx context.Context, c plane.Caller, in *body[api.KeyRequest]) (api.NewKey, error) {
		return o.plane.CreateKey(ctx, c, in.Body)
	})
	handle(o, "rotateKey", func(ctx context.Context, c plane.Caller, in *keyIn) (api.NewKey, error) {
		return o.plane.RotateKey(ctx, c, in.ID)
	})
	handle(o, "revokeKey", func(ctx context.Context, c plane.Caller, in *keyIn) (fleet.Key, error) {
		return o.plane.RevokeKey(ctx, c, in.ID)
	})
}

// pageOfKeys is the page after the key that cursor names. Keys are few enough
// to be read whole.
func pageOfKeys(keys []fleet.Key, cursor string, limit int) (api.Page[fleet.Key], error) {
	if cursor != "" {
		i := slices.IndexFunc(keys, func(k fleet.Key) bool { return k.ID == cursor })
		if i < 0 {
			return api.Page[fleet.Key]{}, fleet.Errorf(fleet.Invalid, "the cursor is not one of this list")
		}
		keys = keys[i+1:]
	}
	p := api.Page[fleet.Key]{Items: keys}
	if len(keys) > limit {
		p.Items, p.Next = keys[:limit], keys[limit-1].ID
	}
	return p, nil
}
