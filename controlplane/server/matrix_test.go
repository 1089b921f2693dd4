// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

const matrixFile = "../../docs/reference/access.md"

const matrixHead = `<!-- Written by ` + "`make generate`" + ` from a running control plane: change it there. -->
# Access

Who may do what with the [API](openapi.json), as a running control plane answered each operation with a key of each role.
What the table does not name is open to nobody.

A key without tags is for the whole fleet. A key with tags (` + "`key create --tag`" + `) is limited to the machines that have one
of them: tags that operators set, and those of the machine's signed entry in the release in which it was last healthy.

- **public**: needs no key.
- **scoped**: a limited key may do it for its machines, and sees no others: it reads the entries of its machines in a release,
  its part of the rollouts that have one of its machines, and their assignments, reports and events. It writes only where every
  machine concerned is its own: it registers and deletes releases with entries of its machines only, and rolls a release out to
  its machines as if there were no others. It registers machines under names that no signed entry gives to others, and sets and
  removes its own tags only. It manages keys that can do no more than itself, and makes them, or gives them a new secret, for its
  own owner only and until it ends itself. No answer tells whether there is a machine, a rollout or a key that it is not for. A
  release's header names no machine; every reader sees it, and the sizes of the audit trail and of the event log.
- **fleet-wide**: a limited key may not do it.

| cell | meaning |
| --- | --- |
| yes | may |
| own | may, for its machines |
| - | may not |

`

// scene is a fleet of two teams: web-01 and what is about it is that of team
// web, db-01 that of team db.
type scene struct {
	*world
	keys map[fleet.Role]string // for the whole fleet
	web  map[fleet.Role]string // limited to the tag web
	// own and other are, for each operation, what a request about the one and
	// the other team is.
	own, other map[string]request
	done       map[string]bool // operations that succeeded once
}

type request struct{ path, body string }

func newScene(t *testing.T) *scene {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	s := &scene{world: w, keys: map[fleet.Role]string{}, web: map[fleet.Role]string{}, done: map[string]bool{"bootstrapKey": true}} // by admin
	for _, r := range roles {
		s.keys[r] = w.secret(admin, r)
		s.web[r] = w.limited(admin, r, "web").Secret
	}
	for _, team := range []fleet.Tag{"web", "db"} {
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: fleet.MachineID(team) + "-01", Lifecycle: fleet.Active, Tags: []fleet.Tag{team}}))
	}
	both := w.release(admin, 1, "", "db-01", "web-01")
	db := w.release(admin, 2, both.Digest, "db-01")
	web := w.release(admin, 3, db.Digest, "web-01")
	must[fleet.RolloutPolicy](t)(admin.PutPolicy(t.Context(), "lasting", api.PolicyRequest{}))
	s.own = s.requests(admin, "web", both.Digest, web.Digest)
	s.other = s.requests(admin, "db", both.Digest, db.Digest)
	for _, id := range []fleet.MachineID{"db-01", "web-01"} {
		must[fleet.Machine](t)(admin.SetTags(t.Context(), id, api.TagsRequest{Tags: []fleet.Tag{fleet.Tag(strings.TrimSuffix(string(id), "-01")), "last"}}))
	}
	return s
}

// limited makes a key that is limited to a tag.
func (w *world) limited(admin *api.Client, role fleet.Role, tag fleet.Tag) api.NewKey {
	w.tb.Helper()
	return must[api.NewKey](w.tb)(admin.CreateKey(w.ctx(), api.KeyRequest{Owner: string(tag) + "-01-" + string(role), Role: role, Tags: []fleet.Tag{tag}}))
}

// requests are, for each operation, one that is about a team.
func (s *scene) requests(admin *api.Client, team fleet.Tag, both, mine fleet.Digest) map[string]request {
	s.tb.Helper()
	id := fleet.MachineID(team) + "-01"
	rollOut := func() fleet.RolloutID {
		return must[api.RolloutDetail](s.tb)(admin.CreateRollout(s.ctx(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: both, Select: []string{string(id)}}})).ID
	}
	over := rollOut()
	must[api.RolloutDetail](s.tb)(admin.RolloutVerb(s.ctx(), over, api.VerbCancel, api.VerbRequest{}))
	rolled := rollOut()
	must[fleet.Machine](s.tb)(admin.RegisterMachine(s.ctx(), api.MachineRequest{ID: "spare-" + id, Tags: []fleet.Tag{team}}))
	must[fleet.Machine](s.tb)(admin.RegisterMachine(s.ctx(), api.MachineRequest{ID: "misnamed-" + id, Tags: []fleet.Tag{team}}))
	lost := s.pending(admin, "lost-"+id, team)
	owner := string(id) + "-admin"
	key := must[api.NewKey](s.tb)(admin.CreateKey(s.ctx(), api.KeyRequest{Owner: owner, Role: fleet.RoleReadonly, Tags: []fleet.Tag{team}})).Key.ID
	hook := must[api.NewWebhook](s.tb)(admin.CreateWebhook(s.ctx(), fleet.WebhookSpec{URL: "https://127.0.0.1:1/", Events: []string{"key.rotate"}})).Webhook.ID
	now := s.now().UnixMilli()
	bodies := map[string]any{
		"putRoot":         api.Document{Envelope: s.nextRoot()},
		"putRevocations":  api.Document{Envelope: s.fleet.Revocations(fleet.Revocations{Version: 1, SignedAt: now})},
		"putTimestamp":    api.Document{Envelope: s.fleet.Timestamp(fleet.Timestamp{Version: 1, SignedAt: now, Expires: s.now().Add(time.Hour).UnixMilli()})},
		"putGrant":        api.Document{Envelope: s.fleet.Grant(fleet.Grant{Kind: fleet.GrantStale, Digest: both, Machines: []fleet.MachineID{id}, SignedAt: now, Expires: s.now().Add(time.Hour).UnixMilli()})},
		"createKey":       api.KeyRequest{Owner: owner, Role: fleet.RoleReadonly, Tags: []fleet.Tag{team}},
		"createRelease":   s.signed(4, mine, id),
		"registerMachine": api.MachineRequest{ID: fleet.MachineID("new-" + string(team)), Tags: []fleet.Tag{team}},
		"setLifecycle":    api.LifecycleRequest{Lifecycle: fleet.Active},
		"setTags":         api.TagsRequest{Tags: []fleet.Tag{"last", team}},
		"putSchedule":     api.ScheduleRequest{Cron: "30 2 * * *", Policy: "lasting"},
		"putBudget":       api.BudgetRequest{Select: []string{"@none"}, Max: fleet.Amount{N: 1}},
		"putPolicy":       api.PolicyRequest{},
		"renameMachine":   api.RenameRequest{To: fleet.MachineID("named-" + string(team))},
		"createWebhook":   fleet.WebhookSpec{URL: "https://127.0.0.1:1/" + string(team), Events: []string{"key.rotate"}},
		"setFreeze":       api.FreezeRequest{Reason: "matrix"},
		"createRollout":   api.RolloutRequest{DryRun: true, Spec: fleet.RolloutSpec{Release: both, Select: []string{string(id)}, Supersede: true}},
	}
	out := map[string]request{}
	for _, op := range api.Operations {
		names := strings.NewReplacer("{id}", string(id), "{digest}", string(both), "{other}", string(mine), "{verb}", "pause", "{line}", "main", "{name}", "careful")
		switch {
		case strings.HasPrefix(op.Path, "/api/v1/keys/"):
			names = strings.NewReplacer("{id}", key)
		case op.ID == "adoptMachine":
			names = strings.NewReplacer("{id}", string(lost))
		case strings.HasPrefix(op.Path, "/api/v1/webhooks/"):
			names = strings.NewReplacer("{id}", hook)
		case op.ID == "deleteMachine":
			names = strings.NewReplacer("{id}", "spare-"+string(id))
		case op.ID == "renameMachine":
			names = strings.NewReplacer("{id}", "misnamed-"+string(id))
		case op.ID == "deleteRollout":
			names = strings.NewReplacer("{id}", string(over))
		case strings.HasPrefix(op.Path, "/api/v1/rollouts/"):
			names = strings.NewReplacer("{id}", string(rolled), "{verb}", "pause")
		case op.ID == "deleteRelease":
			names = strings.NewReplacer("{digest}", string(mine))
		}
		r := request{path: names.Replace(op.Path), body: "{}"}
		if b, ok := bodies[op.ID]; ok {
			r.body = string(must[[]byte](s.tb)(json.Marshal(b)))
		}
		if op.Method == http.MethodGet {
			r.body = ""
		}
		out[op.ID] = r
	}
	return out
}

// pending is a machine that came with a good certificate and is not known. Only what
// operators set says which team it is of.
func (s *scene) pending(admin *api.Client, id fleet.MachineID, team fleet.Tag) fleet.MachineID {
	s.tb.Helper()
	key := newKey(s.tb)
	req := must[pki.Request](s.tb)(pki.ParseRequest(csr(s.tb, id, key)))
	cert := must[*x509.Certificate](s.tb)(s.world.keys.AgentCA.Agent(req, s.now()))
	must[api.Orders](s.tb)(s.machine(cert.Raw, key).CheckIn(s.ctx(), checkIn(id)))
	must[fleet.Machine](s.tb)(admin.SetTags(s.ctx(), id, api.TagsRequest{Tags: []fleet.Tag{team}}))
	return id
}

// nextRoot is the next version of the fleet's root, which has the role timestamp.
func (s *scene) nextRoot() []byte {
	s.tb.Helper()
	root := s.fleet.Root
	root.Version++
	root.Keys, root.Roles = maps.Clone(root.Keys), maps.Clone(root.Roles)
	trusttest.AddKey(&root, fleet.TrustRoleTimestamp, "acme-timestamp")
	return s.fleet.Sign(fleet.TypeRoot, must[[]byte](s.tb)(trust.NewRoot(root)), "acme-root")
}

// ask returns the status of a reply, and what it says.
func (s *scene) ask(op api.Operation, r request, key string) (int, string) {
	s.tb.Helper()
	if op.ID == "events" {
		status, said := s.listen(r.path+"?after=1", key)
		s.done[op.ID] = s.done[op.ID] || status < 300
		return status, said
	}
	res, body := s.raw(op.Method, r.path, key, r.body, "Content-Type", "application/json")
	if res.StatusCode >= 500 {
		s.tb.Errorf("%s: status %d, %s", op.ID, res.StatusCode, body)
	}
	s.done[op.ID] = s.done[op.ID] || res.StatusCode < 300
	said := string(body)
	var d api.ReleaseDetail
	if op.ID == "getRelease" && json.Unmarshal(body, &d) == nil {
		for _, e := range d.Entries {
			said += string(e)
		}
	}
	return res.StatusCode, said
}

// listen reads events up to the last of the scene.
func (s *scene) listen(path, key string) (int, string) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.ctx(), 10*time.Second)
	defer cancel()
	req := must[*http.Request](s.tb)(http.NewRequestWithContext(ctx, http.MethodGet, base(s.addrs.Operators)+path, nil))
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.caPool(), Time: s.now}}}
	defer c.CloseIdleConnections()
	res := must[*http.Response](s.tb)(c.Do(req))
	defer res.Body.Close()
	var said strings.Builder
	for lines := bufio.NewScanner(res.Body); lines.Scan() && !strings.Contains(lines.Text(), `"last"`); {
		said.WriteString(lines.Text())
	}
	return res.StatusCode, said.String()
}

// E09: operation x role x scope, as the running server has it, is what the table
// says, and what the documentation shows.
func TestMatrix_OfOperationRoleAndScope(t *testing.T) {
	s := newScene(t)
	var b strings.Builder
	b.WriteString(matrixHead)
	b.WriteString("| operation | scope | no key | auditor | readonly | deploy | admin | auditor, limited | readonly, limited | deploy, limited | admin, limited |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, op := range api.Operations {
		cells := []string{"`" + op.ID + "`", string(op.Scope), s.cellWithoutKey(op)}
		var limited []string
		for _, r := range roles { // the limited first: the others delete what they were asked for
			limited = append(limited, s.cellLimited(op, r))
		}
		for _, r := range roles {
			cells = append(cells, s.cell(op, r))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(append(cells, limited...), " | "))
		if !s.done[op.ID] {
			t.Errorf("%s succeeded for nobody: that it was not forbidden says nothing", op.ID)
		}
	}
	if *update {
		if err := os.WriteFile(matrixFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := must[[]byte](t)(os.ReadFile(matrixFile)); b.String() != string(want) {
		t.Errorf("%s is not what the server does; run the test with -update:\n%s", matrixFile, b.String())
	}
}

func (s *scene) cellWithoutKey(op api.Operation) string {
	s.tb.Helper()
	if op.ID == "bootstrapKey" {
		return "yes" // its secret was used; TestBootstrap_WorksOnce
	}
	status, _ := s.ask(op, s.own[op.ID], "")
	open := status != http.StatusUnauthorized && status != http.StatusTooManyRequests
	if open != (op.Scope == api.Public) {
		s.tb.Errorf("%s without a key: status %d", op.ID, status)
	}
	if open {
		return "yes"
	}
	return "-"
}

func (s *scene) cell(op api.Operation, role fleet.Role) string {
	s.tb.Helper()
	got := "yes"
	for _, r := range []request{s.own[op.ID], s.other[op.ID]} {
		if status, _ := s.ask(op, r, s.keys[role]); status == http.StatusForbidden {
			got = "-"
		}
	}
	if (got == "yes") != (op.Scope == api.Public || op.Allows(role)) {
		s.tb.Errorf("%s as %s: %s", op.ID, role, got)
	}
	return got
}

func (s *scene) cellLimited(op api.Operation, role fleet.Role) string {
	s.tb.Helper()
	own, said := s.ask(op, s.own[op.ID], s.web[role])
	other, alien := s.ask(op, s.other[op.ID], s.web[role])
	if strings.Contains(said, "db-01") || other < 300 && strings.Contains(alien, "db-01") {
		s.tb.Errorf("%s as %s of team web tells of db-01: %s %s", op.ID, role, said, alien)
	}
	if allowed := op.Scope == api.Public || op.Allows(role) && op.Scope == api.Scoped; allowed != (own != http.StatusForbidden) {
		s.tb.Errorf("%s as %s of team web: status %d, %s", op.ID, role, own, said)
	}
	switch {
	case own == http.StatusForbidden:
		return "-"
	case other == http.StatusForbidden || other >= 400 && other != own:
		return "own"
	}
	// Of a read, the difference is what it tells of.
	if _, all := s.ask(op, s.other[op.ID], s.keys[role]); op.Method == http.MethodGet && strings.Contains(all, "db-01") {
		return "own"
	}
	return "yes"
}
