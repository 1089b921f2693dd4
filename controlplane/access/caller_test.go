// SPDX-License-Identifier: AGPL-3.0-only

package access

import (
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestCaller_CoversNoMoreThanItsTags(t *testing.T) {
	tags := func(t ...fleet.Tag) []fleet.Tag { return t }
	for _, tt := range []struct {
		own, other []fleet.Tag
		want       bool
	}{
		{nil, nil, true},
		{nil, tags("web"), true},
		{tags("web", "db"), tags("web"), true},
		{tags("web"), tags("web", "db"), false},
		{tags("web"), nil, false}, // a key without tags is for every machine
	} {
		if got := (Caller{Tags: tt.own}).covers(tt.other); got != tt.want {
			t.Errorf("a key for %v covers one for %v: %t, want %t", tt.own, tt.other, got, tt.want)
		}
	}
}

func TestCaller_TouchesMachinesOfItsTags(t *testing.T) {
	m := fleet.Machine{ID: "web-01", Tags: fleet.NewTags([]fleet.Tag{"web"}, nil)}
	if err := (Caller{}).MayTouch(m); err != nil {
		t.Error(err)
	}
	if err := (Caller{Tags: []fleet.Tag{"db", "web"}}).MayTouch(m); err != nil {
		t.Error(err)
	}
	if err := (Caller{Tags: []fleet.Tag{"db"}}).MayTouch(m); fleet.ErrorCode(err) != fleet.Forbidden {
		t.Errorf("got %v, want a forbidden error", err)
	}
}
