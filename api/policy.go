// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// PolicyRequest saves a rollout policy.
type PolicyRequest struct {
	Spec fleet.RolloutSpec `json:"spec"` // without a release
	// Replace puts it in the place of another policy of its name. Rollouts that
	// were made from that one stay as they are.
	Replace bool `json:"replace,omitempty"`
}

const policiesPath = "/api/v1/policies"

// Policies lists rollout policies by name.
func (c *Client) Policies(ctx context.Context) ([]fleet.RolloutPolicy, error) {
	return list[fleet.RolloutPolicy](ctx, c, policiesPath)
}

// Policy returns a rollout policy.
func (c *Client) Policy(ctx context.Context, name string) (fleet.RolloutPolicy, error) {
	return get[fleet.RolloutPolicy](ctx, c, policiesPath+"/"+id(name), nil)
}

// PutPolicy saves a rollout policy.
func (c *Client) PutPolicy(ctx context.Context, name string, req PolicyRequest) (fleet.RolloutPolicy, error) {
	return send[fleet.RolloutPolicy](ctx, c, http.MethodPut, policiesPath+"/"+id(name), req)
}

// DeletePolicy forgets a rollout policy. Rollouts that were made from it stay.
func (c *Client) DeletePolicy(ctx context.Context, name string) (fleet.RolloutPolicy, error) {
	return send[fleet.RolloutPolicy](ctx, c, http.MethodDelete, policiesPath+"/"+id(name), nil)
}
