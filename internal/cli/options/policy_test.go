// SPDX-License-Identifier: MIT

package options

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/fleet"
)

// parse reads a command line of nixfleet rollout create.
func parse(t *testing.T, words ...string) (*Rollout, *pflag.FlagSet) {
	t.Helper()
	var o Rollout
	f := pflag.NewFlagSet("create", pflag.ContinueOnError)
	o.Register(f)
	if err := f.Parse(words); err != nil {
		t.Fatal(err)
	}
	return &o, f
}

// An option that nobody taught to beat a policy would be read and then ignored.
func TestFillOver_KnowsEveryOption(t *testing.T) {
	_, f := parse(t)
	f.VisitAll(func(f *pflag.Flag) {
		if _, ok := given[f.Name]; !ok && f.Name != "release" && f.Name != "policy" {
			t.Errorf("--%s has no effect with --policy", f.Name)
		}
	})
}

func TestFillOver_GivenOptionsBeatThePolicy(t *testing.T) {
	saved, _ := parse(t, "--batches", "1,50%,100%", "--soak", "30m", "--gate", "errors", "--gate-deadline", "5m", "--on", "@web", "--approve", "--max-failures", "2")
	spec, err := saved.Fill()
	if err != nil {
		t.Fatal(err)
	}
	p := fleet.RolloutPolicy{Name: "careful", Spec: spec}
	over := func(words ...string) fleet.RolloutSpec {
		t.Helper()
		o, f := parse(t, words...)
		s, err := o.FillOver(p, f.Changed)
		if err != nil {
			t.Fatal(err)
		}
		s.Release = fleet.SHA256(nil)
		if err := s.Validate(); err != nil {
			t.Errorf("%v: %v", words, err)
		}
		s.Release = ""
		return s
	}
	if d := cmp.Diff(p.For("", ""), over()); d != "" {
		t.Errorf("no option is given, and the spec is not the policy's:\n%s", d)
	}
	s := over("--strategy", "canary", "--soak", "0s", "--gate=", "--approve=false", "--name", "n")
	if s.Batches != nil || s.SoakMs != 0 || len(s.Gates) != 0 || s.OnInconclusive != "" || s.Approve || s.Name != "n" || s.Policy != "careful" {
		t.Errorf("options do not beat the policy: %+v", s)
	}
	if s = over("--reboot-window", "0 3 * * * 1h"); s.Reboot != fleet.RebootWindow || len(s.RebootWindows) != 1 {
		t.Errorf("reboots: %+v", s)
	}
	if s = over("--reboot", "never"); s.Reboot != fleet.RebootNever || s.RebootWindows != nil {
		t.Errorf("reboots: %+v", s)
	}
	if s.MaxFailures.N != 2 || len(s.Select) != 1 {
		t.Errorf("what is not given is not the policy's: %+v", s)
	}
}
