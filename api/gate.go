// SPDX-License-Identifier: MIT

package api

import (
	"context"

	"github.com/arcanesys/nixfleet/fleet"
)

// Gate is a gate that rollouts can name. Where it is asked is in the control
// plane's configuration only.
type Gate struct {
	Name fleet.GateName `json:"name"`
	Kind string         `json:"kind"` // prometheus, webhook, compliance
}

// Gates lists the gates that rollouts can name.
func (c *Client) Gates(ctx context.Context) ([]Gate, error) {
	return list[Gate](ctx, c, "/api/v1/gates")
}
