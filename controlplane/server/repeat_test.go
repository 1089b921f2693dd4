// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/fleet"
)

// named sends a call under a name and returns the status and the body.
func (w *world) named(op api.Operation, r request, key, name string) (int, string) {
	w.tb.Helper()
	res, body := w.raw(op.Method, r.path, key, r.body, "Content-Type", "application/json", api.IdempotencyKey, name)
	return res.StatusCode, string(body)
}

// reused reports whether a reply says that the name is another call's.
func reused(status int, body string) bool {
	return status == http.StatusUnprocessableEntity && strings.Contains(body, `"code":"idempotency-key-reused"`)
}

// A POST that comes again under its name is answered as the first time, after a
// restart too, and does nothing more; another one under its name is refused. This
// holds for each POST that there is.
func TestPOST_IsCarriedOutOnceUnderItsName(t *testing.T) {
	s := newScene(t)
	key := s.keys[fleet.RoleAdmin]
	own := s.own["createRollout"] // a dry run, which supersedes what rolloutVerb is about
	own.body = strings.NewReplacer(`"dryRun":true`, `"dryRun":false`, `"web-01"`, `"db-01"`).Replace(own.body)
	s.own["createRollout"] = own
	type answer struct {
		op     api.Operation
		status int
		body   string
	}
	var answers []answer
	for _, op := range api.Operations {
		if op.Method != http.MethodPost || op.Scope == api.Public {
			continue
		}
		status, body := s.named(op, s.own[op.ID], key, "call-"+op.ID)
		if status != op.Status {
			t.Errorf("%s: status %d, %s", op.ID, status, body)
		}
		answers = append(answers, answer{op, status, body})
	}
	head := s.auditHead(key)
	s.restart(0)
	var started fleet.AuditHead
	s.eventually("the start is in the audit trail", func() bool {
		started = s.auditHead(key)
		return started.Size > head.Size
	})
	for _, a := range answers {
		if status, body := s.named(a.op, s.own[a.op.ID], key, "call-"+a.op.ID); status != a.status || body != a.body {
			t.Errorf("%s again: status %d, %s\nfirst: %d, %s", a.op.ID, status, body, a.status, a.body)
		}
		if status, body := s.named(a.op, s.other[a.op.ID], key, "call-"+a.op.ID); !reused(status, body) {
			t.Errorf("%s about another thing under the same name: status %d, %s", a.op.ID, status, body)
		}
	}
	if again := s.auditHead(key); again != started {
		t.Errorf("the audit trail has %+v, want %+v: something was done twice", again, started)
	}
}

func (w *world) auditHead(key string) fleet.AuditHead {
	w.tb.Helper()
	return must[fleet.AuditHead](w.tb)(w.operator(key).AuditHead(w.ctx()))
}

var createKey = api.Operation{ID: "createKey", Method: http.MethodPost}

// Copies of a call that come at the same time are carried out once.
func TestPOST_IsCarriedOutOnceAmongManyAtATime(t *testing.T) {
	w := newWorld(t)
	key := w.secret(w.admin(), fleet.RoleAdmin)
	r := request{"/api/v1/keys", `{"owner":"bob","role":"readonly"}`}
	answers := make([]string, 16)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { _, answers[i] = w.named(createKey, r, key, "many") })
	}
	wg.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.Contains(a, `"secret"`) {
			t.Errorf("got %s, and %s", a, answers[0])
		}
	}
	page := must[api.Page[fleet.Key]](t)(w.operator(key).Keys(t.Context(), fleet.PageRequest{}))
	if len(page.Items) != 3 {
		t.Errorf("there are %d keys, want 3", len(page.Items))
	}
}

// A name is the caller's own, and for a day; a key's new secret does not open what
// the old one was answered.
func TestPOST_NameIsOfOneKeyAndForADay(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	key, other := w.secret(admin, fleet.RoleAdmin), w.secret(admin, fleet.RoleAdmin)
	r := request{"/api/v1/keys", `{"owner":"bob","role":"readonly"}`}
	_, first := w.named(createKey, r, key, "mine")
	if status, body := w.named(createKey, r, other, "mine"); status != http.StatusCreated || body == first {
		t.Errorf("under another key: status %d, %s", status, body)
	}
	w.advance(once.Kept - time.Minute)
	if _, body := w.named(createKey, r, key, "mine"); body != first {
		t.Errorf("after almost a day: %s, want %s", body, first)
	}
	w.advance(2 * time.Minute)
	if status, body := w.named(createKey, r, key, "mine"); status != http.StatusCreated || body == first {
		t.Errorf("after a day: status %d, %s", status, body)
	}
	next := must[api.NewKey](t)(admin.RotateKey(t.Context(), must[fleet.Key](t)(w.operator(key).Whoami(t.Context())).ID)).Secret
	if status, body := w.named(createKey, r, next, "mine"); !reused(status, body) {
		t.Errorf("with a new secret: status %d, %s", status, body)
	}
	for _, name := range []string{strings.Repeat("x", 256), "a b", "\xff"} {
		if status, body := w.named(createKey, r, next, name); status != http.StatusUnprocessableEntity || !strings.Contains(body, `"invalid"`) {
			t.Errorf("name %q: status %d, %s", name, status, body)
		}
	}
}

// The answers that are lost at the worst time: that of the first admin key, whose
// secret is used up, and that of a key's own new secret, whose old one has ended.
func TestPOST_AnswersAgainWhatUsedUpItsOwnCredential(t *testing.T) {
	w := newWorld(t)
	bootstrap := api.Operation{Method: http.MethodPost}
	r := request{"/api/v1/keys/bootstrap", `{"secret":"` + bootstrapSecret + `","owner":"root"}`}
	status, first := w.named(bootstrap, r, "", "first")
	if status != http.StatusCreated {
		t.Fatalf("status %d, %s", status, first)
	}
	if again, body := w.named(bootstrap, r, "", "first"); again != http.StatusCreated || body != first {
		t.Errorf("bootstrap again: status %d, %s", again, body)
	}
	if other, body := w.named(bootstrap, r, "", "second"); other != http.StatusUnauthorized {
		t.Errorf("bootstrap under another name: status %d, %s", other, body)
	}
	var k api.NewKey
	if err := json.Unmarshal([]byte(first), &k); err != nil {
		t.Fatal(err)
	}
	rotate := request{"/api/v1/keys/" + k.Key.ID + "/rotate", ""}
	status, next := w.named(bootstrap, rotate, k.Secret, "third")
	if status != http.StatusCreated {
		t.Fatalf("status %d, %s", status, next)
	}
	if status, body := w.named(bootstrap, rotate, k.Secret, "third"); status != http.StatusCreated || body != next {
		t.Errorf("rotate again: status %d, %s", status, body)
	}
	for what, secret := range map[string]string{"another name": k.Secret, "another secret": k.Secret[:len(k.Secret)-1]} {
		name := map[string]string{"another name": "fourth", "another secret": "third"}[what]
		if status, body := w.named(bootstrap, rotate, secret, name); status != http.StatusUnauthorized {
			t.Errorf("rotate with %s: status %d, %s", what, status, body)
		}
	}
}

// E09: the secret in an answer is not in the database.
func TestPOST_KeepsNoSecretThatTheDatabaseCouldTell(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	secret := must[api.NewKey](t)(admin.CreateKey(t.Context(), api.KeyRequest{Owner: "bob", Role: fleet.RoleReadonly})).Secret
	token := w.token(admin, "web-01")
	for _, name := range []string{"nixfleet.db", "nixfleet.db-wal"} {
		b := must[[]byte](t)(os.ReadFile(filepath.Join(w.dir, name)))
		for _, s := range []string{secret, w.secretOfAdmin, token, bootstrapSecret} {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s holds %.8s...", name, s)
			}
		}
		if name == "nixfleet.db-wal" && !bytes.Contains(b, []byte("bob")) {
			t.Errorf("%s does not even hold the key's owner: the search is broken", name)
		}
	}
}

// A release that is deleted leaves its line's head: the next one follows it, and the
// line goes on (create, delete, create).
func TestLines_KeepTheirHeadWhenTheReleaseIsDeleted(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	_, err := admin.Line(t.Context(), "main")
	wantCode(t, "a line without releases", err, fleet.NotFound)
	first := w.signed(1, "", "web-01")
	made := must[fleet.Release](t)(admin.CreateRelease(t.Context(), first))
	if err = admin.DeleteRelease(t.Context(), made.Digest); err != nil {
		t.Fatal(err)
	}
	want := api.LineHead{Line: "main", Sequence: 1, Digest: made.Digest, Envelope: first.Envelope}
	if d := cmp.Diff(want, must[api.LineHead](t)(admin.Line(t.Context(), "main"))); d != "" {
		t.Errorf("head (-want +got):\n%s", d)
	}
	w.restart(0)
	admin = w.operator(w.secretOfAdmin)
	_, err = admin.CreateRelease(t.Context(), w.signed(1, "", "web-01", "web-02"))
	wantCode(t, "the same sequence for another release", err, fleet.Conflict)
	next := w.release(admin, 2, made.Digest, "web-01")
	page := must[api.Page[api.LineHead]](t)(admin.Lines(t.Context(), fleet.PageRequest{}))
	if len(page.Items) != 1 || page.Items[0].Digest != next.Digest {
		t.Errorf("lines %+v, want one with %s", page.Items, next.Digest)
	}
}
