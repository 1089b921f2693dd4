// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/webhook"
	"github.com/arcanesys/nixfleet/fleet"
)

// receiver is a server that webhooks go to, on one address, in the mood that a test
// gives it.
type receiver struct {
	t      *testing.T
	addr   string
	secret string
	now    func() time.Time

	mu    sync.Mutex
	mood  string              // what it does with a request: ok, fail, hang, ...
	asked []string            // ids, with each try
	taken map[string][]string // ids by the subject of what was taken
	last  api.WebhookMessage
	srv   *http.Server
}

func (r *receiver) serve() {
	r.t.Helper()
	l := must[net.Listener](r.t)(net.Listen("tcp", r.addr))
	r.addr = l.Addr().String()
	r.srv = &http.Server{Handler: r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() { _ = r.srv.Serve(l) }()
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if req.URL.Path != "/hook/s3cret" {
		r.t.Errorf("the receiver was asked for %s", req.URL.Path)
	}
	r.mu.Lock()
	mood := r.mood
	if err = api.VerifyWebhook(r.secret, req.Header, body, r.now()); err != nil {
		r.t.Errorf("signature: %v", err)
	}
	id := req.Header.Get(api.WebhookIDHeader)
	r.asked = append(r.asked, id)
	if mood == "ok" {
		if err = json.Unmarshal(body, &r.last); err != nil || r.last.ID != id {
			r.t.Errorf("message %s: %v", body, err)
		}
		r.taken[r.last.Event.Subject] = append(r.taken[r.last.Event.Subject], id)
	}
	r.mu.Unlock()
	switch mood {
	case "fail":
		w.WriteHeader(http.StatusInternalServerError)
	case "hang":
		<-req.Context().Done()
	case "redirect":
		http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
	case "later":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case "garbage":
		r.cut(w, "220 s3cret banner of a mail server\r\n")
	case "long-header":
		r.cut(w, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("s3cret", 1<<15)+"\r\n\r\n")
	case "drip":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	case "endless", "endless-fail":
		if mood == "endless-fail" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		for err == nil {
			_, err = io.WriteString(w, strings.Repeat("s3cret", 1000))
		}
	case "gone":
		w.WriteHeader(http.StatusGone)
	}
}

// cut answers with text that need not be HTTP, and ends the connection.
func (r *receiver) cut(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.t.Errorf("hijack: %v", err)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text) // the other side may have had enough
}

func (r *receiver) be(mood string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mood, r.asked = mood, nil
}

// tries are the ids of all attempts since the last change of mood.
func (r *receiver) tries() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func (r *receiver) took(subject string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken[subject])
}

// A webhook's receiver gets each message at least once, under one id and signed,
// though it fails, hangs and is away, and the control plane is restarted. What it
// does not take for a day is a dead letter, until it is sent again.
func TestWebhooks_OutliveTheirReceiversTroubleAndRestarts(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.retry = webhook.Retry{First: 5 * time.Millisecond, Longest: 20 * time.Millisecond, Timeout: 200 * time.Millisecond}
	w.start()
	admin := w.admin()
	r := &receiver{t: t, addr: "127.0.0.1:0", mood: "fail", taken: map[string][]string{}, now: w.now}
	r.serve()
	defer func() { r.srv.Close() }()
	made := must[api.NewWebhook](t)(admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: "http://" + r.addr + "/hook/s3cret", Events: []string{"machine.*"}}))
	r.secret = made.Secret
	id := made.Webhook.ID
	register := func(m fleet.MachineID) {
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: m}))
	}
	state := func() fleet.Webhook { return must[[]fleet.Webhook](t)(admin.Webhooks(t.Context()))[0] }
	delivered := func(m string) {
		t.Helper()
		w.eventually(m+" was delivered", func() bool { return len(r.took("machine:"+m)) > 0 && state().Waiting == 0 })
	}

	register("failing") // which the receiver is, and then not
	w.eventually("three tries", func() bool { return len(r.tries()) >= 3 })
	if ids := slices.Compact(r.tries()); len(ids) != 1 || state().LastError != "the receiver answered 500" {
		t.Errorf("tries %q, state %+v", ids, state())
	}
	r.be("ok")
	delivered("failing")
	must[api.NewKey](t)(admin.CreateKey(t.Context(), api.KeyRequest{Owner: "bob", Role: fleet.RoleReadonly})) // no event of its own
	head := must[fleet.AuditHead](t)(admin.AuditHead(t.Context()))

	r.be("hang")
	register("hanging")
	w.eventually("an attempt was given up", func() bool { return state().LastError == "no answer in 200ms" })
	w.restart(0)
	admin = w.operator(w.secretOfAdmin)
	hanging := r.tries()[0]
	r.be("ok")
	delivered("hanging")
	if got := r.took("machine:hanging"); got[0] != hanging {
		t.Errorf("it was tried as %s, and taken as %q", hanging, got)
	}
	r.mu.Lock()
	if got := r.last; got.Event.Action != fleet.ActionMachineRegister || got.Audit.Size <= head.Size || got.Audit.Head == "" {
		t.Errorf("the message is %+v, after the checkpoint %+v", got, head)
	}
	r.mu.Unlock()

	r.srv.Close() // the receiver is away, and comes up at its old address
	register("away")
	w.eventually("it was refused", func() bool { return strings.Contains(state().LastError, "connection refused") })
	r.serve()
	delivered("away")

	r.be("redirect")
	register("redirected")
	w.eventually("the redirect was seen", func() bool { return strings.Contains(state().LastError, "redirects are not followed") })
	r.be("fail")
	w.advance(25 * time.Hour)
	w.eventually("it is dead", func() bool { v := state(); return v.Dead == 1 && v.Waiting == 0 })
	letters := must[api.Page[fleet.WebhookDelivery]](t)(admin.WebhookMessages(t.Context(), id, true, fleet.PageRequest{})).Items
	if len(letters) != 1 || letters[0].Action != fleet.ActionMachineRegister || letters[0].Attempts < 2 || letters[0].Error == "" {
		t.Fatalf("dead letters %+v", letters)
	}
	r.be("ok")
	_, err := admin.ResendMessages(t.Context(), id, api.ResendRequest{Messages: []string{"whk-1"}})
	wantCode(t, "a letter of another", err, fleet.Invalid)
	if n := must[api.Resent](t)(admin.ResendMessages(t.Context(), id, api.ResendRequest{Messages: []string{letters[0].ID}})); n.Count != 1 {
		t.Errorf("%d letters are tried again", n.Count)
	}
	delivered("redirected")
	if got := r.took("machine:redirected"); got[0] != letters[0].ID || state().Dead != 0 {
		t.Errorf("taken as %q, and the letter was %s", got, letters[0].ID)
	}

	r.be("gone") // which ends a message at once
	register("gone")
	w.eventually("it is dead at once", func() bool { return state().Dead == 1 })
	r.be("ok")
	if got := must[api.WebhookTest](t)(admin.TestWebhook(t.Context(), id)); !got.Delivered || got.Status != http.StatusOK || len(r.took("webhook:"+id)) != 1 {
		t.Errorf("the test came to %+v", got)
	}
	r.be("fail")
	if got := must[api.WebhookTest](t)(admin.TestWebhook(t.Context(), id)); got.Delivered || got.Status != 500 {
		t.Errorf("the test of a receiver that fails came to %+v", got)
	}
	if err := admin.DeleteWebhook(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	register("later")
	var trail strings.Builder
	if err := admin.ExportAudit(t.Context(), fleet.AuditFilter{}, &trail); err != nil {
		t.Fatal(err)
	}
	if text := trail.String(); strings.Contains(text, "s3cret") || strings.Count(text, "webhook.") != 3 {
		t.Errorf("the audit trail: %s", text)
	}
	if got := r.took("machine:later"); len(got) > 0 {
		t.Errorf("a webhook that was removed sent %q", got)
	}
}

// A webhook goes where an admin sends it, and to no address that is of a link only or
// serves a machine's credentials.
func TestWebhooks_GoNowhereElse(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	for _, url := range []string{
		"http://example.org/", "ftp://example.org/", "https://", "https://u:p@example.org/", "file:///etc/passwd", "https://example.org/#a",
		"https://" + strings.Repeat("a", fleet.MaxWebhookURL), "//example.org",
	} {
		_, err := admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: url})
		wantCode(t, fmt.Sprintf("%.40s", url), err, fleet.Invalid)
	}
	for _, url := range []string{"https://169.254.169.254/latest", "https://[fe80::1]/", "https://0.0.0.0/", "https://[::ffff:169.254.169.254]/", "https://[fd00:ec2::254]/", "https://100.100.100.200/", "https://[64:ff9b::a9fe:a9fe]/", "https://[2002:a9fe:a9fe::]/", "https://[::a9fe:a9fe]/"} {
		made := must[api.NewWebhook](t)(admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: url, Events: []string{"key.rotate"}}))
		got := must[api.WebhookTest](t)(admin.TestWebhook(t.Context(), made.Webhook.ID))
		if got.Delivered || !strings.Contains(got.Error, "do not go to") {
			t.Errorf("%s: %+v", url, got)
		}
	}
	for _, spec := range []fleet.WebhookSpec{
		{Events: []string{"Rollout"}}, {Events: []string{"rollout*"}}, {Events: []string{"rollout.failed"}}, {Events: []string{"rollouts.*"}}, {Events: []string{"."}}, {Format: "xml"}, {Template: "x"}, {Format: fleet.WebhookTemplate},
		{Format: fleet.WebhookTemplate, Template: "{{range 5}}{{end}}"}, {Events: make([]string, fleet.MaxWebhookEvents+1)},
	} {
		spec.URL = "https://example.org/"
		_, err := admin.CreateWebhook(t.Context(), spec)
		wantCode(t, fmt.Sprintf("%.60v", spec), err, fleet.Invalid)
	}
}

// A receiver that hangs, drips or answers nonsense holds up neither other receivers
// nor the control plane. What it says beyond its status is told to nobody.
func TestWebhooks_BearBadReceivers(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.retry = webhook.Retry{First: 5 * time.Millisecond, Longest: 20 * time.Millisecond, Timeout: 300 * time.Millisecond}
	w.start()
	admin := w.admin()
	add := func(mood string) (*receiver, string) {
		r := &receiver{t: t, addr: "127.0.0.1:0", mood: mood, taken: map[string][]string{}, now: w.now}
		r.serve()
		t.Cleanup(func() { r.srv.Close() })
		made := must[api.NewWebhook](t)(admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: "http://" + r.addr + "/hook/s3cret", Events: []string{"machine.*"}}))
		r.mu.Lock()
		r.secret = made.Secret
		r.mu.Unlock()
		return r, made.Webhook.ID
	}
	state := func(id string) fleet.Webhook {
		all := must[[]fleet.Webhook](t)(admin.Webhooks(t.Context()))
		return all[slices.IndexFunc(all, func(h fleet.Webhook) bool { return h.ID == id })]
	}
	bad := map[string]string{
		"hang": "no answer in 300ms", "garbage": "there was no valid HTTP answer", "long-header": "there was no valid HTTP answer",
		"endless-fail": "the receiver answered 500", "redirect": "the receiver answered 307; redirects are not followed", "later": "the receiver answered 429",
	}
	ids := map[string]string{}
	receivers := map[string]*receiver{}
	for mood := range bad {
		receivers[mood], ids[mood] = add(mood)
	}
	good, id := add("ok")
	endless, endlessID := add("endless") // with the status 200: it has the message
	dripping, drippingID := add("drip")
	const many = 10
	for i := range many {
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: fleet.MachineID(fmt.Sprint("web-", i))}))
	}
	w.eventually("the good receiver has all", func() bool { return len(good.took(fmt.Sprint("machine:web-", many-1))) > 0 && state(id).Waiting == 0 })
	w.eventually("those that do not end have all", func() bool {
		return state(endlessID).Waiting == 0 && state(drippingID).Waiting == 0 && len(endless.tries()) >= many && len(dripping.tries()) >= many
	})
	for mood, want := range bad {
		w.eventually(mood+" is tried again", func() bool { return len(receivers[mood].tries()) >= 3 && state(ids[mood]).LastError == want })
		if got := state(ids[mood]); got.Waiting != many || got.Dead != 0 {
			t.Errorf("%s: %+v", mood, got)
		}
		got := must[api.WebhookTest](t)(admin.TestWebhook(t.Context(), ids[mood]))
		if got.Delivered || got.Error != want {
			t.Errorf("%s: the test came to %+v, want %q", mood, got, want)
		}
	}
}

// A test that is asked for again under its Idempotency-Key is told what came of it,
// and sends nothing.
func TestWebhooks_TestIsMadeOnce(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	r := &receiver{t: t, addr: "127.0.0.1:0", mood: "ok", taken: map[string][]string{}, now: w.now}
	r.serve()
	defer func() { r.srv.Close() }()
	made := must[api.NewWebhook](t)(admin.CreateWebhook(t.Context(), fleet.WebhookSpec{URL: "http://" + r.addr + "/hook/s3cret", Events: []string{"key.rotate"}}))
	r.secret = made.Secret
	path := "/api/v1/webhooks/" + made.Webhook.ID + "/test"
	_, first := w.raw(http.MethodPost, path, w.secretOfAdmin, "", "Idempotency-Key", "one")
	r.be("fail")
	if _, again := w.raw(http.MethodPost, path, w.secretOfAdmin, "", "Idempotency-Key", "one"); string(again) != string(first) || len(r.tries()) > 0 {
		t.Errorf("first %s, then %s; sent %q", first, again, r.tries())
	}
	if _, other := w.raw(http.MethodPost, path, w.secretOfAdmin, "", "Idempotency-Key", "two"); string(other) == string(first) || len(r.tries()) != 1 {
		t.Errorf("under another key %s; sent %q", other, r.tries())
	}
}
