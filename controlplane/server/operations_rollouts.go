// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
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
		fleet.PageRequest
		fleet.RolloutFilter
	}
	rolloutIn struct {
		Known
		RolloutRef
	}
	assignmentsIn struct {
		fleet.PageRequest
		RolloutRef
		fleet.AssignmentFilter
	}
	rolloutEventsIn struct {
		fleet.PageRequest
		RolloutRef
	}
	verbIn struct {
		RolloutRef
		Match
		Verb string `path:"verb" doc:"pause, resume, cancel, approve, retry, skip or revert"`
		Body *api.VerbRequest
	}
)

func (o *operators) rolloutOperations() {
	handle(o, "listRollouts", func(ctx context.Context, c access.Caller, in *rolloutsIn) (api.Page[fleet.Rollout], error) {
		return o.plane.Rollouts(ctx, c, in.RolloutFilter, in.PageRequest)
	})
	handle(o, "createRollout", func(ctx context.Context, c access.Caller, in *body[api.RolloutRequest]) (api.RolloutDetail, error) {
		return o.plane.CreateRollout(ctx, c, in.Body)
	})
	one(o, "getRollout", func(ctx context.Context, c access.Caller, in rolloutIn) (api.RolloutDetail, error) {
		id, err := in.rollout()
		if err != nil {
			return api.RolloutDetail{}, err
		}
		return o.plane.Rollout(ctx, c, id)
	})
	handle(o, "listAssignments", func(ctx context.Context, c access.Caller, in *assignmentsIn) (api.Page[fleet.Assignment], error) {
		id, err := in.rollout()
		if err != nil {
			return api.Page[fleet.Assignment]{}, err
		}
		return o.plane.Assignments(ctx, c, id, in.AssignmentFilter, in.PageRequest)
	})
	handle(o, "rolloutEvents", func(ctx context.Context, c access.Caller, in *rolloutEventsIn) (api.Page[api.Event], error) {
		id, err := in.rollout()
		if err != nil {
			return api.Page[api.Event]{}, err
		}
		return o.plane.RolloutEvents(ctx, c, id, in.PageRequest)
	})
	handle(o, "rolloutVerb", o.rolloutVerb)
	handle(o, "explainRollout", func(ctx context.Context, c access.Caller, in *RolloutRef) ([]api.Waiting, error) {
		id, err := in.rollout()
		if err != nil {
			return nil, err
		}
		return o.plane.Explain(ctx, c, id)
	})
	handle(o, "deleteRollout", func(ctx context.Context, c access.Caller, in *RolloutRef) (fleet.Rollout, error) {
		id, err := in.rollout()
		if err != nil {
			return fleet.Rollout{}, err
		}
		return o.plane.DeleteRollout(ctx, c, id)
	})
}

func (o *operators) rolloutVerb(ctx context.Context, c access.Caller, in *verbIn) (api.RolloutDetail, error) {
	id, err := in.rollout()
	if err != nil {
		return api.RolloutDetail{}, err
	}
	v := api.Verb(in.Verb)
	if !v.Valid() {
		return api.RolloutDetail{}, fleet.Errorf(fleet.NotFound, "%q is not a verb of rollouts", in.Verb).
			WithHint("one of pause, resume, cancel, approve, retry, skip, revert")
	}
	var req api.VerbRequest
	if in.Body != nil {
		req = *in.Body
	}
	if err = in.into(&req.IfVersion); err != nil {
		return api.RolloutDetail{}, err
	}
	return o.plane.RolloutVerb(ctx, c, id, v, req)
}
