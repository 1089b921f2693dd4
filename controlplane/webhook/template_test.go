// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// What a template costs is bounded by its length: it has no loops, no variables, no
// templates of its own, and no function that makes something large of something small.
func TestTemplates_CannotGrow(t *testing.T) {
	for _, text := range []string{
		`{{range .Event.Detail}}x{{end}}`, `{{range 1000000000}}{{end}}`, `{{with .Event}}{{.At}}{{end}}`,
		`{{define "a"}}{{template "a"}}{{end}}`, `{{block "a" .}}x{{end}}`, `{{template "message" .}}`,
		`{{printf "%1000000000d" 1}}`, `{{$a := .ID}}{{$a}}`, `{{print .ID .ID}}`, `{{html .ID}}`, `{{call .ID}}`, `{{index .Event.Detail "a"}}`,
		`{{len .ID}}`, `{{if printf "%d" 1}}{{end}}`, `{{if true}}{{range 5}}{{end}}{{end}}`, `{{(print .ID).At}}`,
		`{{"\"" ` + strings.Repeat("| json ", 40) + `}}`, `{{.Event.Nothing}}`, `{{.ID`,
	} {
		if _, err := parseTemplate(text); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%.60s: %v", text, err)
		}
	}
	long, err := parseTemplate(strings.Repeat("{{.Event.Subject}}", 400))
	if err != nil {
		t.Fatal(err)
	}
	m := sample
	m.Event.Subject = strings.Repeat("s", 1000)
	if _, err = execute(long, m); err == nil {
		t.Error("400,000 bytes are one message")
	}
}

func TestRender_MakesWhatReceiversTake(t *testing.T) {
	m := sample
	m.Event.Action, m.Event.Subject, m.Event.Detail = "rollout.fail", "rollout:r1", map[string]string{"why": "too many\nfailures"}
	for _, c := range []struct {
		spec              fleet.WebhookSpec
		body, kind, title string
	}{
		{fleet.WebhookSpec{Format: fleet.WebhookSlack}, `{"text":"[acme] rollout.fail of rollout:r1 by key:alice, why: too many failures"}`, "application/json", ""},
		{fleet.WebhookSpec{Format: fleet.WebhookNtfy}, `[acme] rollout.fail of rollout:r1 by key:alice, why: too many failures`, "text/plain; charset=utf-8", "NixFleet rollout.fail"},
		{fleet.WebhookSpec{Format: fleet.WebhookTemplate, Template: `{"content":{{json .Event.Detail.why}}}`}, `{"content":"too many\nfailures"}`, "application/json", ""},
		{
			fleet.WebhookSpec{Format: fleet.WebhookTemplate, Template: `{{if eq .Event.Action "rollout.fail"}}{{upper .FleetID}} {{time .Event.At}} {{default "-" .Event.Detail.nothing}}{{else}}ok{{end}}`},
			"ACME 1970-01-01T00:00:00Z -", "text/plain; charset=utf-8", "",
		},
	} {
		h, err := newHook(fleet.Webhook{WebhookSpec: c.spec})
		if err != nil {
			t.Fatal(err)
		}
		body, kind, title, err := render(h, m)
		if err != nil || string(body) != c.body || kind != c.kind || title != c.title {
			t.Errorf("%s: %q, %s, %q, %v", c.spec.Format, body, kind, title, err)
		}
	}
}
