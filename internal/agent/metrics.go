// SPDX-License-Identifier: MIT

package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/disk"
	"github.com/arcanesys/nixfleet/internal/agent/link"
	"github.com/arcanesys/nixfleet/internal/agent/machine"
)

// metrics is what Prometheus can read of the agent.
type metrics struct {
	listen  string // host:port
	version string
	machine *machine.Snapshot
	outbox  *disk.Outbox
	contact func() link.Contact
}

// serve serves /metrics in Prometheus' text format until ctx ends.
func (m metrics) serve(ctx context.Context) error {
	l, err := net.Listen("tcp", m.listen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = rw.Write(m.text()) // the client may have disconnected
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// text is what Prometheus reads.
func (m metrics) text() []byte {
	var b bytes.Buffer
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	j, g := m.machine.Journal(), m.machine.Generations()
	family("nixfleet_agent_state", "gauge", "What the agent is doing: 1 for the present state.")
	for _, s := range []fleet.AgentState{fleet.AgentIdle, fleet.AgentChecking, fleet.AgentFetching, fleet.AgentApplying, fleet.AgentVerifying, fleet.AgentRollingBack, fleet.AgentReporting} {
		fmt.Fprintf(&b, "nixfleet_agent_state{state=%q} %d\n", s, bit(j.Step.State() == s))
	}
	family("nixfleet_agent_info", "gauge", "Version of the agent, system that runs, and its release.")
	fmt.Fprintf(&b, "nixfleet_agent_info{version=%s,running=%s,release=%s} 1\n", label(m.version), label(string(g.Running)), label(string(j.RunsRelease(g.Running))))
	family("nixfleet_agent_drift", "gauge", "1 if the machine runs a system that its agent did not activate.")
	fmt.Fprintf(&b, "nixfleet_agent_drift %d\n", bit(j.Drifted(g.Running)))

	family("nixfleet_agent_timestamp_life_used_percent", "gauge", "How much of the life of the fleet's timestamp is over, in percent; 0 without one.")
	fmt.Fprintf(&b, "nixfleet_agent_timestamp_life_used_percent %d\n", j.TimestampLife(m.machine.Now().WallMs))

	c := m.contact()
	family("nixfleet_agent_polls_total", "counter", "Check-ins with the control plane, by how they ended.")
	fmt.Fprintf(&b, "nixfleet_agent_polls_total{result=\"answered\"} %d\nnixfleet_agent_polls_total{result=\"failed\"} %d\n", c.Answered, c.Failed)
	family("nixfleet_agent_last_contact_seconds", "gauge", "Unix time of the last answer of the control plane; 0 for none.")
	fmt.Fprintf(&b, "nixfleet_agent_last_contact_seconds %d\n", unixOrZero(c.Last))
	family("nixfleet_agent_reports_queued", "gauge", "Reports that the control plane has not acknowledged.")
	fmt.Fprintf(&b, "nixfleet_agent_reports_queued %d\n", m.outbox.Len())
	if r, err := m.outbox.SetAside(); err == nil {
		family("nixfleet_agent_reports_rejected_total", "counter", "Reports that the control plane has rejected; the newest are kept on the machine.")
		fmt.Fprintf(&b, "nixfleet_agent_reports_rejected_total %d\n", r.Total)
	}

	if r := m.machine.Checks(); r != nil {
		family("nixfleet_agent_check_passing", "gauge", "1 if the check passes.")
		for _, c := range r {
			fmt.Fprintf(&b, "nixfleet_agent_check_passing{check=%s,kind=%q,required=\"%t\"} %d\n", label(c.Name), c.Kind, c.Required, bit(c.Status == fleet.HealthCheckPassing))
		}
		family("nixfleet_agent_check_duration_seconds", "gauge", "Duration of the last run of the check.")
		for _, c := range r {
			fmt.Fprintf(&b, "nixfleet_agent_check_duration_seconds{check=%s} %g\n", label(c.Name), float64(c.DurationMs)/1000)
		}
	}
	return b.Bytes()
}

func bit(v bool) int {
	if v {
		return 1
	}
	return 0
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// label quotes a label's value.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
