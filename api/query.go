// SPDX-License-Identifier: MIT

package api

import (
	"fmt"
	"net/url"
	"reflect"

	"github.com/arcanesys/nixfleet/fleet"
)

// query encodes structs whose fields have a `query` tag, such as filters. A
// field that has its default is left out: the one of its `default` tag, else
// its type's zero.
func query(structs ...any) url.Values {
	q := url.Values{}
	for _, s := range structs {
		v := reflect.ValueOf(s)
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag
			unset, ok := tag.Lookup("default")
			if !ok {
				unset = fmt.Sprint(reflect.Zero(v.Field(i).Type()))
			}
			if text := fmt.Sprint(v.Field(i)); text != unset {
				q.Set(tag.Get("query"), text)
			}
		}
	}
	return q
}

// pageQuery is query with the page that is asked for.
func pageQuery(p fleet.PageRequest, filters ...any) url.Values {
	if p.Limit == 0 {
		p.Limit = fleet.DefaultLimit
	}
	return query(append(filters, p)...)
}
