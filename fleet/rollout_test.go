// SPDX-License-Identifier: MIT

package fleet_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/fleet"
)

// H14: what is an amount, and what is not.
func TestParseAmount(t *testing.T) {
	for _, good := range []string{"0", "1", "25", "200000", "0%", "1%", "100%"} {
		a, err := fleet.ParseAmount(good)
		if err != nil || a.String() != good {
			t.Errorf("%q: %v, %v", good, a, err)
		}
		b, err := json.Marshal(a)
		var back fleet.Amount
		if err != nil || json.Unmarshal(b, &back) != nil || back != a {
			t.Errorf("%q travels as %s and is read as %v", good, b, back)
		}
	}
	for _, bad := range []string{"", "%", "-1", "+1", "01", "1.5", "101%", "200001", "1%%", " 1", "1 %", "٣", "1e3", "0x1", "many", "99999999999999999999"} {
		if a, err := fleet.ParseAmount(bad); fleet.ErrorCode(err) != fleet.Invalid || fleet.ErrorHint(err) == "" {
			t.Errorf("%q: %v, %v", bad, a, err)
		}
	}
}

// H14: a share of machines is rounded up, so that a batch is never empty; what
// is tolerated is rounded down, so that it is never more than was allowed.
func TestAmount_RoundsTowardsCaution(t *testing.T) {
	for _, tc := range []struct {
		amount        string
		n             int
		of, tolerates int
	}{
		{"0", 6, 0, 0}, {"1", 6, 1, 1}, {"10", 6, 10, 10},
		{"0%", 6, 0, 0}, {"1%", 6, 1, 0}, {"50%", 6, 3, 3}, {"50%", 7, 4, 3}, {"100%", 6, 6, 6},
		{"10%", 9, 1, 0}, {"10%", 10, 1, 1}, {"10%", 11, 2, 1}, {"99%", 100, 99, 99}, {"34%", 3, 2, 1}, {"25%", 0, 0, 0},
		{"1%", 200000, 2000, 2000},
	} {
		a, err := fleet.ParseAmount(tc.amount)
		if err != nil {
			t.Fatal(err)
		}
		if of, tol := a.Of(tc.n), a.Tolerates(tc.n); of != tc.of || tol != tc.tolerates {
			t.Errorf("%s of %d: %d, tolerates %d; want %d, %d", tc.amount, tc.n, of, tol, tc.of, tc.tolerates)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a := fleet.Amount{N: rapid.IntRange(0, 100).Draw(t, "percent"), Percent: true}
		n := rapid.IntRange(0, fleet.MaxEntries).Draw(t, "n")
		of, tol := a.Of(n), a.Tolerates(n)
		if of*100 < n*a.N || (of-1)*100 >= n*a.N && of > 0 || tol*100 > n*a.N || (tol+1)*100 <= n*a.N || of > n || tol > of {
			t.Fatalf("%s of %d: %d, tolerates %d", a, n, of, tol)
		}
	})
}

// H14: all of it valid, or refused at creation with a message that names it.
func TestRolloutSpec_IsValidatedAtCreation(t *testing.T) {
	staged := func(batches string) func(*fleet.RolloutSpec) {
		return func(s *fleet.RolloutSpec) {
			s.Strategy = fleet.Staged
			for _, b := range strings.Split(batches, ",") {
				a, err := fleet.ParseAmount(b)
				if err != nil {
					t.Fatal(err)
				}
				s.Batches = append(s.Batches, a)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*fleet.RolloutSpec)
		want   string // of the error; "" for valid
	}{
		"defaults":           {func(*fleet.RolloutSpec) {}, ""},
		"soak 0":             {func(s *fleet.RolloutSpec) { s.SoakMs = 0 }, ""},
		"1,25%,100%":         {staged("1,25%,100%"), ""},
		"100%":               {staged("100%"), ""},
		"more than a fleet":  {staged("5000"), ""},
		"counts only":        {staged("1,1,1"), ""},
		"percent, count":     {staged("10%,5,100%"), ""},
		"tolerates 0":        {func(s *fleet.RolloutSpec) { s.MaxFailures = fleet.Amount{} }, ""},
		"tolerates all":      {func(s *fleet.RolloutSpec) { s.MaxFailures = fleet.Amount{N: 100, Percent: true} }, ""},
		"pinned canaries":    {func(s *fleet.RolloutSpec) { s.Canaries = []string{"web-01"} }, ""},
		"offline at once":    {func(s *fleet.RolloutSpec) { s.OfflineAfterMs = 0 }, ""},
		"no release":         {func(s *fleet.RolloutSpec) { s.Release = "" }, "release"},
		"no strategy":        {func(s *fleet.RolloutSpec) { s.Strategy = "" }, "strategy"},
		"staged, no batches": {func(s *fleet.RolloutSpec) { s.Strategy = fleet.Staged }, "needs batches"},
		"canary, batches":    {func(s *fleet.RolloutSpec) { s.Batches = []fleet.Amount{{N: 1}} }, "batches"},
		"staged, canaries": {func(s *fleet.RolloutSpec) {
			staged("1")(s)
			s.Canaries = []string{"web-01"}
		}, "canaries"},
		"batch of 0":         {staged("0,100%"), "batch 1"},
		"batch of 0%":        {staged("1,0%"), "batch 2"},
		"falling":            {staged("50%,25%"), "batch 2"},
		"the same again":     {staged("50%,50%"), "batch 2"},
		"after 100%":         {staged("100%,1"), "batch 2"},
		"too many":           {staged(strings.Repeat("1,", 1000) + "1"), "1000"},
		"on failure":         {func(s *fleet.RolloutSpec) { s.OnFailure = "panic" }, "onFailure"},
		"offline":            {func(s *fleet.RolloutSpec) { s.Offline = "hope" }, "offline"},
		"parallel":           {func(s *fleet.RolloutSpec) { s.MaxParallel = -1 }, "maxParallel"},
		"minHealthy 0":       {func(s *fleet.RolloutSpec) { s.MinHealthyMs = 0 }, "minHealthy"},
		"never in time":      {func(s *fleet.RolloutSpec) { s.MinHealthyMs = s.HealthyDeadlineMs }, "below healthyDeadline"},
		"deadline too short": {func(s *fleet.RolloutSpec) { s.HealthyDeadlineMs = 999 }, "healthyDeadline"},
		"soak below 0":       {func(s *fleet.RolloutSpec) { s.SoakMs = -1 }, "soak"},
		"soak for ever":      {func(s *fleet.RolloutSpec) { s.SoakMs = 1 << 60 }, "soak"},
		"straggler":          {func(s *fleet.RolloutSpec) { s.StragglerMs = -1 }, "straggler"},
		"progress":           {func(s *fleet.RolloutSpec) { s.ProgressDeadlineMs = -1 }, "progressDeadline"},
		"name":               {func(s *fleet.RolloutSpec) { s.Name = strings.Repeat("n", 121) }, "120 bytes"},
	} {
		s := fleet.RolloutSpec{Release: fleet.SHA256(nil)}.Defaults()
		tc.change(&s)
		err := s.Validate()
		if (tc.want == "") != (err == nil) || err != nil && (fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// The states of an assignment fall into exactly one count, and add up.
func TestCounts_HoldEveryStateOnce(t *testing.T) {
	states := []fleet.AssignmentState{
		fleet.AssignPending, fleet.AssignOffered, fleet.AssignFetching, fleet.AssignApplying, fleet.AssignAwaitingReboot, fleet.AssignVerifying,
		fleet.AssignHealthy, fleet.AssignHeld, fleet.AssignFailed, fleet.AssignRefused, fleet.AssignReverting, fleet.AssignReverted,
		fleet.AssignRevertFailed, fleet.AssignSkipped, fleet.AssignSuperseded,
	}
	var c fleet.Counts
	for i, s := range states {
		if !s.Valid() {
			t.Errorf("%s is not valid", s)
		}
		c.Add(s, 1)
		if sum := c.Pending + c.InFlight + c.Healthy + c.Failed + c.RollingBack + c.Skipped; sum != i+1 {
			t.Errorf("after %s the counts add up to %d, want %d", s, sum, i+1)
		}
		if s.Final() && s.InFlight() {
			t.Errorf("%s is final and in flight", s)
		}
	}
	if got, want := fmt.Sprint(c), "{2 5 1 4 1 2}"; got != want {
		t.Errorf("counts %s, want %s", got, want)
	}
	if fleet.AssignmentState("").Valid() || fleet.AssignmentState("other").Valid() {
		t.Error("an unknown state is valid")
	}
}
