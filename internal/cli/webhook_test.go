// SPDX-License-Identifier: MIT

package cli

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// hooked answers what is about webhooks, and keeps what it was asked.
func (p *plane) hooked(w http.ResponseWriter, r *http.Request, words []string) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, err)
		return
	}
	p.mu.Lock()
	p.bodies = append(p.bodies, r.Method+" "+strings.Join(words, "/")+" "+string(b))
	p.mu.Unlock()
	switch {
	case words[len(words)-1] == "test":
		reply(w, api.WebhookTest{Status: 500, Error: "the receiver answered 500", TookMs: 3})
	case words[len(words)-1] == "messages":
		if r.URL.Query().Get("dead") != "true" {
			page(w, r, p.letters[:0])
			return
		}
		page(w, r, p.letters)
	case words[len(words)-1] == "resend":
		reply(w, api.Resent{Count: 3})
	case r.Method == http.MethodPost:
		reply(w, api.NewWebhook{Webhook: p.hooks[0], Secret: "whsec_secret"})
	case r.Method == http.MethodDelete:
		reply(w, p.hooks[0])
	default:
		reply(w, p.hooks)
	}
}

func TestWebhook_Commands(t *testing.T) {
	p := newPlane(t)
	p.hooks = []fleet.Webhook{{ID: "whk1", WebhookSpec: fleet.WebhookSpec{URL: "https://ci.example.org/", Format: fleet.WebhookJSON}, Waiting: 2, Dead: 3, LastError: "the receiver answered 500"}}
	for _, id := range []string{"whk1-7-a", "whk1-8-b", "whk1-9-c"} {
		p.letters = append(p.letters, fleet.WebhookDelivery{ID: id, Webhook: "whk1", Action: "rollout.fail", Attempts: 9, Dead: true, Error: "no answer in 10s"})
	}
	u := newUser(t).of(p)
	if r := u.mustRun(command.ExitDone, "webhook", "add", "https://ci.example.org/", "--events", "rollout.*,key.create"); r.out != "whsec_secret\n" {
		t.Errorf("add prints %q", r.out)
	}
	write(t, "message.tmpl", `{"content":{{json .Event.Action}}}`)
	u.mustRun(command.ExitDone, "webhook", "add", "https://ci.example.org/", "--format", "template", "--template-file", "message.tmpl")
	for _, words := range []string{"add http://example.org/", "add https://e.org/ --events Rollout", "add https://e.org/ --format xml", "add https://e.org/ --format template", "resend whk1", "resend whk1 --all whk1-7-a"} {
		if r := u.mustRun(command.ExitUsage, append([]string{"webhook", "--json"}, strings.Fields(words)...)...); oneJSON(t, r.out) == nil {
			t.Errorf("%s: %q", words, r.out)
		}
	}
	if r := u.mustRun(command.ExitDone, "webhook", "list"); !strings.Contains(r.out, "whk1") || !strings.Contains(r.out, "the receiver answered 500") {
		t.Errorf("list prints %q", r.out)
	}
	if r := u.mustRun(command.ExitDone, "webhook", "deadletters", "whk1"); strings.Count(r.out, "rollout.fail") != 3 { // on two pages
		t.Errorf("deadletters prints %q", r.out)
	}
	if r := u.mustRun(command.ExitDone, "webhook", "pending", "whk1", "--json"); strings.TrimSpace(r.out) != "[]" {
		t.Errorf("pending prints %q", r.out)
	}
	if r := u.mustRun(command.ExitError, "webhook", "test", "whk1"); !strings.Contains(r.stderr, "answered 500") {
		t.Errorf("test says %q", r.stderr)
	}
	if r := u.mustRun(command.ExitError, "webhook", "test", "whk1", "--json"); oneJSON(t, r.out).(map[string]any)["status"] != 500.0 {
		t.Errorf("test prints %q", r.out)
	}
	u.mustRun(command.ExitDone, "webhook", "resend", "whk1", "whk1-7-a")
	u.mustRun(command.ExitDone, "webhook", "resend", "whk1", "--all")
	u.mustRun(command.ExitDone, "webhook", "remove", "whk1")
	want := []string{
		`POST webhooks {"url":"https://ci.example.org/","events":["rollout.*","key.create"],"format":"json"}`,
		`POST webhooks {"url":"https://ci.example.org/","format":"template","template":"{\"content\":{{json .Event.Action}}}"}`,
		`POST webhooks/whk1/resend {"messages":["whk1-7-a"]}`, `POST webhooks/whk1/resend {}`, `DELETE webhooks/whk1 `,
	}
	got := slices.DeleteFunc(slices.Clone(p.bodies), func(s string) bool { return strings.HasPrefix(s, "GET") || strings.Contains(s, "/test") })
	if !slices.Equal(got, want) {
		t.Errorf("asked for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
