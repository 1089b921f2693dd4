// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// begun are the names of the releases whose rollouts a schedule began, in order.
func (w *world) begun(name map[fleet.Digest]string) string {
	w.tb.Helper()
	var list []string
	for _, r := range must[api.Page[fleet.Rollout]](w.tb)(w.plane().Rollouts(w.tb.Context(), alice, fleet.RolloutFilter{}, fleet.PageRequest{})).Items {
		if r.Spec.Name != "hourly" || r.Spec.Policy != "fast" || r.CreatedBy != "key:alice" {
			w.tb.Errorf("began %+v", r)
		}
		list = append(list, name[r.Spec.Release])
	}
	slices.Reverse(list)
	return strings.Join(list, " ")
}

// sleepUntil rests until the control plane's clock shows a time of day.
func (w *world) sleepUntil(clock string) {
	w.tb.Helper()
	now := w.now().UTC()
	at := must[time.Time](w.tb)(time.Parse("2006-01-02 15:04", now.Format("2006-01-02 ")+clock))
	rest(at.Sub(now))
}

// A schedule begins a rollout of what is then the newest release, once for each
// beginning: late within its tolerance if the control plane was down, never twice,
// also when the clock is set back (H15, H20). What it leaves out it says.
func TestSchedules_BeginEachRolloutOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.fleetOf("web-01", "web-02")
		agents, stop := w.agents("web-01", "web-02")
		defer stop()
		hourly := api.ScheduleRequest{Cron: "0 * * * *", Policy: "fast", ToleranceMs: 600_000}
		_, err := w.plane().PutSchedule(t.Context(), alice, "hourly", hourly)
		wantCode(t, err, fleet.NotFound) // no such policy
		must[fleet.RolloutPolicy](t)(w.plane().PutPolicy(t.Context(), alice, "fast", api.PolicyRequest{Spec: fleet.RolloutSpec{Strategy: fleet.AllAtOnce, MinHealthyMs: 2000, HealthyDeadlineMs: 120_000}}))
		_, err = w.plane().PutSchedule(t.Context(), alice, "hourly", api.ScheduleRequest{Cron: "0 * * *", Policy: "fast"})
		wantCode(t, err, fleet.Invalid)
		_, err = w.plane().PutSchedule(t.Context(), alice, "hourly", api.ScheduleRequest{Cron: "0 0 30 2 *", Policy: "fast"})
		wantCode(t, err, fleet.Invalid)
		if s := must[fleet.Schedule](t)(w.plane().PutSchedule(t.Context(), alice, "hourly", hourly)); s.NextAt != w.now().Truncate(time.Hour).Add(time.Hour).UnixMilli() {
			t.Errorf("next at %d", s.NextAt)
		}
		_, err = w.plane().PutSchedule(t.Context(), alice, "hourly", api.ScheduleRequest{Cron: "1 * * * *", Policy: "fast"})
		wantCode(t, err, fleet.Conflict)
		_, err = w.plane().DeletePolicy(t.Context(), alice, "fast")
		wantCode(t, err, fleet.Conflict)

		name := map[fleet.Digest]string{}
		release := func(n string) fleet.Digest {
			d := w.register("web-01", "web-02")
			name[d] = n
			return d
		}
		check := func(at, rollouts, why string) {
			t.Helper()
			w.sleepUntil(at)
			s := w.plane().Schedules()[0]
			if got := w.begun(name); got != rollouts || !strings.Contains(s.LastWhy, why) || why == "" && s.LastWhy != "" || s.NextAt <= w.now().UnixMilli()-31*60_000 {
				t.Errorf("at %s: began %q, want %q; left out because %q, want %q; next at %d", at, got, rollouts, s.LastWhy, why, s.NextAt)
			}
		}
		check("01:05", "", "line main has had no release")
		release("one")
		check("01:59", "", "line main has had no release")
		check("02:01", "one", "")
		check("03:01", "one", "all of its machines run the newest release")
		release("two")
		w.sleepUntil("03:50")
		w.stop()
		rest(15 * time.Minute)
		w.start()
		check("04:06", "one two", "")
		w.restart()
		check("04:08", "one two", "")
		release("three")
		w.sleepUntil("04:50")
		w.stop()
		rest(30 * time.Minute)
		w.start()
		check("05:21", "one two", "not running until more than 10m0s later")
		check("06:01", "one two three", "")
		release("four")
		w.advance(-30 * time.Minute)
		check("06:05", "one two three", "")
		check("07:01", "one two three four", "")

		bad := release("five")
		for _, a := range agents {
			a.mu.Lock()
			a.bad[bad] = true
			a.mu.Unlock()
		}
		check("08:10", "one two three four five", "")
		check("09:01", "one two three four five", "is at work on web-01")
		last := w.plane().Schedules()[0].LastRollout
		must[api.RolloutDetail](t)(w.plane().RolloutVerb(t.Context(), alice, last, api.VerbCancel, api.VerbRequest{}))
		check("10:01", "one two three four five", "is cancelled; a person has to roll it out")
		release("six")
		check("11:01", "one two three four five six", "")
		must[fleet.Schedule](t)(w.plane().DeleteSchedule(t.Context(), alice, "hourly"))
		release("seven")
		rest(2 * time.Hour)
		if got := w.begun(name); got != "one two three four five six" {
			t.Errorf("after its deletion: %s", got)
		}
		if got := w.actions("schedule."); strings.Count(got, "schedule.run") != 6 || strings.Count(got, "schedule.skip") != 5 || !strings.Contains(got, "key:alice schedule.put") || !strings.Contains(got, "key:alice schedule.delete") {
			t.Errorf("audited: %s", got)
		}
	})
}
