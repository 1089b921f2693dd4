// SPDX-License-Identifier: MIT

package fleet

import "strings"

// MaxWord bounds a word of a closed list, in bytes.
const MaxWord = 64

// unreadable stands for a word that could not be one. No list has it, so that
// it never counts as good.
const unreadable = "unreadable"

// IsWord reports whether s may be a word of a closed list, this version's or a
// later one's: [a-z0-9-]{1,64}.
func IsWord(s string) bool {
	return s != "" && len(s) <= MaxWord && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// CleanWord keeps what may be a word of a closed list, also one that this
// version does not know, and "". Anything else becomes "unreadable".
func CleanWord[W ~string](w W) W {
	if w == "" || IsWord(string(w)) {
		return w
	}
	return unreadable
}

// CleanLine is CleanText for what is shown on one line.
func CleanLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, CleanText(s, limit))
	return s
}

// keepValid empties what is not valid, and notes its name.
func keepValid[V interface {
	~string
	Valid() bool
}](v *V, name string, left *[]string) {
	if *v != "" && !(*v).Valid() {
		*v = ""
		*left = append(*left, name)
	}
}

// MarkLeftOut says behind a text which fields could not be read and are left out.
func MarkLeftOut(text string, fields []string, limit int) string {
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, CleanLine(f, MaxWord))
	}
	return noteLeftOut(text, names, limit)
}

// noteLeftOut says behind a text which fields were not valid and are left out.
func noteLeftOut(text string, left []string, limit int) string {
	if len(left) == 0 {
		return text
	}
	mark := "[left out, not valid: " + strings.Join(left, ", ") + "]"
	if text == "" {
		return CleanText(mark, limit)
	}
	return CleanText(text, limit-len(mark)-1) + "\n" + mark
}
