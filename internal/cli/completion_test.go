// SPDX-License-Identifier: MIT

package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/complete"
	"github.com/arcanesys/nixfleet/internal/command"
)

// complete returns what a shell would offer, without the notes and cobra's
// last line.
func (u *user) complete(words ...string) []string {
	u.t.Helper()
	r := u.run(append([]string{"__complete"}, words...)...)
	var out []string
	for _, l := range strings.Split(strings.TrimSpace(r.out), "\n") {
		if word, _, _ := strings.Cut(l, "\t"); !strings.HasPrefix(l, ":") {
			out = append(out, word)
		}
	}
	return out
}

func TestCompletion_OffersNamesInUseAndClosedLists(t *testing.T) {
	p := newPlane(t)
	p.machines = []fleet.Machine{machine("db-01", "prod"), machine("web-01", "prod", "web"), machine("web-02", "web")}
	p.releases = []fleet.Release{release("ab12", "friday", 2), release("cd34", "", 1)}
	p.rollouts = []fleet.Rollout{{ID: "01JB", Spec: fleet.RolloutSpec{Name: "go live"}}, {ID: "01JA"}}
	u := newUser(t).of(p)
	for words, want := range map[string]string{
		"machine show |":                    "db-01 web-01 web-02",
		"machine show w|":                   "web-01 web-02",
		"--json machine show d|":            "db-01",
		"machine show web-01 |":             "",
		"machine set-lifecycle web-01 |":    "pending provisioning active maintenance decommissioned",
		"machine list --lifecycle ma|":      "pending provisioning active maintenance decommissioned", // shells select
		"release show |":                    "latest friday ab1200000000 cd3400000000",
		"release diff friday cd|":           "cd3400000000",
		"rollout create --release f|":       "friday",
		"rollout create --on web-01,|":      "web-01,db-01 web-01,web-02 web-01,@prod web-01,@web",
		"rollout create --on @|":            "@prod @web",
		"rollout create --on !d|":           "!db-01",
		"rollout create --canary web-01,w|": "web-01,web-02",
		"rollout create --strategy |":       "canary staged all-at-once",
		"rollout create --on-failure |":     "pause revert-batch revert-all",
		"rollout create --offline |":        "wait skip fail",
		"rollout skip --on |":               "db-01 web-01 web-02", // no tags: it takes machines
		"rollout show |":                    "01JB go live 01JA",
		"rollout pause 01JA |":              "",
		"key create --role |":               "auditor readonly deploy admin",
		"machine list |":                    "",
	} {
		line, _ := strings.CutSuffix(words, "|")
		if got := strings.Join(u.complete(strings.Split(line, " ")...), " "); got != want {
			t.Errorf("%s\n got %s\nwant %s", words, got, want)
		}
	}
	if got := u.complete("machine", ""); !strings.Contains(strings.Join(got, " "), "set-lifecycle") {
		t.Errorf("commands: %q", got)
	}
	if d := cmp.Diff([]string(nil), u.complete("trust", "show", "")); d != "" {
		t.Errorf("files are the shell's: %s", d)
	}
}

// Without an answer, completion prints nothing and does not make the shell wait.
func TestCompletion_IsSilentAndQuickWhenThereIsNoAnswer(t *testing.T) {
	p := newPlane(t)
	broken := map[string]*user{"no control plane": newUser(t), "no server": newUser(t), "no key": newUser(t).of(p), "broken settings": newUser(t).of(p), "refused": newUser(t).of(p)}
	broken["no control plane"].env["NIXFLEET_SERVER"], broken["no control plane"].env["NIXFLEET_API_KEY"] = "https://127.0.0.1:1", "nfk_x"
	broken["no key"].env["NIXFLEET_API_KEY"] = ""
	broken["broken settings"].env["NIXFLEET_CA"] = "missing.pem"
	p.fail = fleet.Errorf(fleet.Forbidden, "secret reason")
	for name, u := range broken {
		begin := time.Now()
		r := u.run("__complete", "machine", "show", "")
		if took := time.Since(begin); took > 2*complete.Time {
			t.Errorf("%s: took %s", name, took)
		}
		if r.code != command.ExitDone || strings.TrimSpace(r.out) != ":4" || strings.Contains(r.stderr, "nixfleet:") || strings.Contains(r.stderr, "secret") {
			t.Errorf("%s: code %d, stdout %q, stderr %q", name, r.code, r.out, r.stderr)
		}
	}
}
