// SPDX-License-Identifier: MIT

package hints

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// found is a command line, and where it is.
type found struct {
	File  string
	Line  int
	words []string
	prose bool // from running text, where it may be none
}

func (f found) text() string { return strings.Join(f.words, " ") }

var (
	fence     = regexp.MustCompile("^ *```([a-z]*)")
	span      = regexp.MustCompile("`([^`]+)`")
	separator = regexp.MustCompile(`\s\|\s|&&|\|\||;`)
	// substitution is what a shell runs for its output.
	substitution = regexp.MustCompile(`\$\(([^()]*)\)`)
	// prefix is what may stand before a program's name on a line of a shell.
	prefix   = regexp.MustCompile(`^(?:\$ |sudo |exec |[A-Z_]+=\S+ )+`)
	folder   = regexp.MustCompile(`^\.?\.?(?:/?[a-z]+)?/`)
	mention  = regexp.MustCompile(`(^|[\s"'(])(nixfleet(?:-agent|-control-plane)?|make) +`)
	ours     = []string{"nixfleet", "nixfleet-agent", "nixfleet-control-plane", "make", "nix"}
	operator = []string{"|", "&", ">", "<", "#", "\\"}
)

// collect returns the command lines of a file.
func collect(file, text string) []found {
	var out []found
	switch filepath.Ext(file) {
	case ".go":
		out = goFile(text)
	case ".md":
		out = markdown(text)
	case ".nix", ".sh", ".toml":
		for i, line := range strings.Split(text, "\n") {
			out = append(out, at(i+1, mixed(line))...)
		}
	}
	for i := range out {
		out[i].File = file
	}
	return out
}

func at(line int, all []found) []found {
	for i := range all {
		all[i].Line = line
	}
	return all
}

// markdown looks at code spans, also those that are wrapped, and at blocks: as
// lines of a shell, unless they are in another language.
func markdown(text string) []found {
	var out []found
	var prose strings.Builder // without the blocks, with all line ends
	inside, shell := false, false
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil:
			inside, shell = !inside, slices.Contains([]string{"", "console", "sh", "bash"}, m[1])
		case inside && shell:
			start := i
			for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
				i++
				line = strings.TrimSuffix(line, "\\") + lines[i]
				prose.WriteByte('\n')
			}
			out = append(out, at(start+1, shellLine(line))...)
		case inside:
			out = append(out, at(i+1, mixed(line))...)
		default:
			prose.WriteString(line)
		}
		prose.WriteByte('\n')
	}
	rest := prose.String()
	for _, m := range span.FindAllStringSubmatchIndex(rest, -1) {
		code := strings.ReplaceAll(strings.ReplaceAll(rest[m[2]:m[3]], "\n", " "), `\|`, "|")
		out = append(out, at(1+strings.Count(rest[:m[2]], "\n"), shellLine(code))...)
	}
	return out
}

// shellLine returns the commands of a line that a shell could read, and what
// its comment mentions.
func shellLine(line string) []found {
	line, comment, _ := strings.Cut(line, " # ")
	out := mentions(comment, false)
	parts := separator.Split(substitution.ReplaceAllString(line, "X"), -1)
	for _, m := range substitution.FindAllStringSubmatch(line, -1) {
		parts = append(parts, m[1])
	}
	for _, part := range parts {
		part = prefix.ReplaceAllString(strings.TrimSpace(part), "")
		part = folder.ReplaceAllString(part, "")
		if words := split(part, false); len(words) > 1 && slices.Contains(ours, words[0]) {
			out = append(out, found{words: words})
		}
	}
	return out
}

// mixed returns what code spans hold and what the text around them mentions.
func mixed(text string) []found {
	var out []found
	for _, m := range span.FindAllStringSubmatch(text, -1) {
		out = append(out, shellLine(m[1])...)
	}
	return append(out, mentions(span.ReplaceAllString(text, "-"), false)...)
}

// mentions returns what running text names. A hint names commands only; so does
// what follows a colon.
func mentions(text string, hint bool) []found {
	var out []found
	for _, m := range mention.FindAllStringSubmatchIndex(text, -1) {
		name, rest := text[m[4]:m[5]], text[m[1]:]
		words := split(rest, true)
		if len(words) == 0 {
			continue
		}
		if name == "make" && (len(words) < 2 || !assignment.MatchString(words[1])) {
			continue // the verb
		}
		sure := hint || strings.HasSuffix(text[:m[5]-len(name)], ": ") || name == "make"
		out = append(out, found{words: append([]string{name}, words...), prose: !sure})
	}
	return out
}

// split cuts a command line into words, as far as it goes: to the operator of a
// shell, and in prose to the end of the phrase.
func split(text string, prose bool) []string {
	var words []string
	text, _, _ = strings.Cut(text, "\n")
	for _, w := range strings.Fields(text) {
		if slices.ContainsFunc(operator, func(o string) bool { return strings.HasPrefix(w, o) }) {
			break
		}
		cut := w
		if prose && w != "." {
			cut = strings.TrimRight(w, ")\"'`.,;:")
		}
		if cut != "" {
			words = append(words, cut)
		}
		if cut != w {
			break
		}
	}
	return words
}

// goFile looks at comments, at text, and at hints and examples, which are
// command lines wherever they name a program.
func goFile(text string) []found {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil
	}
	line := func(p token.Pos) int { return fset.Position(p).Line }
	var out []found
	for _, c := range file.Comments {
		out = append(out, at(line(c.Pos()), mixed(strings.Join(strings.Fields(c.Text()), " ")))...)
	}
	hints := map[ast.Node]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "WithHint" && len(n.Args) > 0 {
				mark(hints, n.Args[0])
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Example" || key.Name == "Hint") {
				mark(hints, n.Value)
			}
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				for i, whole := range strings.Split(s, "\n") {
					l, comment, _ := strings.Cut(whole, " # ")
					if n.Value[0] == '"' {
						i = 0 // all on one line of the source
					}
					out = append(out, at(line(n.Pos())+i, append(mentions(l, hints[n]), mentions(comment, false)...))...)
				}
			}
		}
		return true
	})
	return out
}

// mark remembers the texts of an expression.
func mark(texts map[ast.Node]bool, e ast.Expr) {
	ast.Inspect(e, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok {
			texts[l] = true
		}
		return true
	})
}
