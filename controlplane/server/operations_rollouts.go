// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/fleet"
)

// RolloutRef is the part of an input that names a rollout.
type RolloutRef struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the rollout"`
}

func (r RolloutRef) rollout() (fleet.RolloutID, error) {
	if id := fleet.RolloutID(r.ID); id.Valid() {
		return id, nil
	}
	return "", fleet.Errorf(fleet.Invalid, "%q is not the id of a rollout", r.ID).WithHint("nixfleet rollout list shows them")
}

type (
	rolloutsIn struct {
		Paging
		State   string `query:"state" doc:"Only rollouts in this state"`
		Release string `query:"release" doc:"Only rollouts of this release, by its digest"`
		Active  bool   `query:"active" doc:"Only rollouts that have not ended"`
	}
	rolloutIn struct {
		Known
		RolloutRef
	}
	assignmentsIn struct {
		Paging
		RolloutRef
		State string `query:"state" doc:"Only machines in this state"`
		Batch int    `query:"batch" minimum:"-1" default:"-1" doc:"Only machines of this batch, from 0; -1 for all"`
	}
	verbIn struct {
		RolloutRef
		Verb string `path:"verb" doc:"pause, resume, cancel, approve, retry, skip or revert"`
		Body *api.VerbRequest
	}
)

func (o *operators) rolloutOperations() {
	handle(o, "listRollouts", func(ctx context.Context, _ plane.Caller, in *rolloutsIn) (api.Page[fleet.Rollout], error) {
		q := plane.RolloutQuery{Cursor: in.Cursor, Limit: in.Limit, State: fleet.RolloutState(in.State), Release: fleet.Digest(in.Release)}
		if q.State != "" && !q.State.Valid() {
			return api.Page[fleet.Rollout]{}, fleet.Errorf(fleet.Invalid, "%q is not the state of a rollout", in.State)
		}
		return o.rollouts(ctx, q, in.Active)
	})
	handle(o, "createRollout", func(ctx context.Context, c plane.Caller, in *body[api.RolloutRequest]) (api.RolloutDetail, error) {
		return o.plane.CreateRollout(ctx, c, in.Body)
	})
	one(o, "getRollout", func(ctx context.Context, _ plane.Caller, in rolloutIn) (api.RolloutDetail, error) {
		id, err := in.rollout()
		if err != nil {
			return api.RolloutDetail{}, err
		}
		return o.plane.Rollout(ctx, id)
	})
	handle(o, "listAssignments", func(ctx context.Context, _ plane.Caller, in *assignmentsIn) (api.Page[fleet.Assignment], error) {
		id, err := in.rollout()
		if err != nil {
			return api.Page[fleet.Assignment]{}, err
		}
		q := plane.AssignmentQuery{Cursor: in.Cursor, Limit: in.Limit, State: fleet.AssignmentState(in.State)}
		if q.State != "" && !q.State.Valid() {
			return api.Page[fleet.Assignment]{}, fleet.Errorf(fleet.Invalid, "%q is not the state of a machine in a rollout", in.State)
		}
		if in.Batch >= 0 {
			q.Batch = &in.Batch
		}
		return o.plane.Assignments(ctx, id, q)
	})
	handle(o, "rolloutVerb", o.rolloutVerb)
	handle(o, "explainRollout", func(ctx context.Context, _ plane.Caller, in *RolloutRef) ([]api.Waiting, error) {
		id, err := in.rollout()
		if err != nil {
			return nil, err
		}
		return o.plane.Explain(ctx, id)
	})
	handle(o, "deleteRollout", func(ctx context.Context, c plane.Caller, in *RolloutRef) (fleet.Rollout, error) {
		id, err := in.rollout()
		if err != nil {
			return fleet.Rollout{}, err
		}
		return o.plane.DeleteRollout(ctx, c, id)
	})
}

func (o *operators) rolloutVerb(ctx context.Context, c plane.Caller, in *verbIn) (api.RolloutDetail, error) {
	id, err := in.rollout()
	if err != nil {
		return api.RolloutDetail{}, err
	}
	v := api.Verb(in.Verb)
	if !v.Valid() {
		return api.RolloutDetail{}, fleet.Errorf(fleet.NotFound, "%q is not something to do with a rollout", in.Verb).
			WithHint("one of pause, resume, cancel, approve, retry, skip, revert")
	}
	var req api.VerbRequest
	if in.Body != nil {
		req = *in.Body
	}
	return o.plane.RolloutVerb(ctx, c, id, v, req)
}

// rollouts is a page of rollouts; with active, of those that have not ended.
// Such a page may be shorter than asked while there are more.
func (o *operators) rollouts(ctx context.Context, q plane.RolloutQuery, active bool) (api.Page[fleet.Rollout], error) {
	for {
		p, err := o.plane.Rollouts(ctx, q)
		if err != nil || !active {
			return p, err
		}
		p.Items = slices.DeleteFunc(p.Items, func(r fleet.Rollout) bool { return r.State.Final() })
		if len(p.Items) > 0 || p.Next == "" {
			return p, nil
		}
		q.Cursor = p.Next
	}
}
