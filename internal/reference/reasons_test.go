// SPDX-License-Identifier: MIT

package reference

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// lists are the enumerations that people meet, in the order of the page.
var lists = []struct{ dir, kind, title, intro string }{
	{"fleet", "Outcome", "Outcomes", "How an attempt on a machine ended."},
	{"fleet", "Reason", "Reasons", "Why a machine refused, held, failed, rolled back or was reverted. A released reason never changes its meaning."},
	{"fleet", "RolloutState", "States of a rollout", ""},
	{"fleet", "BatchState", "States of a batch", ""},
	{"fleet", "AssignmentState", "States of a machine in a rollout", ""},
	{"fleet", "AgentState", "States of an agent", ""},
	{"fleet", "Lifecycle", "Lifecycle of a machine", ""},
	{"fleet", "HealthCheckKind", "Kinds of health check", ""},
	{"fleet", "HealthCheckStatus", "Statuses of a health check", ""},
	{"fleet", "Health", "Health of a machine", ""},
	{"fleet", "Strategy", "Strategies", ""},
	{"fleet", "OnFailure", "What a rollout does on failure", ""},
	{"fleet", "OfflinePolicy", "What a rollout does about machines that do not answer", ""},
	{"api", "Verb", "What an operator does to a rollout", ""},
	{"fleet", "Role", "Roles of API keys", "Each includes the roles before it."},
	{"fleet", "ReportKind", "Kinds of report", ""},
	{"fleet", "GrantKind", "Kinds of grant", ""},
	{"fleet", "Code", "Error codes", "In the API's problems and in the errors of `--json`."},
}

func TestReasons_AreDescribed(t *testing.T) {
	var b strings.Builder
	b.WriteString("# States, outcomes and reasons\n\nThe same words stand in the API, in `--json`, in the store and in the audit trail.\n")
	for _, l := range lists {
		b.WriteString("\n## " + l.title + "\n")
		if l.intro != "" {
			b.WriteString("\n" + l.intro + "\n")
		}
		n := 0
		for _, f := range source(t, l.dir) {
			for _, d := range f.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
					n += consts(t, &b, g, l.kind)
				}
			}
		}
		if n < 2 {
			t.Errorf("%s.%s has %d values", l.dir, l.kind, n)
		}
	}
	golden(t, "reasons.md", b.String())
}

// consts writes the values of a type that one declaration has, and returns how
// many there were. A value without a meaning is an error.
func consts(t *testing.T, b *strings.Builder, g *ast.GenDecl, kind string) int {
	t.Helper()
	n := 0
	for _, s := range g.Specs {
		v := s.(*ast.ValueSpec)
		if id, ok := v.Type.(*ast.Ident); !ok || id.Name != kind {
			continue
		}
		word, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		meaning := sentence(v.Doc, v.Comment)
		if meaning == "" {
			t.Errorf("%s has no comment that says what it means", v.Names[0])
		}
		if n == 0 {
			b.WriteString("\n")
			if kind == "Reason" {
				b.WriteString(sentence(g.Doc) + "\n\n")
			}
			b.WriteString("| word | meaning |\n| --- | --- |\n")
		}
		b.WriteString(row("`"+word+"`", meaning))
		n++
	}
	return n
}
