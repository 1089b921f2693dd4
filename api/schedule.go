// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"net/http"

	"github.com/arcanesys/nixfleet/fleet"
)

// ScheduleRequest saves a schedule.
type ScheduleRequest struct {
	Cron        string     `json:"cron"` // five cron fields and a time zone
	Policy      string     `json:"policy"`
	Line        fleet.Line `json:"line,omitempty"`        // main if empty
	ToleranceMs int64      `json:"toleranceMs,omitempty"` // 0: an hour
	// Replace puts it in the place of another schedule of its name.
	Replace bool `json:"replace,omitempty"`
}

const schedulesPath = "/api/v1/schedules"

// Schedules lists schedules by name.
func (c *Client) Schedules(ctx context.Context) ([]fleet.Schedule, error) {
	return list[fleet.Schedule](ctx, c, schedulesPath)
}

// PutSchedule saves a schedule.
func (c *Client) PutSchedule(ctx context.Context, name string, req ScheduleRequest) (fleet.Schedule, error) {
	return send[fleet.Schedule](ctx, c, http.MethodPut, schedulesPath+"/"+id(name), req)
}

// DeleteSchedule forgets a schedule. Rollouts that it began go on.
func (c *Client) DeleteSchedule(ctx context.Context, name string) (fleet.Schedule, error) {
	return send[fleet.Schedule](ctx, c, http.MethodDelete, schedulesPath+"/"+id(name), nil)
}
