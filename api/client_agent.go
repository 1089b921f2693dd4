// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of what an agent reads. A control plane that has been taken over
// cannot fill its memory.
const (
	maxOrders   = 64 << 10
	maxBundle   = 2 << 20
	maxDocument = 8 << 20
	maxAck      = 1 << 20
	// replyMargin is how long a reply may take beyond the wait that was asked.
	replyMargin = 20 * time.Second
)

// AgentClientConfig says which control plane a machine talks to, and how it
// shows who it is.
type AgentClientConfig struct {
	BaseURL string // https://host:8444
	// TLS holds the control plane's CA and, but for Enroll, the machine's
	// certificate. With GetClientCertificate a renewed one is used without a
	// restart (A18).
	TLS       *tls.Config
	UserAgent string
	// DialContext is net.Dialer's if nil.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// AgentClient makes the agents' calls, over HTTP/1.1. It repeats none of them:
// the agent's own schedule does.
type AgentClient struct {
	c *caller
}

// NewAgentClient checks cfg; it sends nothing. The error's code is Invalid.
func NewAgentClient(cfg AgentClientConfig) (*AgentClient, error) {
	conf := cfg.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.MinVersion = tls.VersionTLS13
	if conf.ClientSessionCache == nil {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	}
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	// A held check-in has one connection. The other calls share the second, which
	// costs the control plane memory while it is open.
	t := &http.Transport{
		TLSClientConfig: conf, DialContext: cfg.DialContext, Protocols: new(http.Protocols),
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 30 * time.Second, MaxConnsPerHost: 2, MaxIdleConns: 2, MaxIdleConnsPerHost: 2,
	}
	t.Protocols.SetHTTP1(true)
	c, err := newCaller(cfg.BaseURL, "", cfg.UserAgent, t)
	if err != nil {
		return nil, err
	}
	return &AgentClient{c: c}, nil
}

// CheckIn says how the machine is and asks what to do. The control plane holds
// the reply for up to ci.WaitMs while the orders are those of ci.Have.
func (a *AgentClient) CheckIn(ctx context.Context, ci CheckIn) (Orders, error) {
	var o Orders
	wait := time.Duration(min(max(ci.WaitMs, 0), MaxWaitMs)) * time.Millisecond
	err := a.c.do(ctx, call{method: http.MethodPost, path: PathCheckIn, body: ci, limit: maxOrders, timeout: wait + replyMargin}, &o)
	return o, err
}

// Reports hands in reports, oldest first, and returns which of them are
// durable now. An id that cannot be read acknowledges nothing.
func (a *AgentClient) Reports(ctx context.Context, reports []fleet.Report) (ReportsReply, error) {
	var r ReportsReply
	err := a.c.do(ctx, call{method: http.MethodPost, path: PathReports, body: Reports{Reports: reports}, limit: maxAck, timeout: time.Minute, inPart: true}, &r)
	return r, err
}

// Release returns the bytes of the trust bundle for this machine: the signed
// header, the machine's own entry and its proof. Nothing in them is verified.
func (a *AgentClient) Release(ctx context.Context, d fleet.Digest) ([]byte, error) {
	var b []byte
	err := a.c.do(ctx, call{method: http.MethodGet, path: PathRelease + id(d), limit: maxBundle, timeout: time.Minute}, &b)
	return b, err
}

// Document returns the envelope of a trust document. Nothing in it is
// verified.
func (a *AgentClient) Document(ctx context.Context, d fleet.Digest) ([]byte, error) {
	var b []byte
	err := a.c.do(ctx, call{method: http.MethodGet, path: PathDocument + id(d), limit: maxDocument, timeout: time.Minute}, &b)
	return b, err
}

// Root returns the envelope of one version of the root document, for a machine
// that follows the chain from an older one. Nothing in it is verified.
func (a *AgentClient) Root(ctx context.Context, version uint64) ([]byte, error) {
	var b []byte
	path := PathRoot + strconv.FormatUint(version, 10)
	err := a.c.do(ctx, call{method: http.MethodGet, path: path, limit: maxDocument, timeout: time.Minute}, &b)
	return b, err
}

// Enroll exchanges a token for the machine's first certificate. A repeat with the
// same key gets the same certificate.
func (a *AgentClient) Enroll(ctx context.Context, req EnrollRequest) (Certificate, error) {
	var c Certificate
	err := a.c.do(ctx, call{method: http.MethodPost, path: PathEnroll, body: req, limit: maxOrders, timeout: time.Minute}, &c)
	return c, err
}

// Renew gets the next certificate, by the present one.
func (a *AgentClient) Renew(ctx context.Context, req RenewRequest) (Certificate, error) {
	var c Certificate
	err := a.c.do(ctx, call{method: http.MethodPost, path: PathRenew, body: req, limit: maxOrders, timeout: time.Minute}, &c)
	return c, err
}

// Close ends the connections that are idle, so that the next call shows the
// certificate that is current then.
func (a *AgentClient) Close() { a.c.http.CloseIdleConnections() }
