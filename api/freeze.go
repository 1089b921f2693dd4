// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// FreezeRequest freezes the fleet.
type FreezeRequest struct {
	Reason string `json:"reason"`
	Until  int64  `json:"until,omitempty"` // it ends by itself then, Unix milliseconds; 0: when an operator ends it
}

const freezePath = "/api/v1/freeze"

// Freeze returns what keeps the fleet from being ordered anything new; NotFound
// if nothing does.
func (c *Client) Freeze(ctx context.Context) (fleet.Freeze, error) {
	return get[fleet.Freeze](ctx, c, freezePath, nil)
}

// SetFreeze freezes the fleet: no machine is ordered anything new.
func (c *Client) SetFreeze(ctx context.Context, req FreezeRequest) (fleet.Freeze, error) {
	return put[fleet.Freeze](ctx, c, freezePath, req)
}

// EndFreeze ends the freeze, and returns it; NotFound if there is none.
func (c *Client) EndFreeze(ctx context.Context) (fleet.Freeze, error) {
	return send[fleet.Freeze](ctx, c, http.MethodDelete, freezePath, nil)
}
