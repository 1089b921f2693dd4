// SPDX-License-Identifier: MIT

package fleet

import (
	"iter"
	"path"
	"slices"
	"strings"
)

// Selector picks machines: the union of its plain terms, less those that a
// `!term` matches. Without a plain term it starts from every machine.
type Selector []Term

// Term is one part of a selector: `web-01`, `web-*`, `@tag`, or one of these
// behind `!`.
type Term struct {
	Not  bool
	Tag  Tag    // of a `@tag` term, else ""
	Glob string // of a name or a pattern as path.Match has them, else ""
}

// ParseSelector reads selector terms. The error's code is Invalid and names
// the bad term.
func ParseSelector(terms []string) (Selector, error) {
	s := make(Selector, 0, len(terms))
	for _, text := range terms {
		rest, not := strings.CutPrefix(text, "!")
		t := Term{Not: not}
		if tag, ok := strings.CutPrefix(rest, "@"); ok {
			t.Tag = Tag(tag)
			if !t.Tag.Valid() {
				return nil, badTerm(text)
			}
		} else {
			t.Glob = rest
			if _, err := path.Match(rest, ""); err != nil || !plausibleGlob(rest) {
				return nil, badTerm(text)
			}
		}
		s = append(s, t)
	}
	return s, nil
}

func badTerm(text string) error {
	return Errorf(Invalid, "%q is not a selector term", clip(text, 80)).
		WithHint("a machine (web-01), a pattern (web-*), a tag (@web), or one of these behind ! to leave out")
}

// plausibleGlob reports whether g could match a machine id at all.
func plausibleGlob(g string) bool {
	return g != "" && len(g) <= 255 && !strings.ContainsFunc(g, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(`-*?[]^`, r)
	})
}

// Match reports whether the term, without its `!`, is about the machine.
func (t Term) Match(id MachineID, tags []Tag) bool {
	if t.Tag != "" {
		return slices.Contains(tags, t.Tag)
	}
	ok, err := path.Match(t.Glob, string(id))
	return err == nil && ok
}

// String is the term as ParseSelector reads it.
func (t Term) String() string {
	s := t.Glob
	if t.Tag != "" {
		s = "@" + string(t.Tag)
	}
	if t.Not {
		s = "!" + s
	}
	return s
}

// Match reports whether s picks the machine with these effective tags.
func (s Selector) Match(id MachineID, tags []Tag) bool {
	plain, picked := false, false
	for _, t := range s {
		hit := t.Match(id, tags)
		if t.Not && hit {
			return false
		}
		plain = plain || !t.Not
		picked = picked || !t.Not && hit
	}
	return picked || !plain
}

// Unmatched returns the first term that no machine of the sequence matches: a
// typo, most likely (O03).
func (s Selector) Unmatched(machines iter.Seq2[MachineID, []Tag]) (Term, bool) {
	hit := make([]bool, len(s))
	for id, tags := range machines {
		for i, t := range s {
			hit[i] = hit[i] || t.Match(id, tags)
		}
	}
	if i := slices.Index(hit, false); i >= 0 {
		return s[i], true
	}
	return Term{}, false
}
