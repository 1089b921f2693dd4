// SPDX-License-Identifier: MIT

package hints

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	word = regexp.MustCompile(`^[a-z][a-z0-9-]*(\|[a-z][a-z0-9-]*)*$`)
	// connective words follow a program's name in a sentence that is no command line.
	connective = regexp.MustCompile(`^(a|an|and|are|as|at|by|can|cannot|did|does|for|from|had|has|have|if|in|is|it|must|not|now|of|on|or|so|than|that|the|then|there|to|was|were|when|which|while|who|will|with)$`)
	assignment = regexp.MustCompile(`^[A-Z_]+=`)
)

// resolve says what is wrong with a command line, or nothing. In prose, which
// may as well be a sentence about a program, only its commands count.
func (k known) resolve(words []string, prose bool) string {
	switch words[0] {
	case "make":
		return k.makefile(words[1:])
	case "nix":
		return k.flake(words[1:])
	}
	return k.programs[words[0]].resolve(words[1:], prose)
}

func (c *node) resolve(words []string, prose bool) string {
	var flags []string
	for ; len(words) > 0; words = words[1:] {
		name := words[0]
		if strings.HasPrefix(name, "--") {
			flags = append(flags, name)
			if len(words) > 2 && len(c.subs) > 0 && c.subs[words[1]] == nil && c.subs[words[2]] != nil {
				words = words[1:] // the flag's value
			}
			continue
		}
		if len(c.subs) > 0 && !word.MatchString(name) && prose {
			return "" // a path, an assignment
		}
		if len(c.subs) == 0 || !word.MatchString(name) {
			break // arguments, or a placeholder
		}
		alternatives := strings.Split(name, "|")
		for _, a := range alternatives {
			if c.subs[a] != nil {
				continue
			}
			if prose && (!strings.Contains(c.path, " ") || connective.MatchString(a)) {
				return "" // "nixfleet tells", "nixfleet release is"
			}
			return fmt.Sprintf("%s has no command %s", c.path, a)
		}
		c = c.subs[alternatives[0]]
	}
	for _, w := range append(flags, words...) {
		name, isFlag := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && word.MatchString(name) && !c.flags[name] {
			return fmt.Sprintf("%s has no flag --%s", c.path, name)
		}
	}
	return ""
}

// makefile checks the targets of a call of make.
func (k known) makefile(words []string) string {
	for _, w := range words {
		if word.MatchString(w) && !k.targets[w] {
			return "the Makefile has no target " + w
		}
	}
	return ""
}

// flake checks `nix run` and `nix flake init` of what is ours.
func (k known) flake(words []string) string {
	line := strings.Join(words, " ")
	for _, kind := range []struct {
		pattern, what string
		names         map[string]bool
	}{
		{`^run (?:\.|github:arcanesys/nixfleet)#([A-Za-z0-9-]+)`, "app", k.apps},
		{`^flake init -t github:arcanesys/nixfleet#([A-Za-z0-9-]+)`, "template", k.templates},
	} {
		if m := regexp.MustCompile(kind.pattern).FindStringSubmatch(line); m != nil && m[1] != strings.ToUpper(m[1]) && !kind.names[m[1]] {
			return fmt.Sprintf("the flake has no %s %s", kind.what, m[1])
		}
	}
	return ""
}
