// SPDX-License-Identifier: MIT

package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// hold serves the freeze of the fleet.
func (p *plane) hold(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		var req api.FreezeRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
		p.freeze = &fleet.Freeze{Reason: req.Reason, Until: req.Until, By: "key:alice", At: 1}
	}
	if p.freeze == nil {
		refuse(w, fleet.Errorf(fleet.NotFound, "the fleet is not frozen"))
		return
	}
	reply(w, *p.freeze)
	if r.Method == http.MethodDelete {
		p.freeze = nil
	}
}

func TestFreeze_SendsReasonAndMoment(t *testing.T) {
	p := newPlane(t)
	u := newUser(t).of(p)
	u.mustRun(command.ExitUsage, "freeze")
	u.mustRun(command.ExitUsage, "freeze", "--reason", "incident 7", "--until", "tomorrow")
	if p.freeze != nil {
		t.Fatalf("frozen by a wrong command line: %+v", p.freeze)
	}
	r := u.mustRun(0, "freeze", "--reason", "incident 7", "--until", "2h")
	if left := time.Until(time.UnixMilli(p.freeze.Until)); p.freeze.Reason != "incident 7" || left < 119*time.Minute || left > 2*time.Hour || !strings.Contains(r.out, "incident 7") {
		t.Errorf("frozen by %+v, said %q", p.freeze, r.out)
	}
	u.mustRun(0, "freeze", "--reason", "incident 8", "--until", "2026-12-01T06:00:00+01:00")
	if p.freeze.Until != time.Date(2026, 12, 1, 5, 0, 0, 0, time.UTC).UnixMilli() {
		t.Errorf("frozen until %d", p.freeze.Until)
	}
	if r := u.mustRun(0, "unfreeze"); p.freeze != nil || !strings.Contains(r.out, "incident 8") {
		t.Errorf("unfreeze said %q, left %+v", r.out, p.freeze)
	}
	u.mustRun(command.ExitError, "unfreeze")
}
