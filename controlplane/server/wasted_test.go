// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"net/http"
	"testing"
)

// Machines of one address that are online again at once are not slowed down because
// there were too many of them: what the cap has closed is not theirs. What ends
// without a request by itself is.
func TestConns_CountOnlyTheirOwnEndAsWasted(t *testing.T) {
	c, wasted := newConns(), 0
	c.wasted = func(string) { wasted++ }
	var all []*fakeConn
	for range maxAnonymous + 100 {
		s := &fakeConn{address: "127.0.0.1:1"}
		all = append(all, s)
		c.open(t.Context(), s)
	}
	cut := 0
	for _, s := range all {
		if s.gone() {
			cut++
			c.changed(s, http.StateClosed)
		}
	}
	if cut != 100 || wasted != 0 {
		t.Errorf("the cap has closed %d of %d connections, and %d count as wasted, want 100 and none", cut, len(all), wasted)
	}
	for _, s := range all {
		c.changed(s, http.StateClosed)
	}
	if wasted != maxAnonymous {
		t.Errorf("%d connections that ended by themselves count as wasted, want %d", wasted, maxAnonymous)
	}
}
