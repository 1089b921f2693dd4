// SPDX-License-Identifier: MIT

package hostile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
	tt "github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// database is the files of a control plane's database, which is stopped.
func (c *target) database(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, f := range must[[]string](t)(filepath.Glob(filepath.Join(c.dir, "nixfleet.db*"))) {
		out[f] = must[[]byte](t)(os.ReadFile(f))
	}
	if len(out) == 0 {
		t.Fatal("there is no database")
	}
	return out
}

// put puts files in the place of a database.
func (c *target) put(t *testing.T, files map[string][]byte) {
	t.Helper()
	removeDatabase(t, c.dir)
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func removeDatabase(t *testing.T, dir string) {
	t.Helper()
	for _, f := range must[[]string](t)(filepath.Glob(filepath.Join(dir, "nixfleet.db*"))) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// alter replaces text in the database of a control plane, which restarts. The row
// keeps its length, so that the file stays a database.
func (c *target) alter(t *testing.T, text, by string) {
	t.Helper()
	c.stop()
	found := false
	files := c.database(t)
	for name, data := range files {
		if bytes.Contains(data, []byte(text)) {
			found = true
			files[name] = bytes.ReplaceAll(data, []byte(text), []byte(by))
		}
	}
	if !found || len(text) != len(by) {
		t.Fatalf("the database has no %q that %q can replace", text, by)
	}
	c.put(t, files)
	c.start()
	c.admin = c.operator(c.secret)
}

// verifyAudit reads the whole trail as `nixfleet-control-plane doctor` does.
func (c *target) verifyAudit(t *testing.T) error {
	t.Helper()
	st := must[*store.Store](t)(store.Open(t.Context(), store.Options{Path: filepath.Join(c.dir, "nixfleet.db"), ReadOnly: true}))
	_, err := st.VerifyAudit(t.Context())
	return errors.Join(err, st.Close())
}

// E10, E12: whoever can write the database stops a fleet, and is noticed. What
// machines are told to run does not change.
func TestAttacks_OnTheDatabase(t *testing.T) {
	c := newTarget(t)
	ctx := context.Background()
	web := c.enrolled("web-01")
	first := c.register(c.signed("acme-release", 1, "", "web-01"))
	spec := api.RolloutRequest{Spec: fleet.RolloutSpec{Release: first.Digest}}
	rolled := must[api.RolloutDetail](t)(c.admin.CreateRollout(ctx, spec))
	c.stop()
	old := c.database(t) // while the rollout runs
	c.start()
	c.admin = c.operator(c.secret)
	must[api.RolloutDetail](t)(c.admin.RolloutVerb(ctx, rolled.ID, api.VerbCancel, api.VerbRequest{Reason: "a marked reason"}))
	epoch := ""
	orders := func() api.Orders {
		e := tt.Entry("web-01", "first")
		o := must[api.Orders](t)(c.agent(web).CheckIn(ctx, api.CheckIn{
			Machine: "web-01", AgentVersion: "test", System: "x86_64-linux", Line: "main", BootID: "boot-1", State: fleet.AgentIdle, Epoch: epoch,
			Generations: fleet.Generations{Running: e.StorePath, Booted: e.StorePath, BootDefault: e.StorePath},
		}))
		return o
	}
	epoch = orders().Epoch
	told := func(*testing.T) any { o := orders(); return []*fleet.Order{o.Apply, o.Revert} }
	noticed := func(text string) string {
		err := c.verifyAudit(t)
		if err == nil {
			return ""
		}
		if !strings.Contains(err.Error(), text) {
			return err.Error()
		}
		return "noticed"
	}
	begin := func(*testing.T) string { _, err := c.admin.CreateRollout(ctx, spec); return code(err) }
	var control api.RolloutDetail
	play(t, stage{
		compared: "the orders of a machine", state: told,
		control: func(t *testing.T) { control = must[api.RolloutDetail](t)(c.admin.CreateRollout(ctx, spec)) },
		undo: func(t *testing.T) {
			must[api.RolloutDetail](t)(c.admin.RolloutVerb(ctx, control.ID, api.VerbCancel, api.VerbRequest{}))
			epoch = orders().Epoch
		},
	}, []attack{
		{holder: oneMachine, entry: "check-in", name: "E12 an epoch that nobody gave", want: "", do: func(*testing.T) string {
			was := epoch
			epoch = "9.9.ffff.ffff"
			orders()
			epoch = was
			_, err := c.admin.CreateRollout(ctx, api.RolloutRequest{DryRun: true, Spec: spec.Spec})
			return code(err) // a database that is taken for an old copy refuses this
		}},
		{holder: database, entry: "audit trail", name: "E10 an entry is edited", want: "noticed", do: func(t *testing.T) string {
			c.alter(t, "a marked reason", "another reason.")
			return noticed("entry")
		}},
		{holder: database, entry: "database", name: "E12 an older copy, with a rollout that was cancelled", want: "conflict", do: func(t *testing.T) string {
			c.stop()
			c.put(t, old)
			c.start()
			c.admin = c.operator(c.secret)
			orders() // the machine has seen more than this database
			return begin(t)
		}},
		{holder: database, entry: "database", name: "E12 wiped", want: "not-found", do: func(t *testing.T) string {
			c.wipe(t)
			orders()
			return begin(t)
		}},
	})
}

// E01: a database that lies about an entry is believed by no machine.
func TestAttacks_OnTheReleasesOfTheDatabase(t *testing.T) {
	c := newTarget(t)
	web := c.enrolled("web-01")
	r := c.register(c.signed("acme-release", 1, "", "web-01", "web-02"))
	st := c.fleet.State("web-01")
	st.Floor = &trust.Floor{}
	path := string(tt.Entry("web-01", "release 1").StorePath)
	judge := func(t *testing.T) string {
		b := must[trust.Bundle](t)(trust.ParseBundle(must[[]byte](t)(c.agent(web).Release(t.Context(), r.Digest))))
		a, refusal := trust.Accept(st, c.now().UnixMilli(), b)
		if refusal != nil {
			return string(refusal.Reason)
		}
		st = st.Record(a, c.now().UnixMilli())
		return ""
	}
	play(t, stage{compared: "what the machine has accepted", state: func(*testing.T) any { return st }, control: func(t *testing.T) {
		if got := judge(t); got != "" {
			t.Errorf("the release as it was signed is refused: %s", got)
		}
	}}, []attack{{holder: database, entry: "release", name: "E01 another store path in an entry", want: "proof-mismatch", do: func(t *testing.T) string {
		c.alter(t, path, path[:len(path)-1]+"!")
		return judge(t)
	}}})
}
