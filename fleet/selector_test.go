// SPDX-License-Identifier: MIT

package fleet_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestSelector_PicksNamesPatternsTagsAndLeavesOut(t *testing.T) {
	machines := map[fleet.MachineID][]fleet.Tag{
		"web-01": {"prod", "web"}, "web-02": {"web"}, "web-10": nil, "db-01": {"prod"},
	}
	for _, tt := range []struct{ terms, want string }{
		{"", "db-01 web-01 web-02 web-10"},
		{"web-01", "web-01"},
		{"web-*", "web-01 web-02 web-10"},
		{"web-0?", "web-01 web-02"},
		{"@prod", "db-01 web-01"},
		{"@prod,web-10", "db-01 web-01 web-10"},
		{"!@web", "db-01 web-10"},
		{"web-*,!web-02", "web-01 web-10"},
		{"!web-02,web-*", "web-01 web-10"},
		{"web-01,!web-01", ""},
	} {
		s, err := fleet.ParseSelector(splitTerms(tt.terms))
		if err != nil {
			t.Fatalf("%q: %v", tt.terms, err)
		}
		var got []string
		for id, tags := range machines {
			if s.Match(id, tags) {
				got = append(got, string(id))
			}
		}
		slices.Sort(got)
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%q picks %q, want %q", tt.terms, g, tt.want)
		}
		for i, term := range s {
			if text := splitTerms(tt.terms)[i]; term.String() != text {
				t.Errorf("term %q prints as %q", text, term)
			}
		}
	}
}

// O03: a typo is told before anything is built or started.
func TestSelector_NamesTheTermThatMatchesNothing(t *testing.T) {
	machines := map[fleet.MachineID][]fleet.Tag{"web-01": {"web"}}
	for terms, want := range map[string]string{"web-*,@web": "", "web-*,@wep": "@wep", "web-01,!db-*": "!db-*", "": ""} {
		s, err := fleet.ParseSelector(splitTerms(terms))
		if err != nil {
			t.Fatal(err)
		}
		term, bad := s.Unmatched(maps.All(machines))
		if bad != (want != "") || bad && term.String() != want {
			t.Errorf("%q: unmatched %q %v, want %q", terms, term, bad, want)
		}
	}
}

func TestParseSelector_RefusesWhatCannotBeATerm(t *testing.T) {
	for _, bad := range []string{"", "!", "@", "!@", "!!web", "@we b", "web-[", "web_1", "Web", "a/b", "web 1", strings.Repeat("a", 256)} {
		if _, err := fleet.ParseSelector([]string{bad}); fleet.ErrorCode(err) != fleet.Invalid || fleet.ErrorHint(err) == "" {
			t.Errorf("%q: %v, want an Invalid error with a hint", bad, err)
		}
	}
}

func splitTerms(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
