// SPDX-License-Identifier: MIT

package fleet_test

import (
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestIDs_AreValidOrNot(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for _, tc := range []struct {
		what      string
		valid     func(string) bool
		good, bad []string
	}{
		{
			"machine id", func(s string) bool { return fleet.MachineID(s).Valid() },
			[]string{"a", "web-01", "0", "1-2", long(63)},
			[]string{"", "-a", "a-", "A", "a_b", "a.b", "a b", "é", "a\n", "../a", long(64)},
		},
		{
			"line", func(s string) bool { return fleet.Line(s).Valid() },
			[]string{"main", "staging-2"}, []string{"", "Main", "a/b"},
		},
		{
			"tag", func(s string) bool { return fleet.Tag(s).Valid() },
			[]string{"web", "Site/Paris", "k:v", "1.2", "a_-", long(63)},
			[]string{"", "-a", "/a", "@a", "a b", "a,b", "ä", "a\x00", long(64)},
		},
		{
			"digest", func(s string) bool { return fleet.Digest(s).Valid() },
			[]string{"sha256:" + strings.Repeat("0a", 32)},
			[]string{"", "sha256:", strings.Repeat("0a", 32), "sha256:" + strings.Repeat("0A", 32), "sha256:" + strings.Repeat("0g", 32), "sha512:" + strings.Repeat("0a", 32), "sha256:" + strings.Repeat("0a", 33)},
		},
		{
			"nar hash", func(s string) bool { return fleet.NarHash(s).Valid() },
			[]string{"sha256:" + strings.Repeat("z", 52)},
			[]string{"", "sha256:" + strings.Repeat("e", 52), "sha256:" + strings.Repeat("z", 51), strings.Repeat("z", 52)},
		},
		{
			"fleet id", fleet.ValidFleetID,
			[]string{"example.org", "A_b-1", long(63)}, []string{"", "a b", "a/b", "a\n", long(64)},
		},
		{
			"rollout id", func(s string) bool { return fleet.RolloutID(s).Valid() },
			[]string{"01JDABC", "r1", "a-b", long(64)}, []string{"", "a/b", "..", "a_b", "a b", long(65)},
		},
		{
			"system", func(s string) bool { return fleet.System(s).Valid() },
			[]string{"x86_64-linux", "aarch64-linux", "x86_64-darwin", "aarch64-darwin"}, []string{"", "linux", "riscv64-linux", "x86_64-linux "},
		},
	} {
		for _, s := range tc.good {
			if !tc.valid(s) {
				t.Errorf("%s %q is not valid", tc.what, s)
			}
		}
		for _, s := range tc.bad {
			if tc.valid(s) {
				t.Errorf("%s %q is valid", tc.what, s)
			}
		}
	}
}

// E06: what is not exactly a path in the store never passes for one.
func TestStorePath_IsDirectlyInTheStore(t *testing.T) {
	const hash = "0123456789abcdfghijklmnpqrsvwxyz"
	for s, want := range map[string]bool{
		"/nix/store/" + hash + "-system":                      true,
		"/nix/store/" + hash + "-a+b-c._d?e=f":                true,
		"/nix/store/" + hash + "-" + strings.Repeat("n", 211): true,
		"/nix/store/" + hash + "-" + strings.Repeat("n", 212): false,
		"":                                              false,
		"/nix/store":                                    false,
		"/nix/store/":                                   false,
		"/nix/store/" + hash:                            false,
		"/nix/store/" + hash + "-":                      false,
		"/nix/store/" + hash + "-a/":                    false,
		"/nix/store/" + hash + "-a/bin":                 false,
		"/nix/store/" + hash + "-a/../../etc":           false,
		"/nix/store/" + hash + "-.":                     false,
		"/nix/store/" + hash + "-..":                    false,
		"/nix/store/" + hash + "-.hidden":               false,
		"/nix/store/" + hash + "-a b":                   false,
		"/nix/store/" + hash + "-a\n":                   false,
		"/nix/store/" + hash + "-a\x00":                 false,
		"/nix/store/" + hash + "-é":                     false,
		"/nix/store//" + hash + "-a":                    false,
		"/nix/store/../store/" + hash + "-a":            false,
		"nix/store/" + hash + "-a":                      false,
		"/tmp/store/" + hash + "-a":                     false,
		"/nix/store/" + strings.ToUpper(hash) + "-a":    false,
		"/nix/store/" + strings.Repeat("e", 32) + "-a":  false, // e, o, u and t are not in the alphabet
		"/nix/store/" + strings.Repeat("0", 31) + "-aa": false,
		"/nix/store/" + strings.Repeat("0", 33) + "-a":  false,
		" /nix/store/" + hash + "-a":                    false,
		"/nix/store/.links/" + hash:                     false,
		"/nix/store/" + hash + "-a;reboot":              false,
		"/nix/store/" + hash + "-system.drv":            true, // a path, though no system
	} {
		if got := fleet.StorePath(s).Valid(); got != want {
			t.Errorf("%q: valid %t, want %t", s, got, want)
		}
		if _, err := fleet.ParseStorePath(s); (err == nil) != want || err != nil && len(err.Error()) > 600 {
			t.Errorf("%q: parse says %v", s, err)
		}
	}
}

// What an error quotes of bad input is bounded.
func TestParse_ErrorsAreShortAndHaveACode(t *testing.T) {
	huge := strings.Repeat("\xff", 1<<20)
	for _, parse := range []func() error{
		func() error { _, err := fleet.ParseMachineID(huge); return err },
		func() error { _, err := fleet.ParseDigest(huge); return err },
		func() error { _, err := fleet.ParseStorePath(huge); return err },
		func() error { _, err := fleet.ParseAmount(huge); return err },
		func() error { _, err := fleet.ParseSelector([]string{huge}); return err },
		func() error { return fleet.ValidateTags([]fleet.Tag{fleet.Tag(huge)}) },
		func() error { return fleet.Lifecycle("active").CheckMove(fleet.Lifecycle(huge)) },
	} {
		if err := parse(); fleet.ErrorCode(err) != fleet.Invalid || len(err.Error()) > 1500 {
			t.Errorf("error has code %s and %d bytes", fleet.ErrorCode(err), len(err.Error()))
		}
	}
}

// The whole table: every move that is not listed is refused, with what can be
// done instead.
func TestLifecycle_MovesAsItMay(t *testing.T) {
	all := []fleet.Lifecycle{fleet.Pending, fleet.Provisioning, fleet.Active, fleet.Maintenance, fleet.Decommissioned}
	may := map[fleet.Lifecycle]string{
		fleet.Pending: "provisioning active decommissioned", fleet.Provisioning: "active pending decommissioned",
		fleet.Active: "maintenance decommissioned", fleet.Maintenance: "active decommissioned", fleet.Decommissioned: "pending",
	}
	for _, from := range all {
		for _, to := range all {
			want := from == to || strings.Contains(" "+may[from]+" ", " "+string(to)+" ")
			err := from.CheckMove(to)
			if want != (err == nil) || err != nil && (fleet.ErrorCode(err) != fleet.Conflict || fleet.ErrorHint(err) == "") {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
		if err := from.CheckMove("asleep"); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%s to asleep: %v", from, err)
		}
	}
}
