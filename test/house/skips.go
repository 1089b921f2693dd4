// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"regexp"
	"strings"
)

// skip is a test that did not run.
type skip struct {
	Package string `json:"package"` // from the root of the module; nix for what is no Go test
	Test    string `json:"test"`    // as -run takes it: words joined by "_"
	Reason  string `json:"reason"`
}

// entry is a line of the list.
type entry struct {
	pkg    string
	test   *regexp.Regexp
	reason string
}

type list []entry

// parseList reads lines of a package, a test, in which * stands for anything, and
// a reason; # begins a comment line.
func parseList(text string) (list, error) {
	var l list
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 3 {
			return nil, fmt.Errorf("line %d: %q is not a package, a test and a reason", i+1, line)
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(words[1]), `\*`, ".*")
		l = append(l, entry{words[0], regexp.MustCompile("^" + pattern + "$"), strings.Join(words[2:], " ")})
	}
	return l, nil
}

// reason is why a test may be skipped, if it may.
func (l list) reason(s skip) (string, bool) {
	for _, e := range l {
		if e.pkg == s.Package && e.test.MatchString(s.Test) {
			return e.reason, true
		}
	}
	return "", false
}

// explain gives the known ones the reason that the list has.
func (l list) explain(skips []skip) []skip {
	out := make([]skip, len(skips)) // never null as JSON
	for i, s := range skips {
		if reason, ok := l.reason(s); ok {
			s.Reason = reason
		}
		out[i] = s
	}
	return out
}
