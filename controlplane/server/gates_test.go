// SPDX-License-Identifier: AGPL-3.0-only

package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// applied plays a machine that carries out its order and is well.
func (w *world) applied(agent *api.AgentClient, name fleet.MachineID) {
	w.tb.Helper()
	var o api.Orders
	w.eventually(string(name)+" has an order", func() bool {
		o = must[api.Orders](w.tb)(agent.CheckIn(w.ctx(), checkIn(name)))
		return o.Apply != nil
	})
	var path fleet.StorePath
	for a := range api.All(w.ctx(), w.assignmentsOf(o.Apply.Rollout)) {
		if a.Machine == name {
			path = a.StorePath
		}
	}
	r := must[api.ReportsReply](w.tb)(agent.Reports(w.ctx(), []fleet.Report{{
		ID: fmt.Sprint(o.Apply.Rollout, "-", o.Apply.Attempt), Machine: name, At: w.now().UnixMilli(), Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive,
		Rollout: o.Apply.Rollout, Attempt: o.Apply.Attempt, Digest: o.Apply.Digest, StorePath: path, BootID: "boot-1", Confirmed: "control-plane",
		Generations: fleet.Generations{Running: path, Booted: path, BootDefault: path},
	}}))
	if len(r.Accepted) != 1 {
		w.tb.Fatalf("report of %s: %+v", name, r)
	}
}

// A rollout over the wire waits for its gate, also while the control plane starts
// again in between (H15), and its dry run shows what the gate says now.
func TestGates_HoldABatchUntilTheyPass(t *testing.T) {
	var answer atomic.Value
	answer.Store("inconclusive")
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ ID string }
		b, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(b, &q)
		fmt.Fprintf(w, `{"id": %q, "answer": %q, "message": "ticket 12"}`, q.ID, answer.Load())
	}))
	defer hook.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of sixteen bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.stop()
	w.gates = map[string]config.Gate{"change": {Kind: config.GateWebhook, URL: hook.URL, SecretFile: secret}}
	w.start()
	admin := w.admin()
	must[api.Document](t)(admin.PutRoot(t.Context(), w.fleet.RootEnvelope))
	one, two := w.enrolled(admin, "web-01"), w.enrolled(admin, "web-02")
	for name, a := range map[fleet.MachineID]*api.AgentClient{"web-01": one, "web-02": two} {
		must[api.Orders](t)(a.CheckIn(t.Context(), checkIn(name)))
	}
	if list := must[[]api.Gate](t)(admin.Gates(t.Context())); len(list) != 1 || list[0] != (api.Gate{Name: "change", Kind: "webhook"}) {
		t.Errorf("gates: %+v", list)
	}
	spec := fleet.RolloutSpec{Release: w.release(admin, 1, "", "web-01", "web-02").Digest, Canaries: []string{"web-01"}, MinHealthyMs: 1}
	spec.Gates = []fleet.GateName{"none"}
	_, err := admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: spec})
	wantCode(t, "a gate that there is not", err, fleet.Invalid)
	spec.Gates = []fleet.GateName{"change"}
	dry := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: spec, DryRun: true}))
	if g := dry.Plan.Gates; len(g) != 1 || g[0].Answer != fleet.GateInconclusive || g[0].Message != "ticket 12" {
		t.Errorf("dry run: %+v", g)
	}
	id := must[api.RolloutDetail](t)(admin.CreateRollout(t.Context(), api.RolloutRequest{Spec: spec})).ID
	w.applied(one, "web-01")
	asked := func(answer fleet.GateAnswer) func() bool {
		return func() bool {
			b := must[api.RolloutDetail](t)(w.operator(w.secretOfAdmin).Rollout(t.Context(), id)).Batches[0]
			return len(b.Gates) == 1 && b.Gates[0].Answer == answer
		}
	}
	w.eventually("the gate was asked", asked(fleet.GateInconclusive))
	if o := must[api.Orders](t)(two.CheckIn(t.Context(), checkIn("web-02"))); o.Apply != nil {
		t.Errorf("the next batch has an order: %+v", o.Apply)
	}
	waits := must[[]api.Waiting](t)(admin.ExplainRollout(t.Context(), id))
	if why := waits[0].Why; !strings.Contains(why, "gate change") || !strings.Contains(why, "ticket 12") {
		t.Errorf("explained by %+v", waits)
	}
	w.stop()
	answer.Store("pass")
	w.advance(31 * time.Second)
	w.start()
	w.eventually("the gate has passed", asked(fleet.GatePass))
	key := w.operator(w.secretOfAdmin)
	if r := must[api.RolloutDetail](t)(key.Rollout(t.Context(), id)); r.Batches[0].State != fleet.BatchPassed || r.Batches[1].State != fleet.BatchOpen {
		t.Errorf("batches: %+v", r.Batches)
	}
}
