// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// record is what log and metrics need of a request.
type record struct {
	operation string
	remote    string
	caller    string // owner of the key, or machine
	err       error
	held      bool // a long poll or a stream: its duration is not measured
	status    int
	epoch     func() string // for the reply's api.EpochHeader, as of when the reply begins; nil for none
	goesOn    bool          // a held check-in: its end is counted when it comes
	bodyRead  func() bool   // called when the body of an agent's call was read; false if it was cut
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	r, _ := ctx.Value(recordKey{}).(*record)
	return r
}

// statusWriter remembers the status, and completes the headers. Unwrap lets
// http.ResponseController reach the real writer.
type statusWriter struct {
	http.ResponseWriter
	rec    *record
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		if w.rec.epoch != nil {
			w.Header().Set(api.EpochHeader, w.rec.epoch())
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe counts and logs requests, and turns a panic into a 500 that is
// logged with its stack. Neither headers nor bodies nor queries are logged:
// they may hold secrets.
func (s *Server) observe(listener string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &record{operation: "none", remote: r.RemoteAddr}
		sw := &statusWriter{ResponseWriter: w, rec: rec}
		defer func() {
			v := recover()
			if v != nil && v != http.ErrAbortHandler {
				s.log.Error("panic in request", "operation", rec.operation, "panic", v, "stack", string(debug.Stack()))
				if sw.status == 0 {
					problemOf(fleet.Errorf(fleet.Internal, "panic")).write(sw)
				}
			}
			if rec.goesOn {
				return
			}
			rec.status = sw.status
			s.metrics.request(listener, rec, time.Since(start))
			s.logRequest(listener, r.Method, r.URL.Path, rec, time.Since(start))
			if v == http.ErrAbortHandler {
				panic(v) // cuts the connection
			}
		}()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(sw, r.WithContext(context.WithValue(r.Context(), recordKey{}, rec)))
	})
}

func (s *Server) logRequest(listener, method, path string, rec *record, took time.Duration) {
	level := slog.LevelDebug
	var stop *stopped
	switch {
	case errors.Is(rec.err, context.Canceled): // the caller went away
	case errors.As(rec.err, &stop): // one line for each machine
	case rec.status >= 500 && rec.status != http.StatusServiceUnavailable:
		level = slog.LevelError
	case rec.status >= 400:
		level = slog.LevelWarn
	case listener == "operators" && method != http.MethodGet:
		level = slog.LevelInfo
	}
	ctx := context.Background()
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []any{"listener", listener, "operation", rec.operation, "method", method, "path", path, "status", rec.status,
		"caller", rec.caller, "remote", rec.remote, "took", took.Round(time.Microsecond)}
	if rec.err != nil {
		attrs = append(attrs, "error", rec.err)
	}
	s.log.Log(ctx, level, "request", attrs...)
}
