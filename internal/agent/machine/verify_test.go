// SPDX-License-Identifier: MIT

package machine

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/check"
	"github.com/arcanesys/nixfleet/internal/config"
)

// service is a check of something that is up at some times after the switch.
func service(name string, up func(time.Duration) bool) (fleet.HealthCheck, func(time.Duration) bool) {
	return fleet.HealthCheck{Name: name, Kind: fleet.HealthCheckTCP, IntervalSeconds: 1, TimeoutSeconds: 1, Retries: 2, Successes: 1, StartPeriodSeconds: 5, Required: true}, up
}

// verifyIn runs a verification of services in a bubble, and returns how it
// ended and when.
func verifyIn(t *testing.T, minHealthy time.Duration, runs func(time.Duration) bool, add func(func(fleet.HealthCheck, func(time.Duration) bool))) (in states.Input, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r := &check.Runner{Begin: begin}
		up := map[string]func(time.Duration) bool{}
		add(func(c fleet.HealthCheck, f func(time.Duration) bool) {
			r.Checks = append(r.Checks, c)
			up[c.Name] = f
		})
		r.Probe = func(_ context.Context, c fleet.HealthCheck) (bool, string) {
			if up[c.Name](time.Since(begin)) {
				return true, "up"
			}
			return false, "down"
		}
		v := verification{runner: r, minHealthy: minHealthy, limit: time.Minute, results: make(chan []fleet.HealthCheckResult, 1), runs: func() bool { return runs(time.Since(begin)) }}
		r.OnChange = v.offer
		in = v.run(t.Context())
		took = time.Since(begin)
	})
	return in, took
}

func always(time.Duration) bool { return true }

func TestVerification_IsHealthyAfterEnoughTimeWithoutAFailure(t *testing.T) {
	in, took := verifyIn(t, 10*time.Second, always, func(add func(fleet.HealthCheck, func(time.Duration) bool)) {
		add(service("app", func(d time.Duration) bool { return d > 3500*time.Millisecond })) // A08: slow, within its start period
		add(service("web", always))
	})
	if _, ok := in.(states.Healthy); !ok || took != 14*time.Second {
		t.Errorf("%+v after %s, want healthy after 4 s and 10 s", in, took)
	}
}

// A forgiven failure causes no rollback, but the time starts again.
func TestVerification_StartsAgainAfterAForgivenFailure(t *testing.T) {
	in, took := verifyIn(t, 10*time.Second, always, func(add func(fleet.HealthCheck, func(time.Duration) bool)) {
		add(service("app", func(d time.Duration) bool { return d < 6500*time.Millisecond || d > 8500*time.Millisecond }))
	})
	if _, ok := in.(states.Healthy); !ok || took != 19*time.Second {
		t.Errorf("%+v after %s, want healthy after 9 s and 10 s", in, took)
	}
}

func TestVerification_FailsWithTheCheckAndWhatItSaw(t *testing.T) {
	in, took := verifyIn(t, 10*time.Second, always, func(add func(fleet.HealthCheck, func(time.Duration) bool)) {
		add(service("web", always))
		add(service("app", func(d time.Duration) bool { return d < 500*time.Millisecond }))
		lame, never := service("lame", func(time.Duration) bool { return false })
		lame.Required = false
		add(lame, never)
	})
	u, ok := in.(states.Unhealthy)
	if !ok || u.Reason != fleet.ReasonCheckFailed || u.Message != "check app is failing: down" || took != 3*time.Second {
		t.Errorf("%+v after %s", in, took)
	}
}

// A service that dies within the interval of its check is not missed: all checks
// run once more at the end.
func TestVerification_ChecksOnceMoreBeforeItIsHealthy(t *testing.T) {
	in, _ := verifyIn(t, 2*time.Second, always, func(add func(fleet.HealthCheck, func(time.Duration) bool)) {
		c, up := service("app", func(d time.Duration) bool { return d < time.Second })
		c.IntervalSeconds = 30
		add(c, up)
	})
	if u, ok := in.(states.Unhealthy); !ok || u.Reason != fleet.ReasonCheckFailed && u.Reason != fleet.ReasonCheckTimeout {
		t.Errorf("%+v, want unhealthy", in)
	}
}

func TestVerification_EndsAtItsLimitAndAfterALocalSwitch(t *testing.T) {
	blink := func(d time.Duration) bool { return int(d.Seconds())%3 != 0 }
	in, took := verifyIn(t, 10*time.Second, always, func(add func(fleet.HealthCheck, func(time.Duration) bool)) { add(service("app", blink)) })
	if u, ok := in.(states.Unhealthy); !ok || u.Reason != fleet.ReasonCheckTimeout || took != time.Minute {
		t.Errorf("%+v after %s", in, took)
	}
	in, _ = verifyIn(t, 10*time.Second, func(d time.Duration) bool { return d < 5*time.Second }, func(add func(fleet.HealthCheck, func(time.Duration) bool)) { add(service("app", always)) })
	if f, ok := in.(states.Failed); !ok || f.Reason != fleet.ReasonChangedLocally {
		t.Errorf("%+v, want changed-locally", in)
	}
}

// H05: a system that declares no required check gets a minimal one.
func TestHealthChecks_AreNeverNone(t *testing.T) {
	no := false
	for _, c := range []config.Agent{{}, {Checks: map[string]config.AgentCheck{"x": {Kind: fleet.HealthCheckTCP, Address: "127.0.0.1:1", Required: &no}}}} {
		checks := healthChecks(c)
		last := checks[len(checks)-1]
		if !last.Required || last.Validate() != nil {
			t.Errorf("checks = %+v", checks)
		}
	}
}

// E05: an order, which is not signed, cannot shorten the checks to nothing.
func TestMinHealthy_IsAtLeastAnIntervalOfEachRequiredCheck(t *testing.T) {
	checks := []fleet.HealthCheck{{IntervalSeconds: 3, Required: true}, {IntervalSeconds: 8}}
	if d := minHealthy(0, checks); d != 3*time.Second {
		t.Errorf("minHealthy = %s", d)
	}
	if d := minHealthy(60_000, checks); d != time.Minute {
		t.Errorf("minHealthy = %s", d)
	}
}

func TestDescribe_NamesWhatDoesNotPass(t *testing.T) {
	got := describe([]fleet.HealthCheckResult{{Name: "a", Status: fleet.HealthCheckPassing, Required: true}, {Name: "b", Status: fleet.HealthCheckPending, Required: true, Observed: "x"}, {Name: "c", Status: fleet.HealthCheckFailing}})
	if got != "check b is pending: x" || strings.Contains(got, "c") && !strings.Contains(got, "check") {
		t.Errorf("got %q", got)
	}
}
