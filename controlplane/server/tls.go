// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
)

// refresh reads files that were renewed. Those that cannot be used are noted.
func (s *Server) refresh() {
	if err := s.identity.refresh(s.clock.Now()); err != nil {
		s.log.Error("renewed certificate files are not used", "error", err, "hint", fleet.ErrorHint(err))
	}
}

func (s *Server) operatorTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Time: s.clock.Now, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.refresh()
		return s.identity.forOperators(s.clock.Now())
	}}
}

// agentTLS asks for a client certificate. Only enrolment needs none; the
// handlers check that. Its session tickets are sealed with keys that change with
// the day, and so does the configuration.
func (s *Server) agentTLS() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, Time: s.clock.Now, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.identity.forAgents(s.clock.Now()) },
		// VerifyConnection verifies: crypto/tls would refuse a certificate that can
		// still be renewed.
		ClientAuth: tls.RequestClientCert, VerifyConnection: s.verifyConnection,
	}
	var mu sync.Mutex
	var today string
	var current *tls.Config
	conf := base.Clone()
	conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if err := s.shakes.Wait(hello.Context(), host(hello.Conn.RemoteAddr().String()), s.clock.Now()); err != nil {
			return nil, err
		}
		s.refresh()
		mu.Lock()
		defer mu.Unlock()
		now := s.clock.Now()
		if day := now.UTC().Format(time.DateOnly); day != today {
			keys, err := pki.TicketKeys(s.identity.keys.TicketKey, now)
			if err != nil {
				return nil, err
			}
			current, today = base.Clone(), day
			current.SetSessionTicketKeys(keys)
		}
		return current, nil
	}
	return conf
}

// verifyConnection refuses a certificate that no CA here vouches for, and a
// machine that is shut out. Unlike VerifyPeerCertificate it also runs when a
// session is resumed (E07).
func (s *Server) verifyConnection(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	if err := s.vouched.verify(s.identity.agentCAs(), cs.PeerCertificates, s.clock.Now()); err != nil {
		return fleet.Errorf(fleet.Unauthenticated, "client certificate: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.mayConnect(ctx, &cs)
}

// mayConnect returns nil for a machine that may make some request, be it only to
// renew its certificate.
func (s *Server) mayConnect(ctx context.Context, cs *tls.ConnectionState) error {
	_, err := s.machineOf(ctx, cs, true)
	return err
}

// machineOf returns the certificate that the machine at the other end shows. The
// error's code is Unauthenticated without one or out of its time, Forbidden with
// one that does not count. Out of its time it may be renewed, for a while. It
// runs for each request, since connections outlive certificates.
func (s *Server) machineOf(ctx context.Context, cs *tls.ConnectionState, renewal bool) (enrolment.Certificate, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return enrolment.Certificate{}, fleet.Errorf(fleet.Unauthenticated, "no client certificate").
			WithHint("enrol the machine first: nixfleet-agent enroll")
	}
	cert, now := cs.PeerCertificates[0], s.clock.Now()
	c := enrolment.Certificate{
		Machine: fleet.MachineID(cert.Subject.CommonName), Serial: pki.Serial(cert), Key: pki.KeyHash(cert),
		OtherCA: !s.identity.issues, OutOfTime: now.Before(cert.NotBefore) || now.After(cert.NotAfter),
	}
	switch {
	case !c.Machine.Valid():
		return c, fleet.Errorf(fleet.Unauthenticated, "the client certificate's name is not a machine id")
	case c.OutOfTime && (c.OtherCA || now.Sub(cert.NotAfter) > s.identity.renewLate || s.identity.renewLate == 0):
		return c, outOfTime(c.Machine, cert).WithHint("enrol the machine again, with a token made by: nixfleet machine token %s --replace", c.Machine)
	case c.OutOfTime && !renewal:
		return c, outOfTime(c.Machine, cert).WithHint("the agent renews it by itself")
	}
	return c, s.plane.Enrolment.Accept(ctx, c)
}

func outOfTime(m fleet.MachineID, cert *x509.Certificate) *fleet.Error {
	return fleet.Errorf(fleet.Unauthenticated, "the client certificate of %s is good only from %s to %s, and it is not that time here",
		m, cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
}
