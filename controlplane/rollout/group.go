// SPDX-License-Identifier: AGPL-3.0-only

package rollout

import (
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// groups splits members, in order, by the selectors that go first: each member
// belongs to the first that it matches, the others to the last group.
func groups(after []fleet.Selector, members []member) [][]member {
	list := make([][]member, len(after)+1)
	for _, m := range members {
		g := 0
		for g < len(after) && !after[g].Match(m.entry.ID, m.tags) {
			g++
		}
		list[g] = append(list[g], m)
	}
	return list
}

// afterGroups says why a batch may not open yet that is the first of a group: what
// goes before it is not done, here or in another rollout. "" if it may.
func (st *step) afterGroups(batch int) string {
	b := st.batches[batch]
	if b.Group == 0 || batch > 0 && st.batches[batch-1].Group == b.Group {
		return ""
	}
	why := fmt.Sprintf("batch %d begins after %s", batch+1, strings.Join(st.spec().After[:b.Group], ", then "))
	left := 0
	for _, before := range st.batches[:batch] {
		left += unfinished(before.Counts)
	}
	if left > 0 {
		return fmt.Sprintf("%s: %d machines of the batches before it are not done", why, left)
	}
	if st.world.Unfinished == nil {
		return ""
	}
	for _, sel := range st.indexed().after[:b.Group] {
		if other := st.world.Unfinished(sel, st.rollout.ID); other != "" {
			return why + ": " + other
		}
	}
	return ""
}

// mayOpen reports whether a batch may open by the order of groups, and notes why
// not.
func (st *step) mayOpen(batch int) bool {
	why := st.afterGroups(batch)
	st.batches[batch].Why = why
	if why != "" {
		st.rollout.Why, st.waitsForGroup = why, true
	}
	return why == ""
}
