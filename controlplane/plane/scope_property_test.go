// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/fleet"
)

// attack is an operator with a limited key among the machines, keys, releases and
// rollouts of several teams. Names of machines, owners and rollouts that the key
// is not for are words that nothing else has in it.
type attack struct {
	*world
	root     access.Caller
	keys     []access.Caller // what the attacker has
	tags     []fleet.Tag     // of the first
	reached  map[fleet.MachineID]bool
	machines []fleet.MachineID
	releases []fleet.Digest
	rollouts []fleet.RolloutID
	others   []string // ids of keys that can do more, or are another owner's
	ends     int64    // when the first key ends
}

var teams = []fleet.Tag{"web", "db", "ops"}

func newAttack(t *testing.T, rt *rapid.T) *attack {
	w := newWorld(t)
	ctx := t.Context()
	w.pin()
	a := &attack{world: w, reached: map[fleet.MachineID]bool{}, ends: time.Now().Add(time.Hour).UnixMilli()}
	key := func(c access.Caller, in api.KeyRequest) access.Caller {
		k := must[api.NewKey](t)(w.plane().Keys.Create(ctx, c, in))
		return must[access.Caller](t)(w.plane().Keys.Authenticate(ctx, k.Secret))
	}
	if err := w.plane().Keys.SetBootstrapSecret(ctx, strings.Repeat("s", 16)); err != nil {
		t.Fatal(err)
	}
	first := must[api.NewKey](t)(w.plane().Keys.Bootstrap(ctx, api.BootstrapRequest{Secret: strings.Repeat("s", 16), Owner: "root"}))
	a.root = must[access.Caller](t)(w.plane().Keys.Authenticate(ctx, first.Secret))
	a.tags = rapid.SliceOfNDistinct(rapid.SampledFrom(teams), 1, 2, rapid.ID).Draw(rt, "tags of the key")
	role := rapid.SampledFrom([]fleet.Role{fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin, fleet.RoleAdmin}).Draw(rt, "role of the key")
	for i := range rapid.IntRange(3, 6).Draw(rt, "machines") {
		id := fleet.MachineID(fmt.Sprintf("host-%c%d", 'p'+i, i))
		tags := rapid.SliceOfNDistinct(rapid.SampledFrom(teams), 0, 2, rapid.ID).Draw(rt, "tags of "+string(id))
		life := rapid.SampledFrom([]fleet.Lifecycle{fleet.Active, fleet.Active, fleet.Pending, fleet.Decommissioned}).Draw(rt, "lifecycle of "+string(id))
		must[fleet.Machine](t)(w.plane().RegisterMachine(ctx, alice, api.MachineRequest{ID: id, Lifecycle: life, Tags: tags}))
		a.machines = append(a.machines, id)
		a.reached[id] = slices.ContainsFunc(tags, func(t fleet.Tag) bool { return slices.Contains(a.tags, t) })
	}
	for range rapid.IntRange(1, 3).Draw(rt, "releases") {
		w.tag = rapid.SampledFrom(teams).Draw(rt, "tag of the entries")
		in := rapid.SliceOfNDistinct(rapid.SampledFrom(append(slices.Clone(a.machines), "host-new")), 1, -1, rapid.ID).Draw(rt, "machines of the release")
		slices.Sort(in)
		a.releases = append(a.releases, w.register(in...))
		d, err := w.plane().CreateRollout(ctx, alice, api.RolloutRequest{Spec: spec(a.releases[len(a.releases)-1], func(s *fleet.RolloutSpec) {
			s.Supersede = rapid.Bool().Draw(rt, "supersede")
			s.Name = "roll"
		})})
		if err == nil {
			a.rollouts = append(a.rollouts, d.ID)
		}
	}
	w.tag = ""
	a.others = append(a.others, a.root.KeyID)
	for _, tags := range [][]fleet.Tag{nil, {"web"}, {"db", "ops"}} {
		a.others = append(a.others, key(a.root, api.KeyRequest{Owner: "eve", Role: fleet.RoleAdmin, Tags: tags}).KeyID)
	}
	a.keys = []access.Caller{key(a.root, api.KeyRequest{Owner: "mallory", Role: role, Tags: a.tags, ExpiresAt: a.ends})}
	return a
}

// call is an operation about a machine, a rollout, a release or a key. Its answer
// is what an attacker sees.
type call struct {
	id string
	do func(c access.Caller, target string) (any, error)
}

func about[T any](v T, err error) (any, error) { return v, err }

// calls are those whose answer must not tell whether a target that the key is not
// for is there, by what they are about.
func (a *attack) calls(rt *rapid.T) map[string][]call {
	ctx, p := a.tb.Context(), a.plane()
	tags := rapid.OneOf(rapid.SliceOfNDistinct(rapid.SampledFrom(a.tags), 1, -1, rapid.ID), rapid.SliceOfNDistinct(rapid.SampledFrom(teams), 0, 3, rapid.ID)).Draw(rt, "tags")
	life := rapid.SampledFrom([]fleet.Lifecycle{fleet.Active, fleet.Maintenance, fleet.Decommissioned}).Draw(rt, "lifecycle")
	verb := rapid.SampledFrom([]api.Verb{api.VerbPause, api.VerbResume, api.VerbCancel, api.VerbApprove, api.VerbRetry, api.VerbSkip, api.VerbRevert}).Draw(rt, "verb")
	digest := rapid.SampledFrom(a.releases).Draw(rt, "release")
	dry := rapid.Bool().Draw(rt, "dry run")
	page := fleet.PageRequest{Limit: rapid.IntRange(1, 3).Draw(rt, "limit")}
	var named []fleet.MachineID
	if rapid.Bool().Draw(rt, "named") {
		named = []fleet.MachineID{rapid.SampledFrom(a.machines).Draw(rt, "machine of the verb")}
		if !a.reached[named[0]] && len(a.own()) > 0 {
			named[0] = a.own()[0]
		}
	}
	m := func(s string) fleet.MachineID { return fleet.MachineID(s) }
	r := func(s string) fleet.RolloutID { return fleet.RolloutID(s) }
	return map[string][]call{
		"machine": {
			{"getMachine", func(c access.Caller, t string) (any, error) { return about(p.Machine(ctx, c, m(t))) }},
			{"machineReports", func(c access.Caller, t string) (any, error) { return about(p.MachineReports(ctx, c, m(t), page)) }},
			{"setLifecycle", func(c access.Caller, t string) (any, error) {
				return about(p.SetLifecycle(ctx, c, m(t), api.LifecycleRequest{Lifecycle: life}))
			}},
			{"setTags", func(c access.Caller, t string) (any, error) {
				return about(p.SetTags(ctx, c, m(t), api.TagsRequest{Tags: tags}))
			}},
			{"createToken", func(c access.Caller, t string) (any, error) {
				v, err := p.Enrolment.CreateToken(ctx, c, m(t), api.TokenRequest{Replace: dry}, api.CAHash(nil))
				return v.Machine, err
			}},
			{"adoptMachine", func(c access.Caller, t string) (any, error) { return about(p.AdoptMachine(ctx, c, m(t))) }},
			{"listReleases", func(c access.Caller, t string) (any, error) {
				return about(p.Releases(ctx, c, fleet.ReleaseFilter{Machine: m(t)}, page))
			}},
			{"createRollout", func(c access.Caller, t string) (any, error) {
				return about(p.CreateRollout(ctx, c, api.RolloutRequest{DryRun: dry, Spec: spec(digest, func(s *fleet.RolloutSpec) { s.Select, s.Supersede = []string{t}, true })}))
			}},
		},
		"rollout": {
			{"getRollout", func(c access.Caller, t string) (any, error) { return about(p.Rollout(ctx, c, r(t))) }},
			{"listAssignments", func(c access.Caller, t string) (any, error) {
				return about(p.Assignments(ctx, c, r(t), fleet.AssignmentFilter{Batch: fleet.AllBatches}, page))
			}},
			{"rolloutEvents", func(c access.Caller, t string) (any, error) { return about(p.RolloutEvents(ctx, c, r(t), page)) }},
			{"explainRollout", func(c access.Caller, t string) (any, error) { return about(p.Explain(ctx, c, r(t))) }},
			{"rolloutVerb", func(c access.Caller, t string) (any, error) {
				return about(p.RolloutVerb(ctx, c, r(t), verb, api.VerbRequest{Machines: named}))
			}},
			{"deleteRollout", func(c access.Caller, t string) (any, error) { return about(p.DeleteRollout(ctx, c, r(t))) }},
		},
		"release": {
			{"getRelease", func(c access.Caller, t string) (any, error) {
				d, err := p.Release(ctx, c, fleet.Digest(t))
				return slices.Collect(texts(d.Entries)), err
			}},
			{"diffReleases", func(c access.Caller, t string) (any, error) {
				return about(p.DiffReleases(ctx, c, digest, fleet.Digest(t)))
			}},
			{"deleteRelease", func(c access.Caller, t string) (any, error) { return about(p.DeleteRelease(ctx, c, fleet.Digest(t))) }},
		},
		"key": {
			{"rotateKey", func(c access.Caller, t string) (any, error) {
				k, err := p.Keys.Rotate(ctx, c, t)
				a.took(rt, k, err)
				return k.Key, err
			}},
			{"revokeKey", func(c access.Caller, t string) (any, error) { return about(p.Keys.Revoke(ctx, c, t)) }},
		},
		"": {
			{"listMachines", func(c access.Caller, _ string) (any, error) {
				return about(p.Machines(ctx, c, fleet.MachineFilter{Lifecycle: life}, page))
			}},
			{"listRollouts", func(c access.Caller, _ string) (any, error) {
				return about(p.Rollouts(ctx, c, fleet.RolloutFilter{}, page))
			}},
			{"listKeys", func(c access.Caller, _ string) (any, error) { return about(p.Keys.List(ctx, c, page)) }},
			{"createRollout", func(c access.Caller, _ string) (any, error) {
				return about(p.CreateRollout(ctx, c, api.RolloutRequest{DryRun: dry, Spec: spec(digest, func(s *fleet.RolloutSpec) { s.Supersede = true })}))
			}},
		},
		"new key": {
			{"createKey", func(c access.Caller, _ string) (any, error) {
				in := api.KeyRequest{
					Owner: rapid.SampledFrom([]string{"mallory", "eve", "root"}).Draw(rt, "owner"), Tags: tags,
					Role:      rapid.SampledFrom([]fleet.Role{fleet.RoleAuditor, fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin}).Draw(rt, "role"),
					ExpiresAt: rapid.SampledFrom([]int64{0, a.ends - 1, a.ends, a.ends + 1}).Draw(rt, "ends"),
				}
				k, err := p.Keys.Create(ctx, c, in)
				a.took(rt, k, err)
				return k.Key, err
			}},
		},
		"new machine": {
			{"registerMachine", func(c access.Caller, _ string) (any, error) {
				id := rapid.SampledFrom(append(slices.Clone(a.machines), "host-new", "host-free")).Draw(rt, "new machine")
				v, err := p.RegisterMachine(ctx, c, api.MachineRequest{ID: id, Tags: tags})
				if err == nil {
					a.registered(rt, v, tags)
				}
				return nil, nil // that a name is taken cannot be kept secret
			}},
		},
		"events": {
			{"events", func(c access.Caller, _ string) (any, error) {
				var seen []api.Event
				until, cancel := context.WithTimeout(ctx, time.Second) // of the bubble: when nothing else is to come
				defer cancel()
				for e, err := range p.Events(until, c, 0, fleet.EventFilter{}, 0) {
					if err != nil {
						return seen, err
					}
					seen = append(seen, e)
				}
				return seen, nil
			}},
		},
	}
}

func texts(raw [][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, b := range raw {
			if !yield(string(b)) {
				return
			}
		}
	}
}

func (a *attack) own() []fleet.MachineID {
	return slices.DeleteFunc(slices.Clone(a.machines), func(id fleet.MachineID) bool { return !a.reached[id] })
}

// took notes a key whose secret the attacker has now: it does no more than the
// first, in the same name, and ends no later.
func (a *attack) took(rt *rapid.T, k api.NewKey, err error) {
	if err != nil {
		return
	}
	c := must[access.Caller](a.tb)(a.plane().Keys.Authenticate(a.tb.Context(), k.Secret))
	more := slices.ContainsFunc(c.Tags, func(t fleet.Tag) bool { return !slices.Contains(a.tags, t) })
	if c.Owner != "mallory" || !c.Limited() || more || !a.keys[0].Role.Includes(c.Role) || k.Key.ExpiresAt == 0 || k.Key.ExpiresAt > a.ends {
		rt.Fatalf("the attacker has the key %+v; the first is %+v, until %d", k.Key, a.keys[0], a.ends)
	}
	a.keys = append(a.keys, c)
}

// registered notes a machine that the attacker has made: a free name, under the
// attacker's tags.
func (a *attack) registered(rt *rapid.T, m fleet.Machine, tags []fleet.Tag) {
	if slices.Contains(a.machines, m.ID) || slices.ContainsFunc(tags, func(t fleet.Tag) bool { return !slices.Contains(a.tags, t) }) {
		rt.Fatalf("the attacker registered %s with the tags %v", m.ID, tags)
	}
	if signed, ok, err := a.store.NewestEntryTags(a.tb.Context(), m.ID); err != nil || ok && !slices.Contains(a.tags, signed[0]) {
		rt.Fatalf("the attacker registered %s, which is signed for %v: %v", m.ID, signed, err)
	}
	a.machines, a.reached[m.ID] = append(a.machines, m.ID), true
}

// outside are the names of what a key is not for: machines, rollouts without one
// of its machines, and keys.
func (a *attack) outside(c access.Caller) map[string][]string {
	ctx := a.tb.Context()
	out := map[string][]string{"machine": {}, "rollout": {}, "key": {}}
	own := map[fleet.MachineID]bool{}
	for _, id := range a.machines {
		if own[id] = c.Reaches(must[fleet.Machine](a.tb)(a.plane().Machine(ctx, alice, id))); !own[id] {
			out["machine"] = append(out["machine"], string(id))
		}
	}
	for _, id := range a.rollouts {
		in, err := a.store.RolloutMachines(ctx, id)
		if err == nil && len(in) > 0 && !slices.ContainsFunc(in, func(id fleet.MachineID) bool { return own[id] }) {
			out["rollout"] = append(out["rollout"], string(id))
		}
	}
	for _, k := range must[[]fleet.Key](a.tb)(a.store.AllKeys(ctx)) {
		if len(k.Tags) == 0 || !c.Role.Includes(k.Role) || slices.ContainsFunc(k.Tags, func(t fleet.Tag) bool { return !slices.Contains(c.Tags, t) }) {
			out["key"] = append(out["key"], k.ID)
		}
	}
	return out
}

// state is all that a key is not for, by name.
func (a *attack) state(outside map[string][]string, machines []fleet.MachineID) map[string]string {
	ctx, out := a.tb.Context(), map[string]string{}
	put := func(name string, v any, err error) {
		if err != nil {
			v = err.Error()
		}
		out[name] = string(must[[]byte](a.tb)(json.Marshal(v)))
	}
	for _, id := range outside["machine"] {
		m, err := a.plane().Machine(ctx, alice, fleet.MachineID(id))
		put("machine "+id, m, err)
	}
	for _, id := range machines { // also of the key's own: tags put them under other keys
		m := must[fleet.Machine](a.tb)(a.plane().Machine(ctx, alice, id))
		put("tags of other teams on "+string(id), slices.DeleteFunc(slices.Clone(m.Tags.Operator), func(t fleet.Tag) bool { return slices.Contains(a.tags, t) }), nil)
	}
	for _, id := range outside["rollout"] {
		d, err := a.plane().Rollout(ctx, alice, fleet.RolloutID(id))
		put("rollout "+id, d, err)
	}
	for _, id := range a.rollouts {
		all := must[[]fleet.Assignment](a.tb)(a.store.AllAssignments(ctx, id))
		for _, as := range all {
			if slices.Contains(outside["machine"], string(as.Machine)) {
				put("assignment "+string(id)+" "+string(as.Machine), as, nil)
			}
		}
	}
	for _, id := range outside["key"] {
		k, err := a.store.Key(ctx, id)
		k.LastUsed = 0
		put("key "+id, k, err)
	}
	for _, d := range a.releases {
		for _, b := range must[[][]byte](a.tb)(a.store.ReleaseEntries(ctx, d)) {
			if slices.ContainsFunc(outside["machine"], func(id string) bool { return strings.Contains(string(b), `"`+id+`"`) }) {
				put("entry "+string(d)+string(b), nil, nil)
			}
		}
	}
	return out
}

// answer is what an attacker sees of a call.
func answer(v any, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: %v %s", fleet.ErrorCode(err), err, fleet.ErrorHint(err))
	}
	b, _ := json.Marshal(v) // values of the API
	return string(b)
}

// twins are names that nothing has, by what they would name.
var twins = map[string]string{"machine": "host-zz", "rollout": "01JZZZZZZZZZZZZZZZZZZZZZZZ", "key": "zzzzzzzzzz"}

// step makes one call, and holds it to what the key is for.
func (a *attack) step(rt *rapid.T) {
	c := rapid.SampledFrom(a.keys).Draw(rt, "key")
	outside := a.outside(c)
	all := a.calls(rt)
	kind := rapid.SampledFrom(slices.Sorted(maps.Keys(all))).Draw(rt, "about")
	do := rapid.SampledFrom(all[kind]).Draw(rt, "call")
	i := slices.IndexFunc(api.Operations[:], func(op api.Operation) bool { return op.ID == do.id })
	if c.MayDo(api.Operations[i]) != nil {
		return
	}
	names := map[string][]string{
		"machine": words(a.machines), "rollout": words(a.rollouts), "release": words(a.releases), "key": append(slices.Clone(a.others), c.KeyID),
	}[kind]
	if len(names) == 0 {
		names = []string{""}
	}
	target := rapid.SampledFrom(names).Draw(rt, "target")
	twin := ""
	if slices.Contains(outside[kind], target) {
		twin = strings.ReplaceAll(answer(do.do(c, twins[kind])), twins[kind], target)
	}
	machines := slices.Clone(a.machines)
	before := a.state(outside, machines)
	got := answer(do.do(c, target))
	if twin != "" && got != twin {
		rt.Fatalf("%s of %s tells that it is there:\n%s\nof what is not there:\n%s", do.id, target, got, twin)
	}
	for what, hidden := range outside {
		for _, name := range hidden {
			if name != target && strings.Contains(got, name) {
				rt.Fatalf("%s of %q tells of the %s %s:\n%s", do.id, target, what, name, got)
			}
		}
	}
	if d := cmp.Diff(before, a.state(outside, machines)); d != "" {
		rt.Fatalf("%s of %q changed what the key is not for (-before +after):\n%s", do.id, target, d)
	}
	for _, k := range a.keys {
		for id, own := range a.reached {
			if !own && k.Reaches(must[fleet.Machine](a.tb)(a.plane().Machine(a.tb.Context(), alice, id))) {
				rt.Fatalf("after %s, the key %+v reaches %s", do.id, k, id)
			}
		}
	}
}

func words[T ~string](names []T) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out
}

// E09: whatever the holder of a limited key does, in any order, with it and with
// each key made by it: nothing that the key is not for is seen or changed, no
// answer tells whether it is there, and no key comes of it that can do more, for
// longer, or in another's name.
func TestLimitedKey_SeesAndChangesNothingElse(t *testing.T) {
	runs, found := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > 15 && !found {
			return // each is a file of its own, synced at every write
		}
		var failed any // rapid fails by a panic, which must not leave the bubble
		bubble(t, func(t *testing.T) {
			defer func() { failed = recover() }()
			a := newAttack(t, rt)
			defer a.stop()
			for range rapid.IntRange(10, 60).Draw(rt, "steps") {
				a.step(rt)
			}
		})
		if failed != nil {
			found = true
			panic(failed)
		}
	})
}
