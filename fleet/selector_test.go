// SPDX-License-Identifier: MIT

package fleet_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestSelect_TakesInAndLeavesOut(t *testing.T) {
	tags := map[string][]fleet.Tag{"web-01": {"web"}, "web-02": {"web", "old"}, "db-01": {"db"}}
	ids := []string{"db-01", "web-01", "web-02"}
	for _, tc := range []struct {
		name  string
		terms []string
		want  []string
		code  fleet.Code
	}{
		{"nothing said takes all", nil, ids, ""},
		{"id", []string{"db-01"}, []string{"db-01"}, ""},
		{"pattern", []string{"web-*"}, []string{"web-01", "web-02"}, ""},
		{"tag", []string{"@web"}, []string{"web-01", "web-02"}, ""},
		{"leave out only", []string{"!web-*"}, []string{"db-01"}, ""},
		{"order of terms does not matter", []string{"!@old", "@web"}, []string{"web-01"}, ""},
		{"all left out", []string{"web-01", "!web-01"}, nil, ""},
		{"typo is told (O03)", []string{"wbe-*"}, nil, fleet.NotFound},
		{"unknown tag is told", []string{"web-01", "@prod"}, nil, fleet.NotFound},
		{"leaving out what is not there is fine", []string{"!mon-01"}, ids, ""},
		{"bad pattern", []string{"web-["}, nil, fleet.Invalid},
		{"empty term", []string{""}, nil, fleet.Invalid},
		{"path", []string{"../x"}, nil, fleet.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := fleet.Select(tc.terms, ids, func(id string) (fleet.MachineID, []fleet.Tag) { return fleet.MachineID(id), tags[id] })
			if fleet.ErrorCode(err) != tc.code {
				t.Fatalf("error %v, want code %q", err, tc.code)
			}
			if diff := cmp.Diff(got, tc.want); diff != "" {
				t.Errorf("selected (-got +want):\n%s", diff)
			}
		})
	}
}
