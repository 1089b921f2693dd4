// SPDX-License-Identifier: AGPL-3.0-only

// Package guard decides who sees the metrics: those with a client certificate, with a
// token, or both, as the configuration says.
//
// It never guards probes, which have neither.
package guard

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// TLS is how the metrics listener speaks TLS, made of base, which has the server's
// certificate; nil for not at all. A client certificate is asked for, and none is
// needed: Metrics looks at it.
func TLS(c config.MetricsGuard, base *tls.Config) (*tls.Config, error) {
	if !c.TLS && c.ClientCAFile == "" {
		return nil, nil
	}
	if c.ClientCAFile == "" {
		return base, nil
	}
	pem, err := os.ReadFile(c.ClientCAFile)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "metrics.clientCaFile: %w", err)
	}
	conf := base.Clone()
	conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fleet.Errorf(fleet.Invalid, "metrics.clientCaFile: %s has no certificate in PEM", c.ClientCAFile)
	}
	return conf, nil
}

// Metrics lets those pass to h who have what the configuration asks for. The token's
// file is read each time, so that another one counts at once.
func Metrics(c config.MetricsGuard, log *slog.Logger, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.ClientCAFile != "" && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
			http.Error(w, "metrics need a client certificate: metrics.clientCaFile", http.StatusForbidden)
			return
		}
		if c.TokenFile == "" {
			h.ServeHTTP(w, r)
			return
		}
		want, err := os.ReadFile(c.TokenFile)
		token := strings.TrimSpace(string(want))
		if err != nil || token == "" {
			log.Error("metrics are shown to nobody: the token cannot be read", "file", c.TokenFile, "error", err)
			http.Error(w, "the token's file cannot be read: metrics.tokenFile", http.StatusServiceUnavailable)
			return
		}
		have, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		a, b := sha256.Sum256([]byte(have)), sha256.Sum256([]byte(token))
		if !bearer || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="nixfleet metrics"`)
			http.Error(w, "metrics need the token of metrics.tokenFile", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}
