// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"reflect"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// A field that the engine changes and sameBatch does not compare would never be
// written.
func TestSameBatch_ComparesEveryFieldThatMayChange(t *testing.T) {
	fixed := map[string]bool{"Rollout": true, "Index": true, "Group": true, "Size": true}
	for i := range reflect.TypeFor[fleet.Batch]().NumField() {
		var b fleet.Batch
		f, name := reflect.ValueOf(&b).Elem().Field(i), reflect.TypeFor[fleet.Batch]().Field(i).Name
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]int{"x": 1}))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Struct:
			f.Field(0).SetInt(1)
		default:
			f.SetInt(1)
		}
		if sameBatch(b, fleet.Batch{}) != fixed[name] {
			t.Errorf("%s: same is %t", name, !fixed[name])
		}
	}
}
