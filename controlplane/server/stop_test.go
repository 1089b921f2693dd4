// SPDX-License-Identifier: AGPL-3.0-only

package server

import "testing"

// The machines whose check-ins a stop ends do not ask again all at once (A16).
func TestStopping_SpreadsTheNextCheckIns(t *testing.T) {
	asked := map[string]int{}
	for range 300 {
		asked[problemOf(stopping()).headers().Get("Retry-After")]++
	}
	if len(asked) != stopRetry || asked["1"] < 50 || asked["2"] < 50 || asked["3"] < 50 {
		t.Errorf("of 300, this many ask again after so many seconds: %v", asked)
	}
}
