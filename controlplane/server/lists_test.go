// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// The pages of each list make up the whole list: what is there from the first page
// to the last comes once and in order, whatever is added and removed meanwhile.
func TestLists_PagesMakeUpTheWholeThoughRowsComeAndGo(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	number, last := 0, fleet.Digest("")
	add := map[string]func() string{
		"machines": func() string {
			number++
			id := fleet.MachineID(fmt.Sprintf("m%d-%d", number%7, number)) // at each place of the order
			must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: id}))
			return string(id)
		},
		"keys": func() string {
			return must[api.NewKey](t)(admin.CreateKey(t.Context(), api.KeyRequest{Owner: "bob", Role: fleet.RoleReadonly})).Key.ID
		},
		"releases": func() string {
			number++
			last = w.release(admin, uint64(number), last, "web-01").Digest
			return string(last)
		},
		"audit": func() string {
			must[api.NewKey](t)(admin.CreateKey(t.Context(), api.KeyRequest{Owner: "bob", Role: fleet.RoleReadonly}))
			return fmt.Sprint(must[fleet.AuditHead](t)(admin.AuditHead(t.Context())).Size)
		},
	}
	page := map[string]func(fleet.PageRequest) ([]string, string){
		"machines": func(p fleet.PageRequest) ([]string, string) {
			v := must[api.Page[fleet.Machine]](t)(admin.Machines(t.Context(), fleet.MachineFilter{}, p))
			return names(v.Items, func(m fleet.Machine) string { return string(m.ID) }), v.Next
		},
		"keys": func(p fleet.PageRequest) ([]string, string) {
			v := must[api.Page[fleet.Key]](t)(admin.Keys(t.Context(), p))
			return names(v.Items, func(k fleet.Key) string { return k.ID }), v.Next
		},
		"releases": func(p fleet.PageRequest) ([]string, string) {
			v := must[api.Page[fleet.Release]](t)(admin.Releases(t.Context(), fleet.ReleaseFilter{}, p))
			return names(v.Items, func(r fleet.Release) string { return string(r.Digest) }), v.Next
		},
		"audit": func(p fleet.PageRequest) ([]string, string) {
			v := must[api.Page[fleet.AuditEntry]](t)(admin.Audit(t.Context(), fleet.AuditFilter{}, p))
			return names(v.Items, func(e fleet.AuditEntry) string { return fmt.Sprint(e.Seq) }), v.Next
		},
	}
	whole := func(list string) (all []string) {
		for p := (fleet.PageRequest{Limit: fleet.MaxLimit}); ; {
			items, next := page[list](p)
			if all = append(all, items...); next == "" {
				return all
			}
			p.Cursor = next
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		list := rapid.SampledFrom([]string{"machines", "keys", "releases", "audit"}).Draw(rt, "list")
		for range rapid.IntRange(0, 3).Draw(rt, "begin with") {
			add[list]()
		}
		want := whole(list)
		var got []string
		more := rapid.IntRange(0, 3).Draw(rt, "more") // bounded: the audit trail grows at its end
		for p := (fleet.PageRequest{Limit: 1 + len(want)/rapid.IntRange(1, 6).Draw(rt, "pages")}); ; {
			items, next := page[list](p)
			if len(items) > p.Limit || len(items) == 0 && next != "" {
				rt.Fatalf("a page of %d has %d items", p.Limit, len(items))
			}
			if got = append(got, items...); next == "" {
				break
			}
			p.Cursor = next
			if more > 0 && rapid.Bool().Draw(rt, "add") {
				more--
				add[list]()
			}
			if list == "releases" && len(want) > 1 && rapid.Bool().Draw(rt, "remove") {
				i := rapid.IntRange(0, len(want)-1).Draw(rt, "which")
				if err := admin.DeleteRelease(t.Context(), fleet.Digest(want[i])); err != nil {
					rt.Fatal(err)
				}
				want = slices.Delete(want, i, i+1)
			}
		}
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(got) {
			rt.Errorf("%s: an item came twice: %q", list, got)
		}
		after := whole(list)
		if order := slices.DeleteFunc(slices.Clone(got), func(v string) bool { return !slices.Contains(after, v) }); !slices.IsSortedFunc(order, func(a, b string) int { return slices.Index(after, a) - slices.Index(after, b) }) {
			rt.Errorf("%s: the pages have the order %q, the list %q", list, order, after)
		}
		for _, v := range want {
			if !slices.Contains(got, v) {
				rt.Errorf("%s: %s is on no page of %q", list, v, got)
			}
		}
	})
}

func names[T any](items []T, name func(T) string) []string {
	out := make([]string, len(items))
	for i, v := range items {
		out[i] = name(v)
	}
	return out
}

// A change that is bound to what the caller saw does not overwrite another's; what
// the machine itself says is no such change.
func TestIfMatch_KeepsAnothersChange(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	m := w.enrolled(admin, "web-01")
	tags := func(match, body string) int {
		res, _ := w.raw(http.MethodPut, "/api/v1/machines/web-01/tags", w.secretOfAdmin, body, "Content-Type", "application/json", "If-Match", match)
		return res.StatusCode
	}
	etag := func() string {
		res, _ := w.raw(http.MethodGet, "/api/v1/machines/web-01", w.secretOfAdmin, "")
		return res.Header.Get("ETag")
	}
	seen := etag()
	must[api.Orders](t)(m.CheckIn(t.Context(), checkIn("web-01")))
	if now := etag(); now == seen {
		t.Errorf("the ETag is %s before and after a check-in", now)
	}
	if status := tags(seen, `{"tags":["a"]}`); status != http.StatusOK {
		t.Errorf("after a check-in: status %d", status)
	}
	if status := tags(seen, `{"tags":["b"]}`); status != http.StatusPreconditionFailed {
		t.Errorf("after another's change: status %d", status)
	}
	_, err := admin.SetLifecycle(t.Context(), "web-01", fleet.Maintenance)
	if err != nil {
		t.Error(err)
	}
	res, body := w.raw(http.MethodPut, "/api/v1/machines/web-01/lifecycle", w.secretOfAdmin, `{"lifecycle":"active"}`, "Content-Type", "application/json", "If-Match", seen)
	if res.StatusCode != http.StatusPreconditionFailed || !strings.Contains(string(body), `"code":"changed"`) {
		t.Errorf("lifecycle: status %d, %s", res.StatusCode, body)
	}
	for match, want := range map[string]int{"*": http.StatusOK, `"x"`: http.StatusUnprocessableEntity, `W/"1.0"`: http.StatusUnprocessableEntity} {
		if status := tags(match, `{"tags":["c"]}`); status != want {
			t.Errorf("If-Match %s: status %d, want %d", match, status, want)
		}
	}
	if got := must[fleet.Machine](t)(admin.Machine(t.Context(), "web-01")); got.Lifecycle != fleet.Maintenance || !slices.Equal(got.Tags.Operator, []fleet.Tag{"c"}) {
		t.Errorf("the machine is %s with %v", got.Lifecycle, got.Tags.Operator)
	}
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "db-01", Lifecycle: fleet.Active}))
	spec := fleet.RolloutSpec{Release: w.release(admin, 1, "", "db-01").Digest, Select: []string{"db-01"}}
	path := "/api/v1/rollouts/" + string(must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: spec})).ID)
	res, _ = w.raw(http.MethodGet, path, w.secretOfAdmin, "")
	seen = res.Header.Get("ETag")
	for _, c := range []struct {
		verb string
		want int
	}{{"/pause", http.StatusOK}, {"/resume", http.StatusPreconditionFailed}} { // the pause made another version
		if res, body = w.raw(http.MethodPost, path+c.verb, w.secretOfAdmin, `{}`, "Content-Type", "application/json", "If-Match", seen); res.StatusCode != c.want {
			t.Errorf("%s: status %d, want %d: %s", c.verb, res.StatusCode, c.want, body)
		}
	}
}

// Each operation that a change can be bound in keeps to it: what is no ETag is refused,
// what was seen before is refused as changed, and nothing is changed then.
func TestIfMatch_BindsEachOperationThatTakesIt(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	for _, id := range []fleet.MachineID{"web-01", "web-02"} {
		must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: id, Lifecycle: fleet.Active}))
	}
	made := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: fleet.RolloutSpec{Release: w.release(admin, 1, "", "web-02").Digest}}))
	must[api.RolloutDetail](t)(admin.RolloutVerb(t.Context(), made.ID, api.VerbPause, api.VerbRequest{}))
	must[fleet.Machine](t)(admin.SetTags(t.Context(), "web-01", api.TagsRequest{Tags: []fleet.Tag{"a"}}))
	bodies := map[string]string{"setLifecycle": `{"lifecycle":"maintenance"}`, "setTags": `{"tags":[]}`, "renameMachine": `{"to":"web-03"}`, "rolloutVerb": "{}"}
	tried := 0
	for _, op := range api.Operations {
		body, bound := bodies[op.ID]
		if !bound && op.ID != "deleteMachine" {
			continue
		}
		tried++
		one, all := "/api/v1/machines/web-01", strings.NewReplacer("/machines/{id}", "/machines/web-01", "/rollouts/{id}", "/rollouts/"+string(made.ID), "{verb}", "resume")
		if op.ID == "rolloutVerb" {
			one = "/api/v1/rollouts/" + string(made.ID)
		}
		res, before := w.raw(http.MethodGet, one, w.secretOfAdmin, "")
		version, _, _ := strings.Cut(strings.Trim(res.Header.Get("ETag"), `"`), ".")
		if n := must[int](t)(strconv.Atoi(version)); n < 2 {
			t.Fatalf("%s has version %d", one, n)
		}
		for match, want := range map[string]fleet.Code{`"x"`: fleet.Invalid, `"0.0"`: fleet.Invalid, `"-1"`: fleet.Invalid, `"99999999999999999999.0"`: fleet.Invalid, `"1.0"`: fleet.Changed} {
			_, reply := w.raw(op.Method, all.Replace(op.Path), w.secretOfAdmin, body, "Content-Type", "application/json", "If-Match", match)
			var p api.Problem
			if err := json.Unmarshal(reply, &p); err != nil || p.Code != want {
				t.Errorf("%s if %s matches: %s, want the code %s", op.ID, match, reply, want)
			}
		}
		if _, after := w.raw(http.MethodGet, one, w.secretOfAdmin, ""); string(after) != string(before) {
			t.Errorf("%s has changed it to %s", op.ID, after)
		}
	}
	if tried != 5 {
		t.Errorf("tried %d operations", tried)
	}
}

// A stream goes on after the event that its reader names, also after a restart. Where
// that event is not in the log any more, or not yet, as in an older copy of the
// database, the stream says so and goes on from the newest (E12).
func TestEvents_ResumeOrReset(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	tag := func(c *api.Client, tag fleet.Tag) {
		must[fleet.Machine](t)(c.SetTags(t.Context(), "web-01", api.TagsRequest{Tags: []fleet.Tag{tag}}))
	}
	must[fleet.Machine](t)(admin.RegisterMachine(t.Context(), api.MachineRequest{ID: "web-01"}))
	tag(admin, "two")
	w.stop()
	w.start()
	admin = w.operator(w.secretOfAdmin)
	tag(admin, "three")
	begin := func(last string, n int) []string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, base(w.addrs.Operators)+"/api/v1/events", nil))
		req.Header.Set("Authorization", "Bearer "+w.secretOfAdmin)
		req.Header.Set("Last-Event-ID", last)
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.caPool(), Time: w.now}}}
		defer c.CloseIdleConnections()
		res := must[*http.Response](t)(c.Do(req))
		defer res.Body.Close()
		var said []string
		for lines := bufio.NewScanner(res.Body); len(said) < n && lines.Scan(); {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok || strings.HasPrefix(id, "event: ") {
				said = append(said, id)
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && strings.Contains(data, `"reset":"event `+last+` is not in the log`) {
				said = append(said, "reset")
			}
		}
		return said
	}
	if said := begin("1", 3); !slices.Equal(said, []string{"1", "2", "3"}) {
		t.Errorf("after the event 1 come %q", said)
	}
	if said := begin("900", 3); !slices.Equal(said, []string{"event: reset", "3", "reset"}) {
		t.Errorf("after an event that is not there yet come %q", said)
	}
	if err := w.store.Write(t.Context(), func(tx *store.Tx) error {
		_, failed := tx.DeleteEventsBefore(t.Context(), w.now().UnixMilli()+1, 1000)
		return failed
	}); err != nil {
		t.Fatal(err)
	}
	if said := begin("1", 3); !slices.Equal(said, []string{"event: reset", "3", "reset"}) {
		t.Errorf("after an event that is past its retention come %q", said)
	}
	// A watcher hears of it, and resumes with the events that come then.
	first := true
	for e, err := range admin.Watch(t.Context(), 900, fleet.EventFilter{}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case first && (e.Reset == "" || e.ID != 3):
			t.Fatalf("the watcher begins with %+v", e)
		case first:
			first = false
			tag(admin, "four")
			continue
		case e.ID != 4 || e.Machine == nil:
			t.Errorf("then comes %+v", e)
		}
		break
	}
}
