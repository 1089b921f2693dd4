// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// A receiver that fails is left alone for longer and longer, or as long as it asks
// for. A message that it never takes waits by itself, and is dead after a day.
func TestOutcome_WaitsByFailures(t *testing.T) {
	r, now := Retry{}.orDefault(), int64(1_800_000_000_000)
	fresh := fleet.WebhookDelivery{Queued: now}
	within := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want*4/5 || got > want*6/5 {
			t.Errorf("%s: waits %s, want about %s", what, got, want)
		}
	}
	for failures, want := range []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second, 15 * time.Minute, 15 * time.Minute} {
		_, n, pause := r.outcome(failures, fresh, errors.New("refused"), now)
		if within("in a row", pause, want); n != failures+1 {
			t.Errorf("%d failures are %d with one more", failures, n)
		}
	}
	old := fleet.WebhookDelivery{Queued: now - 3_600_000, Attempts: 20}
	d, _, pause := r.outcome(0, old, &refusal{status: 400, why: "no"}, now)
	within("the receiver after a message that it never takes", pause, 5*time.Second)
	within("that message", time.Duration(d.Next-now)*time.Millisecond, 15*time.Minute)
	if d.Attempts != 21 || d.Dead || d.Error != "no" {
		t.Errorf("it is %+v", d)
	}
	if _, n, pause := r.outcome(7, old, nil, now); n != 0 || pause != 0 {
		t.Errorf("after a message that was taken: %d failures, %s", n, pause)
	}
	for after, want := range map[time.Duration]time.Duration{time.Second: 5 * time.Second, 2 * time.Minute: 2 * time.Minute, 24 * time.Hour: 15 * time.Minute} {
		d, _, pause := r.outcome(0, fresh, &refusal{status: 503, after: after}, now)
		within("the receiver that asks for "+after.String(), pause, want)
		within("its message", time.Duration(d.Next-now)*time.Millisecond, want)
	}
	for what, c := range map[string]struct {
		d      fleet.WebhookDelivery
		status int
		dead   bool
	}{
		"for less than a day": {fleet.WebhookDelivery{Queued: now - 86_399_000}, 500, false}, "for a day": {fleet.WebhookDelivery{Queued: now - 86_400_000}, 500, true},
		"gone": {fresh, http.StatusGone, true},
	} {
		if d, _, _ := r.outcome(0, c.d, &refusal{status: c.status}, now); d.Dead != c.dead || d.Dead && d.Next != now {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

// H20: a clock that steps back, by more than any wait, delays no message until it is
// there again.
func TestUntil_BearsAClockThatStepsBack(t *testing.T) {
	r := Retry{}.orDefault()
	for ms, want := range map[int64]time.Duration{-1: -time.Millisecond, 0: 0, 900_000: 15 * time.Minute, 1_080_000: 18 * time.Minute, 7_200_000: 0} {
		if got := r.until(1_800_000_000_000+ms, 1_800_000_000_000); got != want {
			t.Errorf("%d ms ahead: %s, want %s", ms, got, want)
		}
	}
}

func TestRetryAfter_IsSecondsOrADate(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999999999": 0, "1.5": 0,
		now.Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).UTC().Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}
