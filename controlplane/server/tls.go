// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/enrolment"
	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Identity is the control plane's own certificate, and what it verifies
// machines' certificates with.
type Identity struct {
	keys      *pki.Keys
	own       *tls.Certificate // instead of one by keys
	clientCAs *x509.CertPool
	issues    bool // machines' certificates come from keys
	renewLate time.Duration
}

// NewIdentity reads the certificates that c names, if any; else those of keys
// serve. The error's code is Invalid.
func NewIdentity(c config.TLS, keys *pki.Keys) (*Identity, error) {
	id := &Identity{keys: keys, clientCAs: x509.NewCertPool(), issues: c.ClientCAFile == "", renewLate: c.RenewLate()}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "read tls.certFile and tls.keyFile: %w", err)
		}
		id.own = &pair
	}
	if id.issues {
		id.clientCAs.AddCert(keys.AgentCA.Cert)
		return id, nil
	}
	pem, err := os.ReadFile(c.ClientCAFile)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "read tls.clientCaFile: %w", err)
	}
	if !id.clientCAs.AppendCertsFromPEM(pem) {
		return nil, fleet.Errorf(fleet.Invalid, "tls.clientCaFile %s holds no PEM certificate", c.ClientCAFile)
	}
	return id, nil
}

// certificate is the one to show now.
func (id *Identity) certificate(now time.Time) (*tls.Certificate, error) {
	if id.own != nil {
		return id.own, nil
	}
	return id.keys.Server(now)
}

// anchor is the certificate, DER, that an agent verifies the control plane
// with: the last one of the chain that it shows.
func (id *Identity) anchor() []byte {
	if id.own != nil {
		return id.own.Certificate[len(id.own.Certificate)-1]
	}
	return id.keys.ServerCA.Cert.Raw
}

func (s *Server) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.identity.certificate(s.clock.Now())
}

func (s *Server) operatorTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.getCertificate, Time: s.clock.Now}
}

// agentTLS asks for a client certificate. Only enrolment needs none; the
// handlers check that. Its session tickets are sealed with keys that change with
// the day, and so does the configuration.
func (s *Server) agentTLS() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: s.getCertificate, Time: s.clock.Now, NextProtos: []string{"http/1.1"},
		// VerifyConnection verifies: crypto/tls would refuse a certificate that can
		// still be renewed.
		ClientAuth: tls.RequestClientCert, ClientCAs: s.identity.clientCAs,
		VerifyConnection: s.verifyConnection,
	}
	var mu sync.Mutex
	var today string
	var current *tls.Config
	conf := base.Clone()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
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
	if _, err := pki.VerifyClient(s.identity.clientCAs, cs.PeerCertificates, s.clock.Now()); err != nil {
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
