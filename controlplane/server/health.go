// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/guard"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// notReady is the reason as those are told who may ask without a key.
func notReady(err error) string {
	if fleet.ErrorCode(err) == fleet.Internal {
		return "the database does not answer; the log has more"
	}
	return fmt.Sprintf("%s: %s", fleet.ErrorCode(err), err)
}

// healthHandler serves supervisors and Prometheus, without an API key: its listener
// belongs on loopback, or c guards its metrics.
func (s *Server) healthHandler(c config.MetricsGuard) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		if s.draining.Err() != nil {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		if err := s.plane.Health.Ready(ctx); err != nil {
			s.log.Warn("not ready", "error", err)
			http.Error(w, notReady(err), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	mux.Handle("GET /metrics", guard.Metrics(c, s.log, s.metrics.handler(s.log)))
	return mux
}
