// SPDX-License-Identifier: MIT

package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

func TestRolloutCreate_SendsWhatWasTyped(t *testing.T) {
	p := newPlane(t)
	p.releases = []fleet.Release{release("ab12", "", 2), release("cd34", "old", 1)}
	five := fleet.Amount{N: 5, Percent: true}
	usual := fleet.RolloutSpec{Release: p.releases[0].Digest, Select: []string{}}.Defaults()
	for words, change := range map[string]func(*fleet.RolloutSpec){
		"": func(*fleet.RolloutSpec) {},
		"--release old --strategy all-at-once --on web-*,@prod --on !web-03": func(s *fleet.RolloutSpec) {
			s.Release, s.Strategy, s.Select = p.releases[1].Digest, fleet.AllAtOnce, []string{"web-*", "@prod", "!web-03"}
		},
		"--batches 1,25%,100%": func(s *fleet.RolloutSpec) { // implies staged
			s.Strategy, s.Batches = fleet.Staged, []fleet.Amount{{N: 1}, {N: 25, Percent: true}, {N: 100, Percent: true}}
		},
		"--canary web-01 --max-failures 10% --max-failures-total 5% --on-failure revert-all": func(s *fleet.RolloutSpec) {
			s.Canaries, s.MaxFailures, s.MaxFailuresTotal, s.OnFailure = []string{"web-01"}, fleet.Amount{N: 10, Percent: true}, &five, fleet.RevertAll
		},
		"--offline skip --offline-after 1h --soak 90s --min-healthy 1ms --healthy-deadline 1m --max-parallel 3 --approve-by-other": func(s *fleet.RolloutSpec) {
			s.Offline, s.OfflineAfterMs, s.SoakMs, s.MinHealthyMs, s.HealthyDeadlineMs = fleet.OfflineSkip, 3600e3, 90e3, 1, 60e3
			s.MaxParallel, s.Approve, s.ApproveByOther = 3, true, true
		},
	} {
		want := usual
		change(&want)
		newUser(t).of(p).mustRun(command.ExitDone, append([]string{"rollout", "create", "--dry-run"}, strings.Fields(words)...)...)
		if !p.asked.DryRun {
			t.Errorf("%q: --dry-run did not arrive (O01)", words)
		}
		if d := cmp.Diff(want, p.asked.Spec, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%q (-want +got):\n%s", words, d)
		}
	}
}

// H14: invalid options are refused before the control plane is called.
func TestRolloutCreate_RefusesInvalidOptions(t *testing.T) {
	p := newPlane(t)
	p.releases = []fleet.Release{release("ab12", "", 2)}
	u := newUser(t).of(p)
	for words, want := range map[string]string{
		"--max-failures 150%":                          "not an amount",
		"--max-failures -1":                            "not an amount",
		"--max-failures-total x":                       "not an amount",
		"--batches 0,50%":                              "empty",
		"--batches 50%,25%":                            "not above",
		"--strategy staged":                            "needs batches",
		"--strategy canary --batches 1":                "staged only",
		"--strategy everything":                        "not canary",
		"--strategy all-at-once --canary web-01":       "canaries",
		"--on-failure panic":                           "onFailure",
		"--offline hope":                               "offline",
		"--min-healthy 0":                              "--min-healthy 0s must be above 0",
		"--offline-after 0":                            "--offline-after",
		"--healthy-deadline -1s":                       "--healthy-deadline",
		"--min-healthy 1m --healthy-deadline 10s":      "must be below healthyDeadline",
		"--soak -1s":                                   "soak",
		"--max-parallel=-1":                            "maxParallel",
		"--name " + strings.Repeat("long", 40):         "120 bytes",
		"--release latest --progress-deadline=100000h": "progressDeadline",
	} {
		r := u.mustRun(command.ExitUsage, append([]string{"rollout", "create"}, strings.Fields(words)...)...)
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%s: stderr %q, want %q in it", words, r.stderr, want)
		}
	}
	if p.asked != nil {
		t.Errorf("the control plane was asked for %+v", p.asked)
	}
}

func TestRolloutArgument_IsAnIDItsBeginningANameOrNothing(t *testing.T) {
	p := newPlane(t)
	p.rollouts = []fleet.Rollout{
		{ID: "01JC", State: fleet.RolloutRunning}, {ID: "01JB2", Spec: fleet.RolloutSpec{Name: "friday"}}, {ID: "01JB"}, {ID: "01JA"},
	}
	u := newUser(t).of(p)
	for word, want := range map[string]string{"": "01JC", "01jc": "01JC", "01JA": "01JA", "friday": "01JB2", "01JB": "01JB"} {
		if r := u.mustRun(command.ExitDone, append([]string{"rollout", "show"}, strings.Fields(word)...)...); !strings.HasPrefix(r.out, want+" ") {
			t.Errorf("%q shows %q, want %s", word, r.out, want)
		}
	}
	for word, want := range map[string]string{"01J": "4 rollouts begin", "02": "no rollout is called"} {
		if r := u.mustRun(command.ExitError, "rollout", "show", word); !strings.Contains(r.stderr, want) {
			t.Errorf("%q: stderr %q", word, r.stderr)
		}
	}
}

func TestReleaseArgument_IsRefusedWhenItCouldBeSeveral(t *testing.T) {
	p := newPlane(t)
	p.releases = []fleet.Release{
		release("ab12ff", "", 5), release("ab12ee", "nightly", 4), release("cd34", "nightly", 3), release("ef56", "ab12", 2), release("0077", "one", 1),
	}
	u := newUser(t).of(p)
	for word, want := range map[string]string{
		"latest": "sha256:ab12ff", "ab12f": "sha256:ab12ff", "sha256:cd34": "sha256:cd34", "one": "sha256:0077",
		"ab12":                       "sha256:ef56", // a name, although two digests begin with it
		string(p.releases[2].Digest): "sha256:cd34",
	} {
		if r := u.mustRun(command.ExitDone, "release", "show", word); !strings.HasPrefix(r.out, want) {
			t.Errorf("%q shows %q, want %s", word, r.out, want)
		}
	}
	for word, want := range map[string]string{"nightly": "2 releases are called", "sha256:ab12": "2 releases begin", "cd3": "no release is called", "ffff": "no release is called"} {
		if r := u.mustRun(command.ExitError, "release", "show", word); !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, "hint") {
			t.Errorf("%q: stderr %q, want %q", word, r.stderr, want)
		}
	}
}

// Retrying a machine that was reverted says, after it is done, what cannot be done
// again (E04).
func TestRolloutRetry_SaysWhichMachinesAreNotRevertedAgain(t *testing.T) {
	p := newPlane(t)
	p.rollouts = []fleet.Rollout{{ID: "01r"}}
	p.assignments = []fleet.Assignment{
		{Machine: "web-01", State: fleet.AssignReverted}, {Machine: "web-02", State: fleet.AssignRolledBack}, {Machine: "web-03", State: fleet.AssignReverted},
	}
	for words, want := range map[string]string{"": "web-01, web-03: reverted", "--on web-03,web-02": "web-03: reverted", "--on web-02": ""} {
		r := newUser(t).of(p).mustRun(command.ExitDone, append([]string{"rollout", "retry", "01r"}, strings.Fields(words)...)...)
		if want == "" && r.stderr != "" || !strings.HasPrefix(r.stderr, want) {
			t.Errorf("retry %s: stderr is %q, want %q", words, r.stderr, want)
		}
	}
}
