// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

func (o *operators) trustOperations() {
	one(o, "getRoot", func(ctx context.Context, _ access.Caller, _ Known) (api.Document, error) {
		return o.plane.Documents.Root(ctx)
	})
	handle(o, "putRoot", func(ctx context.Context, c access.Caller, in *body[api.Document]) (api.Document, error) {
		return o.plane.Documents.PutRoot(ctx, c, in.Body)
	})
	handle(o, "putRevocations", func(ctx context.Context, c access.Caller, in *body[api.Document]) (api.Document, error) {
		d, err := o.plane.Documents.PutRevocations(ctx, c, in.Body)
		if err == nil {
			o.closeRefused("")
		}
		return d, err
	})
	one(o, "getRevocations", func(ctx context.Context, _ access.Caller, _ Known) (api.Document, error) {
		return o.plane.Documents.Revocations(ctx)
	})
	one(o, "getTimestamp", func(ctx context.Context, _ access.Caller, _ Known) (api.Document, error) {
		return o.plane.Documents.Timestamp(ctx)
	})
	handle(o, "putGrant", func(ctx context.Context, c access.Caller, in *body[api.Document]) (api.Document, error) {
		return o.plane.Documents.PutGrant(ctx, c, in.Body)
	})
	handle(o, "putTimestamp", func(ctx context.Context, c access.Caller, in *body[api.Document]) (api.Document, error) {
		return o.plane.Documents.PutTimestamp(ctx, c, in.Body)
	})
}

type releasesIn struct {
	fleet.PageRequest
	fleet.ReleaseFilter
}

// ReleaseRef is the part of an input that names a release.
type ReleaseRef struct {
	Digest string `path:"digest" doc:"Digest of the release"`
}

type releaseIn struct {
	Known
	ReleaseRef
}

type lineIn struct {
	Known
	Line string `path:"line" maxLength:"63" doc:"Name of the line"`
}

type diffIn struct {
	Digest string `path:"digest" doc:"The release to compare with"`
	Other  string `path:"other" doc:"The other release"`
}

func (o *operators) releaseOperations() {
	handle(o, "listReleases", func(ctx context.Context, c access.Caller, in *releasesIn) (api.Page[fleet.Release], error) {
		return o.plane.Releases(ctx, c, in.ReleaseFilter, in.PageRequest)
	})
	handle(o, "createRelease", func(ctx context.Context, c access.Caller, in *newRelease) (fleet.Release, error) {
		return o.plane.CreateRelease(ctx, c, in.in)
	}, func(op *huma.Operation) { op.BodyReadTimeout = releaseTimeout })
	describeBody[api.ReleaseRequest](o, o.huma.OpenAPI().Paths["/api/v1/releases"].Post)
	one(o, "getRelease", func(ctx context.Context, c access.Caller, in releaseIn) (api.ReleaseDetail, error) {
		d, err := fleet.ParseDigest(in.Digest)
		if err != nil {
			return api.ReleaseDetail{}, err
		}
		return o.plane.Release(ctx, c, d)
	})
	handle(o, "diffReleases", func(ctx context.Context, c access.Caller, in *diffIn) (fleet.ReleaseDiff, error) {
		from, err := fleet.ParseDigest(in.Digest)
		if err != nil {
			return fleet.ReleaseDiff{}, err
		}
		to, err := fleet.ParseDigest(in.Other)
		if err != nil {
			return fleet.ReleaseDiff{}, err
		}
		return o.plane.DiffReleases(ctx, c, from, to)
	})
	handle(o, "listLines", func(ctx context.Context, _ access.Caller, in *fleet.PageRequest) (api.Page[api.LineHead], error) {
		return o.plane.Lines(ctx, *in)
	})
	one(o, "getLine", func(ctx context.Context, _ access.Caller, in lineIn) (api.LineHead, error) {
		return o.plane.Line(ctx, fleet.Line(in.Line))
	})
	handle(o, "deleteRelease", func(ctx context.Context, c access.Caller, in *ReleaseRef) (fleet.Release, error) {
		d, err := fleet.ParseDigest(in.Digest)
		if err != nil {
			return fleet.Release{}, err
		}
		return o.plane.DeleteRelease(ctx, c, d)
	})
}
