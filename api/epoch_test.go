// SPDX-License-Identifier: MIT

package api

import (
	"slices"
	"strings"
	"testing"
)

// E12: of what replies name, the latest is echoed, in whatever order they come.
func TestEcho_KeepsTheLatest(t *testing.T) {
	var saw []string
	e := &echo{last: "0.3.h.c", saw: func(s string) { saw = append(saw, strings.TrimSuffix(s, ".h.c")) }}
	for _, s := range []string{"0.7", "0.5", "0.7", "1.0", "0.9", "-1.99", "2", "+3.1", "1.2", "18446744073709551615.1"} {
		e.take(s + ".h.c")
	}
	if want := []string{"0.7", "1.0", "1.2"}; !slices.Equal(saw, want) || e.epoch() != "1.2.h.c" {
		t.Errorf("saw %v and echoes %q, want %v", saw, e.epoch(), want)
	}
}
