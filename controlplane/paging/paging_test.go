// SPDX-License-Identifier: AGPL-3.0-only

package paging_test

import (
	"fmt"
	"testing"

	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

func TestCut_LeadsFromPageToPage(t *testing.T) {
	all := []int64{1, 2, 3, 4, 5}
	p := fleet.PageRequest{Limit: 2}
	var pages []string
	for {
		after, err := paging.After[int64](p)
		if err != nil {
			t.Fatal(err)
		}
		page := paging.Cut(all[after:], p, func(n int64) int64 { return n })
		pages = append(pages, fmt.Sprint(page.Items))
		if p.Cursor = page.Next; p.Cursor == "" {
			break
		}
	}
	if got := fmt.Sprint(pages); got != "[[1 2] [3 4] [5]]" {
		t.Errorf("got pages %s", got)
	}
}

func TestAfter_RefusesACursorOfAnotherList(t *testing.T) {
	names := paging.Cut([]string{"a", "b"}, fleet.PageRequest{Limit: 1}, func(s string) string { return s })
	for _, cursor := range []string{"!", "e30x", names.Next} {
		if _, err := paging.After[int64](fleet.PageRequest{Cursor: cursor}); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("cursor %q: got %v, want an invalid error", cursor, err)
		}
	}
}
