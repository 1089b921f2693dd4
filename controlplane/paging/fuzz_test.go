// SPDX-License-Identifier: AGPL-3.0-only

package paging_test

import (
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzAfter reads cursors that callers made up: each is a key, which leads to the
// same cursor again, or is refused with nothing read from it.
func FuzzAfter(f *testing.F) {
	for _, c := range []string{"", "!", "e30x", "MTI", "ImEi", "eyJhdCI6MSwiaWQiOiJhIn0", "bnVsbA", "OTIyMzM3MjAzNjg1NDc3NTgwOA"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		check[int64](t, cursor)
		check[string](t, cursor)
		check[paging.TimeKey](t, cursor)
	})
}

func check[K comparable](t *testing.T, cursor string) {
	t.Helper()
	key, err := paging.After[K](fleet.PageRequest{Cursor: cursor})
	if err != nil {
		var none K
		if fleet.ErrorCode(err) != fleet.Invalid || key != none {
			t.Fatalf("%q: %v, and the key %v", cursor, err, key)
		}
		return
	}
	page := paging.Cut([]K{key, key}, fleet.PageRequest{Limit: 1}, func(k K) K { return k })
	if back, err := paging.After[K](fleet.PageRequest{Cursor: page.Next}); err != nil || back != key {
		t.Fatalf("%q is the key %v, which became %v: %v", cursor, key, back, err)
	}
}
