// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/fleet"
)

// metrics are what /metrics serves: requests, counted as they come, and the
// state of the fleet, read at each scrape.
type metrics struct {
	registry *prometheus.Registry
	// machines has a series for each machine, for those who ask for it.
	machines  *prometheus.Registry
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	longPolls prometheus.Gauge
	polls     prometheus.Histogram
}

func newMetrics(p *plane.Plane, c *conns, log *slog.Logger) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(), machines: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nixfleet_http_requests_total", Help: "Requests by listener, operation and status.",
		}, []string{"listener", "operation", "status"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nixfleet_http_request_duration_seconds", Help: "How long requests took; long polls and streams are left out.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"listener", "operation"}),
		longPolls: prometheus.NewGauge(prometheus.GaugeOpts{Name: "nixfleet_long_polls", Help: "Check-ins that are held now."}),
		polls: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nixfleet_long_poll_duration_seconds", Help: "How long check-ins were held, until there were new orders, their time was over or the machine went away.",
			Buckets: []float64{.1, 1, 5, 15, 30, 45, 56, 120, 301},
		}),
	}
	connections := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nixfleet_agent_connections", Help: "Open connections of agents.",
	}, func() float64 { all, _ := c.count(); return float64(all) })
	anonymous := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nixfleet_agent_connections_without_certificate", Help: "Those of them that have shown no certificate.",
	}, func() float64 { _, n := c.count(); return float64(n) })
	m.registry.MustRegister(m.requests, m.durations, m.longPolls, m.polls, connections, anonymous, newFleetCollector(p, log),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.machines.MustRegister(machineCollector{p, prometheus.NewDesc("nixfleet_machine_last_seen_timestamp_seconds",
		"Last contact of a machine; 0 for never. Only with /metrics?series=machine.", []string{"machine"}, nil)})
	return m
}

// handler serves /metrics: sums over all machines. A series for each machine comes
// in addition with ?series=machine: at 10,000 they are most of what Prometheus
// keeps.
func (m *metrics) handler(log *slog.Logger) http.Handler {
	opts := promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	sums := promhttp.HandlerFor(m.registry, opts)
	each := promhttp.HandlerFor(prometheus.Gatherers{m.registry, m.machines}, opts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("series") == "machine" {
			each.ServeHTTP(w, r)
			return
		}
		sums.ServeHTTP(w, r)
	})
}

// machineCollector reads the last contact of each machine.
type machineCollector struct {
	plane    *plane.Plane
	lastSeen *prometheus.Desc
}

// Describe is for prometheus.Collector.
func (c machineCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.lastSeen }

// Collect is for prometheus.Collector.
func (c machineCollector) Collect(ch chan<- prometheus.Metric) {
	for id, at := range c.plane.Health.LastContacts() {
		ch <- prometheus.MustNewConstMetric(c.lastSeen, prometheus.GaugeValue, float64(at)/1000, string(id))
	}
}

func (m *metrics) request(listener string, r *record, took time.Duration) {
	m.requests.WithLabelValues(listener, r.operation, strconv.Itoa(r.status)).Inc()
	switch {
	case !r.held:
		m.durations.WithLabelValues(listener, r.operation).Observe(took.Seconds())
	case listener == "agents":
		m.polls.Observe(took.Seconds())
	}
}

// fleetCollector reads the state of the fleet at each scrape.
type fleetCollector struct {
	plane *plane.Plane
	log   *slog.Logger

	size, lifecycle, health, online, drift, silent *prometheus.Desc
	rollouts, rolloutsActive, waiting, audit, mode *prometheus.Desc
	frozen                                         *prometheus.Desc
	certificates, life, messages                   *prometheus.Desc
}

func newFleetCollector(p *plane.Plane, log *slog.Logger) *fleetCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nixfleet_"+name, help, labels, nil)
	}
	return &fleetCollector{
		plane: p, log: log,
		size:           desc("fleet_size", "Machines that are known, without those decommissioned."),
		lifecycle:      desc("machines", "Machines by lifecycle.", "lifecycle"),
		health:         desc("machines_health", "Active machines by health; unknown for those that never reported it.", "health"),
		online:         desc("machines_online", "Machines that are online."),
		drift:          desc("machines_drift", "Machines that run something else than their agent activated."),
		certificates:   desc("certificates", "Certificates of active machines and those in maintenance: good; expired, renewed when the machine is online again; ending, soon no more; ended, to be enrolled again.", "state"),
		life:           desc("document_life_used_percent", "How much of the life of the root document, of the timestamp and of the newest release of each line is over.", "document"),
		silent:         desc("machines_silent", "Active machines that were heard of before, but not for so many seconds.", "seconds"),
		rollouts:       desc("rollouts", "Rollouts that are kept, by state.", "state"),
		rolloutsActive: desc("rollouts_active", "Rollouts that have not ended."),
		waiting:        desc("reports_waiting", "Reports in the inbox, at most 1000."),
		audit:          desc("audit_entries", "Size of the audit chain."),
		messages:       desc("webhook_messages", "Messages of webhooks: waiting, which are tried again; dead, which are not: nixfleet webhook deadletters.", "state"),
		frozen:         desc("frozen", "1 while the fleet is frozen: no machine is ordered anything new."),
		mode:           desc("restored_mode", "1 while the database is older than what the fleet has seen."),
	}
}

// Describe is for prometheus.Collector.
func (f *fleetCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(f, ch) }

// Collect is for prometheus.Collector.
func (f *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m, err := f.plane.Health.Metrics(ctx)
	if err != nil {
		f.log.Warn("fleet not counted for metrics", "error", err)
		ch <- prometheus.NewInvalidMetric(f.size, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	size := 0
	for _, l := range []fleet.Lifecycle{fleet.Pending, fleet.Provisioning, fleet.Active, fleet.Maintenance, fleet.Decommissioned} {
		gauge(f.lifecycle, float64(m.Machines[l]), string(l))
		if l != fleet.Decommissioned {
			size += m.Machines[l]
		}
	}
	gauge(f.size, float64(size))
	if waiting, dead, err := f.plane.Webhooks.Counts(ctx); err == nil {
		gauge(f.messages, float64(waiting), "waiting")
		gauge(f.messages, float64(dead), "dead")
	}
	gauge(f.health, float64(m.Health[""]), "unknown")
	for _, h := range []fleet.Health{fleet.HealthPending, fleet.Healthy, fleet.Unhealthy} {
		gauge(f.health, float64(m.Health[h]), string(h))
	}
	gauge(f.online, float64(m.Online))
	gauge(f.drift, float64(m.Drift))
	for _, s := range health.CertificateStates() {
		gauge(f.certificates, float64(m.Certificates[s]), string(s))
	}
	for _, l := range m.Lives {
		gauge(f.life, float64(l.Used), l.Document)
	}
	for _, d := range health.Silences() {
		gauge(f.silent, float64(m.Silent[d]), strconv.Itoa(int(d.Seconds())))
	}
	f.collectRollouts(m, gauge)
	gauge(f.waiting, float64(m.Waiting))
	gauge(f.audit, float64(m.AuditEntries))
	gauge(f.mode, truth(m.Restored))
	gauge(f.frozen, truth(m.Frozen))
}

// truth is 1 for true.
func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

func (f *fleetCollector) collectRollouts(m health.Metrics, gauge func(*prometheus.Desc, float64, ...string)) {
	active := 0
	for _, s := range []fleet.RolloutState{
		fleet.RolloutScheduled, fleet.RolloutRunning, fleet.RolloutPaused, fleet.RolloutReverting,
		fleet.RolloutCompleted, fleet.RolloutFailed, fleet.RolloutCancelled, fleet.RolloutSuperseded,
	} {
		gauge(f.rollouts, float64(m.Rollouts[s]), string(s))
		if !s.Final() {
			active += m.Rollouts[s]
		}
	}
	gauge(f.rolloutsActive, float64(active))
}
