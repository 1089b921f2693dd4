// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/calls"
	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/controlplane/plane"
	"github.com/arcanesys/nixfleet/controlplane/wire"
	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of how long a call may take beyond its wait.
const (
	agentReadTime  = 30 * time.Second
	agentWriteTime = 30 * time.Second
)

// agentHandler serves the agents' paths: plain handlers, since a check-in is
// what the control plane does most.
func (s *Server) agentHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathCheckIn, s.machine("checkIn", false, s.checkIn))
	mux.HandleFunc("POST "+api.PathReports, s.agent("reports", s.reports))
	mux.HandleFunc("GET "+api.PathRelease+"{digest}", s.agent("release", s.release))
	mux.HandleFunc("GET "+api.PathDocument+"{digest}", s.agent("document", s.trustDocument))
	mux.HandleFunc("GET "+api.PathRoot+"{version}", s.agent("root", s.root))
	mux.HandleFunc("POST "+api.PathRenew, s.machine("renew", true, s.renew))
	mux.HandleFunc("POST "+api.PathEnroll, s.enroll)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.pause(r.Context())
		problemOf(fleet.Errorf(fleet.NotFound, "there is no agents' operation at %s", r.URL.Path)).write(w)
	})
	return s.observe("agents", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.conns.serve(r.Context())
		mux.ServeHTTP(w, r)
	}))
}

// agentCall does what a machine asks for that shows a certificate.
type agentCall func(w http.ResponseWriter, r *http.Request, c enrolment.Certificate) (any, error)

// agent serves machines whose certificate is good now.
func (s *Server) agent(name string, fn func(w http.ResponseWriter, r *http.Request, m fleet.MachineID) (any, error)) http.HandlerFunc {
	return s.machine(name, false, func(w http.ResponseWriter, r *http.Request, c enrolment.Certificate) (any, error) {
		return fn(w, r, c.Machine)
	})
}

// machine serves machines whose certificate counts, and that keep to their
// budget; one for renewal also takes one that is out of its time. It answers with
// what fn returns: []byte as it is, anything else as JSON.
func (s *Server) machine(name string, renewal bool, fn agentCall) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := recordOf(r.Context())
		rec.operation = name
		s.deadlines(w, agentWriteTime)
		// Before the check: what is refused from now on closes it.
		crowded := s.conns.seen(r.Context(), r.TLS)
		c, err := s.machineOf(r.Context(), r.TLS, renewal)
		if err != nil {
			// The certificate has ended since the connection was made.
			w.Header().Set("Connection", "close")
			rec.err = err
			problemOf(err).write(w)
			return
		}
		rec.caller = string(c.Machine)
		if crowded {
			s.pause(r.Context()) // else it would connect as fast as connections are closed
			s.conns.thin(c.Machine)
		}
		if err = s.budgets.call(c.Machine, name, r.ContentLength, s.clock.Now()); err != nil {
			s.pause(r.Context())
			s.answer(w, rec, nil, err)
			return
		}
		v, err := s.only(name, w, r, c, fn)
		s.answer(w, rec, v, err)
	}
}

// only makes a call of a machine, and ends the older one of the same kind.
func (s *Server) only(name string, w http.ResponseWriter, r *http.Request, c enrolment.Certificate, fn agentCall) (any, error) {
	ctx, done := s.calls.Begin(r.Context(), c.Machine, name)
	defer done()
	// A call that still waits for its body is cut there. Its connection is good
	// for nothing then: net/http ends the context of all that follows on it.
	rec := recordOf(ctx)
	bodyRead := sync.OnceValue(context.AfterFunc(ctx, func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now()) }))
	rec.bodyRead = bodyRead
	defer func() {
		if !bodyRead() {
			w.Header().Set("Connection", "close")
		}
	}()
	v, err := fn(w, r.WithContext(ctx), c)
	if err != nil && errors.Is(context.Cause(ctx), calls.ErrNewer) {
		return nil, fleet.Errorf(fleet.Unavailable, "%w", calls.ErrNewer)
	}
	return v, err
}

func (s *Server) answer(w http.ResponseWriter, rec *record, v any, err error) {
	if rec.goesOn {
		return
	}
	if err != nil {
		s.refuse(rec, err).write(w)
		return
	}
	body, ok := v.([]byte)
	if !ok {
		if body, err = json.Marshal(v); err != nil {
			s.refuse(rec, fmt.Errorf("encode reply: %w", err)).write(w)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a machine that did not get it asks again
}

// deadlines bounds how long a request may take to come in and its reply to go
// out.
func (s *Server) deadlines(w http.ResponseWriter, write time.Duration) {
	rc := http.NewResponseController(w)
	now := time.Now()
	_ = rc.SetReadDeadline(now.Add(agentReadTime)) // both work on every connection of this server
	_ = rc.SetWriteDeadline(now.Add(write))
}

// bodyIn ends the read deadline of a request whose body has been read: it would cut a
// long poll.
func bodyIn(w http.ResponseWriter, r *http.Request) {
	if rec := recordOf(r.Context()); rec != nil && rec.bodyRead != nil {
		rec.bodyRead()
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // every connection of this server can
}

func (s *Server) checkIn(w http.ResponseWriter, r *http.Request, c enrolment.Certificate) (any, error) {
	m := c.Machine
	ci, err := wire.CheckIn(w, r, m)
	if err != nil {
		return nil, err
	}
	bodyIn(w, r)
	if err = s.takeEvidence(r.Context(), c, ci.EvidenceKey); err != nil {
		return nil, err
	}
	rec := recordOf(r.Context())
	ci.WaitMs = min(max(ci.WaitMs, 0), api.MaxWaitMs)
	if len(ci.Reports) > 0 {
		ci.WaitMs = 0
		if s.budgets.reports(m, len(ci.Reports), s.clock.Now()) != nil {
			ci.Reports = nil // the agent sends them by themselves, and is told to wait
		}
	}
	// A connection is held no longer than its certificate is good.
	left := r.TLS.PeerCertificates[0].NotAfter.Sub(s.clock.Now()).Milliseconds()
	ci.WaitMs = min(ci.WaitMs, max(left, 0))
	wait := time.Duration(ci.WaitMs) * time.Millisecond
	rec.held = wait > 0
	var orders api.Orders
	if !rec.held {
		orders, err = s.plane.CheckIn(r.Context(), m, ci)
	} else if r.Close || !r.ProtoAtLeast(1, 1) { // a connection that ends then is not worth taking
		s.metrics.longPolls.Inc()
		defer s.metrics.longPolls.Dec()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + agentWriteTime))
		orders, err = s.plane.CheckIn(r.Context(), m, ci)
	} else if _, err = s.plane.TakeIn(r.Context(), m, ci); err == nil {
		return s.hold(w, r, &hold{s: s, machine: m, have: ci.Have, until: time.Now().Add(wait), rec: rec})
	}
	if fleet.ErrorCode(err) == fleet.Unavailable && s.draining.Err() != nil {
		return nil, stopping()
	}
	return orders, err
}

// takeEvidence keeps the evidence key of a machine that has none. Another one than
// the machine has is no reason to leave it without orders.
func (s *Server) takeEvidence(ctx context.Context, c enrolment.Certificate, k fleet.EvidenceKey) error {
	err := s.plane.Enrolment.TakeEvidence(ctx, c, k)
	switch fleet.ErrorCode(err) {
	case fleet.Forbidden, fleet.Invalid:
		s.log.Warn("an evidence key is refused", "machine", c.Machine, "error", err)
		return nil
	}
	return err
}

func (s *Server) reports(w http.ResponseWriter, r *http.Request, m fleet.MachineID) (any, error) {
	reports, err := wire.Reports(w, r, m, plane.MaxReports)
	if err != nil {
		return nil, err
	}
	bodyIn(w, r)
	if err := s.budgets.reports(m, len(reports), s.clock.Now()); err != nil {
		s.pause(r.Context())
		return nil, err
	}
	return s.plane.SubmitReports(r.Context(), m, reports)
}

func (s *Server) release(_ http.ResponseWriter, r *http.Request, m fleet.MachineID) (any, error) {
	d, err := fleet.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return nil, err
	}
	return s.plane.BundleFor(r.Context(), m, d)
}

func (s *Server) trustDocument(_ http.ResponseWriter, r *http.Request, _ fleet.MachineID) (any, error) {
	d, err := fleet.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return nil, err
	}
	return s.plane.Documents.ByDigest(r.Context(), d)
}

func (s *Server) root(_ http.ResponseWriter, r *http.Request, _ fleet.MachineID) (any, error) {
	version, err := strconv.ParseUint(r.PathValue("version"), 10, 64)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "the version of a root is a number")
	}
	return s.plane.Documents.RootVersion(r.Context(), version)
}

// enroll is the one call without a certificate.
func (s *Server) enroll(w http.ResponseWriter, r *http.Request) {
	rec := recordOf(r.Context())
	rec.operation = "enroll"
	s.deadlines(w, agentWriteTime)
	cert, err := s.enrolled(w, r, rec)
	if err != nil && s.failures.add(rec.remote, s.clock.Now()) {
		s.pause(r.Context())
	}
	s.answer(w, rec, cert, err)
}

func (s *Server) enrolled(w http.ResponseWriter, r *http.Request, rec *record) (api.Certificate, error) {
	var in api.EnrollRequest
	if err := wire.Decode(w, r, wire.MaxCSR, &in); err != nil {
		return api.Certificate{}, err
	}
	bodyIn(w, r)
	if err := s.issues(); err != nil {
		return api.Certificate{}, err
	}
	req, err := pki.ParseRequest(in.CSR)
	if err != nil {
		return api.Certificate{}, err
	}
	rec.caller = string(req.Machine)
	der, m, err := s.plane.Enrolment.RedeemToken(r.Context(), in.Token, enrolment.Keys{Certificate: req.KeyHash, Evidence: req.Evidence, Proved: req.Proved}, s.issuer(req))
	if err != nil {
		return api.Certificate{}, err
	}
	// A token with Replace has ended the certificate that the machine had.
	s.closeRefused(m)
	return s.certificate(der)
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request, c enrolment.Certificate) (any, error) {
	var in api.RenewRequest
	if err := wire.Decode(w, r, wire.MaxCSR, &in); err != nil {
		return nil, err
	}
	bodyIn(w, r)
	if err := s.issues(); err != nil {
		return nil, err
	}
	req, err := pki.ParseRequest(in.CSR)
	if err != nil {
		return nil, err
	}
	if err = wire.Own(c.Machine, req.Machine); err != nil {
		return nil, err
	}
	der, err := s.plane.Enrolment.Renew(r.Context(), c, enrolment.Keys{Certificate: req.KeyHash, Evidence: req.Evidence}, s.issuer(req))
	if err != nil {
		return nil, err
	}
	return s.certificate(der)
}

// issues returns an error if another CA makes the machines' certificates.
func (s *Server) issues() error {
	if s.identity.issues {
		return nil
	}
	return fleet.Errorf(fleet.Conflict, "this control plane issues no certificates").
		WithHint("machines' certificates come from the CA in its tls.clientCaFile")
}

// issuer signs what req asks for, if it is for the token's machine (E08).
func (s *Server) issuer(req pki.Request) enrolment.Issue {
	return func(m fleet.MachineID) (serial string, der []byte, notAfter int64, err error) {
		if req.Machine != m {
			return "", nil, 0, fleet.Errorf(fleet.Forbidden, "the certificate request is for %s, the token for another machine", req.Machine)
		}
		cert, err := s.identity.keys.AgentCA.Agent(req, s.clock.Now())
		if err != nil {
			return "", nil, 0, err
		}
		return pki.Serial(cert), cert.Raw, cert.NotAfter.UnixMilli(), nil
	}
}

// certificate is the reply to a machine's certificate request.
func (s *Server) certificate(der []byte) (api.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return api.Certificate{}, fmt.Errorf("read issued certificate: %w", err)
	}
	return api.Certificate{
		Certificate: der, CA: s.identity.anchor(), Machine: fleet.MachineID(cert.Subject.CommonName), NotAfter: cert.NotAfter.UnixMilli(),
	}, nil
}

// closeRefused closes the open connections of a machine, or of all if m is "",
// whose certificates are refused now.
func (s *Server) closeRefused(m fleet.MachineID) {
	n := s.conns.closeIf(func(p peer) bool {
		if m != "" && p.machine != m {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return s.mayConnect(ctx, p.tls) != nil
	})
	if n > 0 {
		s.log.Info("connections of refused machines closed", "count", n)
	}
}
