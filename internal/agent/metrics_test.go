// SPDX-License-Identifier: MIT

package agent

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
	"github.com/arcanesys/nixfleet/internal/agent/states"
)

func TestMetrics_AreTextThatPrometheusReads(t *testing.T) {
	outbox, err := disk.OpenOutbox(filepath.Join(t.TempDir(), "outbox"))
	if err != nil {
		t.Fatal(err)
	}
	m := metrics{
		version: "1.2 \"x\"\n", machine: machine.NewSnapshot("web-01", states.New(), slog.New(slog.DiscardHandler)), outbox: outbox,
		contact: func() link.Contact { return link.Contact{Last: time.Unix(1000, 0), Answered: 1, Failed: 1} },
	}
	m.machine.SetChecks([]fleet.HealthCheckResult{{Name: "app", Kind: fleet.HealthCheckUnit, Status: fleet.HealthCheckPassing, Required: true, DurationMs: 12}})
	text := string(m.text())
	for _, want := range []string{
		"nixfleet_agent_state{state=\"idle\"} 1\n", "nixfleet_agent_state{state=\"fetching\"} 0\n", `version="1.2 \"x\"\n"`,
		"nixfleet_agent_polls_total{result=\"failed\"} 1\n", "nixfleet_agent_last_contact_seconds 1000\n",
		"nixfleet_agent_check_passing{check=\"app\",kind=\"unit\",required=\"true\"} 1\n", "nixfleet_agent_check_duration_seconds{check=\"app\"} 0.012\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
