// SPDX-License-Identifier: MIT

package fleet

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

func TestActions_AreAllThatAreDeclared(t *testing.T) {
	b, err := os.ReadFile("audit.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^\tAction\w+\s+= "([a-z.-]+)"$`).FindAllStringSubmatch(string(b), -1)
	for _, m := range declared {
		if !slices.Contains(Actions[:], m[1]) {
			t.Errorf("Actions lacks %s", m[1])
		}
	}
	if len(declared) != len(Actions) {
		t.Errorf("%d actions are declared, and Actions has %d", len(declared), len(Actions))
	}
}
