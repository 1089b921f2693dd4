// SPDX-License-Identifier: MIT

package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// calls makes every call of the operators' client once. Path parameters are
// called as the contract calls them.
func calls(ctx context.Context, c *api.Client) {
	page := fleet.PageRequest{}
	_, _ = c.Info(ctx)
	_, _ = c.BootstrapKey(ctx, api.BootstrapRequest{})
	_, _ = c.Whoami(ctx)
	_, _ = c.Keys(ctx, page)
	_, _ = c.CreateKey(ctx, api.KeyRequest{})
	_, _ = c.RotateKey(ctx, "{id}")
	_, _ = c.RevokeKey(ctx, "{id}")
	_, _ = c.Root(ctx)
	_, _ = c.PutRoot(ctx, nil)
	_, _ = c.Revocations(ctx)
	_, _ = c.PutRevocations(ctx, nil)
	_, _ = c.Timestamp(ctx)
	_, _ = c.PutGrant(ctx, nil)
	_, _ = c.PutTimestamp(ctx, nil)
	_, _ = c.Releases(ctx, fleet.ReleaseFilter{}, page)
	_, _ = c.CreateRelease(ctx, api.ReleaseRequest{})
	_, _ = c.Release(ctx, "{digest}")
	_, _ = c.DiffReleases(ctx, "{digest}", "{other}")
	_ = c.DeleteRelease(ctx, "{digest}")
	_, _ = c.Lines(ctx, page)
	_, _ = c.Line(ctx, "{line}")
	_, _ = c.Machines(ctx, fleet.MachineFilter{}, page)
	_, _ = c.RegisterMachine(ctx, api.MachineRequest{})
	_, _ = c.Machine(ctx, "{id}")
	_, _ = c.MachineReports(ctx, "{id}", page)
	_, _ = c.SetLifecycle(ctx, "{id}", fleet.Active)
	_, _ = c.SetTags(ctx, "{id}", api.TagsRequest{})
	_, _ = c.CreateToken(ctx, "{id}", api.TokenRequest{})
	_, _ = c.AdoptMachine(ctx, "{id}")
	_, _ = c.Rollouts(ctx, fleet.RolloutFilter{}, page)
	_, _ = c.CreateRollout(ctx, api.RolloutRequest{})
	_, _ = c.Rollout(ctx, "{id}")
	_, _ = c.RolloutEvents(ctx, "{id}", page)
	_, _ = c.Assignments(ctx, "{id}", fleet.AssignmentFilter{Batch: fleet.AllBatches}, page)
	_, _ = c.RolloutVerb(ctx, "{id}", "{verb}", api.VerbRequest{})
	_, _ = c.ExplainRollout(ctx, "{id}")
	_ = c.DeleteRollout(ctx, "{id}")
	_, _ = c.Policies(ctx)
	_, _ = c.Policy(ctx, "{name}")
	_, _ = c.PutPolicy(ctx, "{name}", api.PolicyRequest{})
	_, _ = c.DeletePolicy(ctx, "{name}")
	_, _ = c.Schedules(ctx)
	_, _ = c.PutSchedule(ctx, "{name}", api.ScheduleRequest{})
	_, _ = c.DeleteSchedule(ctx, "{name}")
	_, _ = c.Budgets(ctx)
	_, _ = c.PutBudget(ctx, "{name}", api.BudgetRequest{})
	_, _ = c.DeleteBudget(ctx, "{name}")
	_, _ = c.Gates(ctx)
	_, _ = c.RenameMachine(ctx, "{id}", api.RenameRequest{})
	_ = c.DeleteMachine(ctx, "{id}")
	_, _ = c.Webhooks(ctx)
	_, _ = c.CreateWebhook(ctx, fleet.WebhookSpec{})
	_ = c.DeleteWebhook(ctx, "{id}")
	_, _ = c.TestWebhook(ctx, "{id}")
	_, _ = c.WebhookMessages(ctx, "{id}", true, page)
	_, _ = c.ResendMessages(ctx, "{id}", api.ResendRequest{})
	_, _ = c.Freeze(ctx)
	_, _ = c.SetFreeze(ctx, api.FreezeRequest{})
	_, _ = c.EndFreeze(ctx)
	_, _ = c.Audit(ctx, fleet.AuditFilter{}, page)
	_, _ = c.AuditHead(ctx)
	_ = c.ExportAudit(ctx, fleet.AuditFilter{}, io.Discard)
	for range c.Watch(ctx, 0, fleet.EventFilter{}) {
		break
	}
}

func TestClient_HasOneMethodForEachOperation(t *testing.T) {
	var mu sync.Mutex
	var got, want []string
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Method+" "+r.URL.Path)
		fmt.Fprint(w, "data: {}\n\n") // an event; no JSON, which ends every other call at once
	})
	defer c.Close()
	calls(t.Context(), c)
	for _, op := range api.Operations {
		want = append(want, op.Method+" "+op.Path)
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}
