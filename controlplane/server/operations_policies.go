// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// PolicyRef is the part of an input that names a policy.
type PolicyRef struct {
	Name string `path:"name" maxLength:"40" doc:"Name of the policy"`
}

type putPolicyIn struct {
	PolicyRef
	Body api.PolicyRequest
}

// ruleName refuses what cannot be the name of a policy, schedule or budget.
func ruleName(kind, name string) error {
	if !fleet.GateName(name).Valid() {
		return fleet.Errorf(fleet.Invalid, "%q is not the name of a %s", name, kind).WithHint("lower case letters, digits and '-', up to 40")
	}
	return nil
}

func (o *operators) policyOperations() {
	handle(o, "putPolicy", func(ctx context.Context, c access.Caller, in *putPolicyIn) (fleet.RolloutPolicy, error) {
		return o.plane.PutPolicy(ctx, c, in.Name, in.Body)
	})
	handle(o, "listPolicies", func(ctx context.Context, _ access.Caller, _ *none) ([]fleet.RolloutPolicy, error) {
		return o.plane.Policies(ctx)
	})
	handle(o, "getPolicy", func(ctx context.Context, _ access.Caller, in *PolicyRef) (fleet.RolloutPolicy, error) {
		if err := ruleName("policy", in.Name); err != nil {
			return fleet.RolloutPolicy{}, err
		}
		return o.plane.Policy(ctx, in.Name)
	})
	handle(o, "deletePolicy", func(ctx context.Context, c access.Caller, in *PolicyRef) (fleet.RolloutPolicy, error) {
		if err := ruleName("policy", in.Name); err != nil {
			return fleet.RolloutPolicy{}, err
		}
		return o.plane.DeletePolicy(ctx, c, in.Name)
	})
}
