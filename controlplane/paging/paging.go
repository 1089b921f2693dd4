// SPDX-License-Identifier: AGPL-3.0-only

// Package paging cuts lists into pages. A cursor is the key of the item that a
// page ended with, so that what is added or removed meanwhile shifts nothing.
//
// It never reads a list: its callers do, with one item more than the page's size.
// What a caller may not see is in no page and in no cursor.
package paging

import (
	"encoding/base64"
	"encoding/json"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// TimeKey is the key of lists that are in the order of time.
type TimeKey struct {
	At int64  `json:"at"`
	ID string `json:"id"`
}

// After returns the key of the item before the page, the zero key for the
// first page. The error's code is Invalid.
func After[K any](p fleet.PageRequest) (key K, err error) {
	if p.Cursor == "" {
		return key, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err == nil {
		err = json.Unmarshal(b, &key)
	}
	if err != nil {
		return key, fleet.Errorf(fleet.Invalid, "bad cursor").WithHint("pass on the one that came with the page before")
	}
	return key, nil
}

// Cut makes the page that p asks for of items, which begin after p's cursor
// and go on, if there are more, with at least one item of the next page.
func Cut[T, K any](items []T, p fleet.PageRequest, key func(T) K) api.Page[T] {
	size := p.Size()
	if items == nil {
		items = []T{} // a list in JSON, never null
	}
	if len(items) <= size {
		return api.Page[T]{Items: items}
	}
	b, err := json.Marshal(key(items[size-1]))
	if err != nil {
		panic("encode cursor: " + err.Error()) // keys are numbers and strings
	}
	return api.Page[T]{Items: items[:size], Next: base64.RawURLEncoding.EncodeToString(b)}
}

// Keep makes the page that p asks for of a list's items that keep holds. Neither
// its length nor its cursor tells of the others. Read returns pages of the whole
// list.
func Keep[T, K any](p fleet.PageRequest, key func(T) K, keep func(T) (bool, error), read func(fleet.PageRequest) (api.Page[T], error)) (api.Page[T], error) {
	kept := []T{}
	for next := (fleet.PageRequest{Cursor: p.Cursor, Limit: fleet.MaxLimit}); ; {
		page, err := read(next)
		if err != nil {
			return api.Page[T]{}, err
		}
		for _, v := range page.Items {
			ok, err := keep(v)
			if err != nil {
				return api.Page[T]{}, err
			}
			if ok {
				kept = append(kept, v)
			}
			if len(kept) > p.Size() {
				return Cut(kept, p, key), nil
			}
		}
		if next.Cursor = page.Next; page.Next == "" {
			return Cut(kept, p, key), nil
		}
	}
}
