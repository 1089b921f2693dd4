// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// ScheduleRef is the part of an input that names a schedule.
type ScheduleRef struct {
	Name string `path:"name" maxLength:"40" doc:"Name of the schedule"`
}

type putScheduleIn struct {
	ScheduleRef
	Body api.ScheduleRequest
}

func (o *operators) scheduleOperations() {
	handle(o, "putSchedule", func(ctx context.Context, c access.Caller, in *putScheduleIn) (fleet.Schedule, error) {
		return o.plane.PutSchedule(ctx, c, in.Name, in.Body)
	})
	handle(o, "listSchedules", func(_ context.Context, _ access.Caller, _ *none) ([]fleet.Schedule, error) {
		return o.plane.Schedules(), nil
	})
	handle(o, "deleteSchedule", func(ctx context.Context, c access.Caller, in *ScheduleRef) (fleet.Schedule, error) {
		if err := ruleName("schedule", in.Name); err != nil {
			return fleet.Schedule{}, err
		}
		return o.plane.DeleteSchedule(ctx, c, in.Name)
	})
}
