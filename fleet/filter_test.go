// SPDX-License-Identifier: MIT

package fleet_test

import (
	"reflect"
	"strconv"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestPageRequest_HasTheLimitsThatItsTagsSay(t *testing.T) {
	limit, _ := reflect.TypeFor[fleet.PageRequest]().FieldByName("Limit")
	for tag, want := range map[string]int{"default": fleet.DefaultLimit, "maximum": fleet.MaxLimit} {
		if got := limit.Tag.Get(tag); got != strconv.Itoa(want) {
			t.Errorf("%s is %q, want %d", tag, got, want)
		}
	}
	for ask, want := range map[int]int{-1: fleet.DefaultLimit, 0: fleet.DefaultLimit, 7: 7, 1001: fleet.MaxLimit} {
		if got := (fleet.PageRequest{Limit: ask}).Size(); got != want {
			t.Errorf("limit %d gives a page of %d, want %d", ask, got, want)
		}
	}
}

func TestFilters_RefuseWordsThatNoListHas(t *testing.T) {
	for _, f := range []interface{ Validate() error }{
		fleet.MachineFilter{Lifecycle: "gone"}, fleet.MachineFilter{Health: "fine"},
		fleet.RolloutFilter{State: "gone"}, fleet.AssignmentFilter{State: "gone"},
	} {
		if got := fleet.ErrorCode(f.Validate()); got != fleet.Invalid {
			t.Errorf("%+v: code %q, want invalid", f, got)
		}
	}
	for _, f := range []interface{ Validate() error }{
		fleet.MachineFilter{Lifecycle: fleet.Active, Health: fleet.Healthy},
		fleet.RolloutFilter{State: fleet.RolloutPaused}, fleet.AssignmentFilter{State: fleet.AssignHeld, Batch: fleet.AllBatches},
	} {
		if err := f.Validate(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
}
