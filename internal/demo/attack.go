// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/testbed/evil"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// behindPort is where the real control plane listens for agents while the
// attacker has its port.
const behindPort = 8445

// attack puts a proxy with the control plane's keys in its place. Every release
// that a machine fetches then names another machine's store path: each machine
// must refuse it.
func (s *story) attack(ctx context.Context, name string, r Made) error {
	s.say("an attacker with the control plane's keys takes its place and swaps the store paths of %s", name)
	restore, err := s.takeOver(ctx, swapPath(r))
	if err != nil {
		return err
	}
	e, err := s.runRollout(ctx, name+", tampered with, all at once", r, fleet.RolloutFailed, "--strategy", "all-at-once", "--max-failures", "100%")
	if err = errors.Join(err, restore()); err != nil {
		return err
	}
	for _, a := range e.Assignments {
		if a.Outcome != fleet.OutcomeRefused {
			return fmt.Errorf("%s did not refuse the tampered release: state %s, outcome %q", a.Machine, a.State, a.Outcome)
		}
		s.res.Refusals = append(s.res.Refusals, Refusal{Machine: a.Machine, Reason: a.Reason})
		s.more("%s refused: %s", a.Machine, oneLine(a.Message))
	}
	return s.compare(ctx)
}

// takeOver moves the control plane's listener for agents to another port, and
// puts a proxy in its place that edits replies. restore undoes it.
func (s *Scene) takeOver(ctx context.Context, rewrite func(string, []byte) []byte) (restore func() error, err error) {
	server, err := tls.LoadX509KeyPair(s.cpFile("server.key.pem"), s.cpFile("server.key.pem"))
	if err != nil {
		return nil, fmt.Errorf("steal server key: %w", err)
	}
	ca, err := tls.LoadX509KeyPair(s.cpFile("agent-ca.key.pem"), s.cpFile("agent-ca.key.pem"))
	if err != nil {
		return nil, fmt.Errorf("steal agent CA: %w", err)
	}
	issuer, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("steal agent CA: %w", err)
	}
	// The control plane knows the agents' keys and the proxy has none of them: with
	// its CA in clientCaFile the control plane compares no keys.
	if err = s.moveAgents(ctx, behindPort, fmt.Sprintf("clientCaFile = %q\n", s.cpFile("agent-ca.key.pem"))); err != nil {
		return nil, err
	}
	l, err := s.TB.ListenHub(ctx, "tcp", fmt.Sprintf(":%d", agentsPort))
	if err != nil {
		return nil, err
	}
	proxy := evil.Proxy{
		Upstream: fmt.Sprintf("%s:%d", s.TB.HubAddr(), behindPort), Dial: s.TB.DialHub, ServerCert: server,
		Issuer: issuer, IssuerKey: ca.PrivateKey.(crypto.Signer), Rewrite: rewrite,
	}
	pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- proxy.Serve(pctx, l) }()
	stop := func() error {
		cancel()
		return <-done
	}
	s.stops = append(s.stops, func() error { cancel(); return nil })
	return func() error { return errors.Join(stop(), s.moveAgents(ctx, agentsPort, "")) }, nil
}

// moveAgents restarts the control plane with its listener for agents at another
// port, and with more settings of its TLS.
func (s *Scene) moveAgents(ctx context.Context, port int, more string) error {
	if err := s.StopControlPlane(); err != nil {
		return err
	}
	if err := s.writeControlPlane(port, more); err != nil {
		return err
	}
	return s.StartControlPlane(ctx)
}

// swapPath edits the bundle of each machine so that its entry names the system
// of another one.
func swapPath(r Made) func(string, []byte) []byte {
	return func(path string, body []byte) []byte {
		var b trust.Bundle
		var e fleet.Entry
		if !strings.HasPrefix(path, api.PathRelease) || json.Unmarshal(body, &b) != nil || json.Unmarshal(b.Entry, &e) != nil {
			return body
		}
		for id, other := range r.Machines {
			if id != e.ID {
				b.Entry = []byte(strings.Replace(string(b.Entry), string(e.StorePath), string(other), 1))
				break
			}
		}
		out, err := json.Marshal(b)
		if err != nil {
			return body
		}
		return out
	}
}
