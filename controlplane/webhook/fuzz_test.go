// SPDX-License-Identifier: AGPL-3.0-only

package webhook

import (
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzParseTemplate reads templates of admins: one that is taken ends, and makes a
// message of bounded length, also of an entry whose words are long and strange.
func FuzzParseTemplate(f *testing.F) {
	for _, s := range []string{
		`{"content":{{json .Event.Detail.why}}}`, `{{if eq .Event.Action "rollout.fail"}}{{upper .FleetID}} {{time .Event.At}}{{else}}{{default "-" .Event.Detail.none}}{{end}}`,
		`{{range .Event.Detail}}x{{end}}`, `{{define "a"}}{{template "a"}}{{end}}`, `{{json (json (json .))}}`, `{{.Audit.Head.Short}}`, `{{/* a */}}{{- .ID -}}`,
		`{{and .ID (or .FleetID (not true)) | lower}}`, `{{printf "%99999d" 1}}`, `{{$x := .ID}}`, `{{break}}`, `{{`, `{{"\"" | json | json | json}}`, `{{time 9223372036854775807}}`,
	} {
		f.Add(s)
	}
	m := sample
	m.Event.Detail = map[string]string{"why": strings.Repeat("\"\\\u2028<ß", 500), "reason": "{{.ID}}"}
	m.Event.Subject = strings.Repeat("s", 1000)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > fleet.MaxWebhookTemplate {
			return
		}
		parsed, err := parseTemplate(text)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || parsed != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if body, err := execute(parsed, m); len(body) > maxMessage || err != nil && body != nil {
			t.Fatalf("%q makes %d bytes, %v", text, len(body), err)
		}
	})
}
