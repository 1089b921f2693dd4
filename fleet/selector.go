// SPDX-License-Identifier: MIT

package fleet

import (
	"path"
	"strings"
)

// Select returns those of the candidates that the terms select, in their
// order. A term is a machine id (web-01), a pattern as in path.Match (web-*), a
// tag (@prod), or one of these after ! to leave machines out. Without a term
// that takes machines in, all candidates are taken in first. A term that takes
// in nothing is an error that names it, for it is a typo (O03); the codes are
// Invalid and NotFound.
func Select[T any](terms []string, candidates []T, facts func(T) (MachineID, []Tag)) ([]T, error) {
	in, out := make([]bool, len(candidates)), make([]bool, len(candidates))
	positive := false
	for _, term := range terms {
		body, not := strings.CutPrefix(term, "!")
		match, err := matcher(body)
		if err != nil {
			return nil, err
		}
		set, hits := in, 0
		if not {
			set = out
		}
		positive = positive || !not
		for i, c := range candidates {
			if match(facts(c)) {
				set[i] = true
				hits++
			}
		}
		if hits == 0 && !not {
			return nil, Errorf(NotFound, "%q matches no machine", clip(term, 80)).WithHint("nixfleet machine list shows ids and tags")
		}
	}
	var selected []T
	for i, c := range candidates {
		if (in[i] || !positive) && !out[i] {
			selected = append(selected, c)
		}
	}
	return selected, nil
}

func matcher(term string) (func(MachineID, []Tag) bool, error) {
	if tag, ok := strings.CutPrefix(term, "@"); ok {
		if !Tag(tag).Valid() {
			return nil, badTerm(term)
		}
		return func(_ MachineID, tags []Tag) bool {
			for _, t := range tags {
				if string(t) == tag {
					return true
				}
			}
			return false
		}, nil
	}
	if _, err := path.Match(term, ""); err != nil || term == "" || strings.ContainsAny(term, "!@,/ ") {
		return nil, badTerm(term)
	}
	return func(id MachineID, _ []Tag) bool {
		ok, _ := path.Match(term, string(id)) // the pattern was checked
		return ok
	}, nil
}

func badTerm(term string) error {
	return Errorf(Invalid, "%q does not select machines", clip(term, 80)).WithHint("write web-01, web-*, @tag, or !web-3 to leave one out")
}
