// SPDX-License-Identifier: MIT

// Package evil is the attacker of the test suite: a control plane whose root account
// an attacker has, and a binary cache that cannot be trusted. The project's guarantee
// is about what an agent does when it talks to them.
//
// It never becomes part of a shipped program other than the demo.
package evil

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Proxy is between agents and a control plane and edits the replies. It has what root
// on the control plane has: the server's key and the keys of its CAs.
type Proxy struct {
	// Upstream is the control plane's address, host:port. Its certificate is not
	// verified.
	Upstream string
	// Dial connects to it; nil means from this process's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ServerCert is the control plane's own certificate with its key.
	ServerCert tls.Certificate
	// ClientCAs verifies the agents' certificates; nil accepts any.
	ClientCAs *x509.CertPool
	// Issuer and IssuerKey are the CA of the agents' certificates. An agent's own key
	// is on its machine, so the proxy issues a certificate with the same content for
	// a key of its own.
	Issuer    *x509.Certificate
	IssuerKey crypto.Signer
	// Rewrite gets the path of each request and the body of its reply, and returns
	// the body that the agent gets; nil changes nothing. Calls may overlap.
	Rewrite func(path string, body []byte) []byte
	// Log gets the errors of the server and the proxy; nil means no log.
	Log *slog.Logger
}

// Serve answers agents on the listener until the context ends, and closes it.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	auth := tls.RequestClientCert
	if p.ClientCAs != nil {
		auth = tls.VerifyClientCertIfGiven
	}
	s := &http.Server{
		Handler: p.handler(),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{p.ServerCert},
			ClientAuth:   auth,
			ClientCAs:    p.ClientCAs,
			MinVersion:   tls.VersionTLS13,
			NextProtos:   []string{"http/1.1"},
		},
		ErrorLog:    p.errorLog(),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve evil proxy: %w", err)
	}
	return nil
}

func (p *Proxy) errorLog() *log.Logger {
	h := slog.DiscardHandler
	if p.Log != nil {
		h = p.Log.Handler()
	}
	return slog.NewLogLogger(h, slog.LevelDebug)
}

func (p *Proxy) handler() http.Handler {
	ways := &ways{proxy: p, all: map[string]*http.Transport{}}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: p.Upstream})
			r.Out.Host = r.In.Host
			r.Out.Header.Del("Accept-Encoding") // so that Rewrite can read the reply
		},
		Transport:      ways,
		ModifyResponse: p.modify,
		ErrorLog:       p.errorLog(),
	}
}

func (p *Proxy) modify(res *http.Response) error {
	if p.Rewrite == nil {
		return nil
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		return fmt.Errorf("read reply of control plane: %w", err)
	}
	body = p.Rewrite(res.Request.URL.Path, body)
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength = int64(len(body))
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// ways are the connections to the control plane, separate for each agent.
type ways struct {
	proxy *Proxy
	mu    sync.Mutex
	all   map[string]*http.Transport
}

// RoundTrip sends the request with the identity of the agent that made it.
func (w *ways) RoundTrip(r *http.Request) (*http.Response, error) {
	var peer *x509.Certificate
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		peer = r.TLS.PeerCertificates[0]
	}
	t, err := w.of(peer)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(r)
}

func (w *ways) of(peer *x509.Certificate) (*http.Transport, error) {
	var id string
	if peer != nil {
		id = string(peer.Raw)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.all[id]; ok {
		return t, nil
	}
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if peer != nil {
		cert, err := w.proxy.impersonate(peer)
		if err != nil {
			return nil, err
		}
		// Whatever CAs the server accepts: this one is its agents' CA.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	t := &http.Transport{DialContext: w.proxy.Dial, TLSClientConfig: config, DisableCompression: true, IdleConnTimeout: time.Minute}
	w.all[id] = t
	return t, nil
}

// impersonate issues a certificate with the content of the agent's, even its serial
// number, for a key of the proxy.
func (p *Proxy) impersonate(peer *x509.Certificate) (*tls.Certificate, error) {
	if p.Issuer == nil || p.IssuerKey == nil {
		return nil, errors.New("impersonate agent: no CA to issue certificates with")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("impersonate agent: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          peer.SerialNumber,
		RawSubject:            peer.RawSubject,
		DNSNames:              peer.DNSNames,
		URIs:                  peer.URIs,
		IPAddresses:           peer.IPAddresses,
		EmailAddresses:        peer.EmailAddresses,
		NotBefore:             peer.NotBefore,
		NotAfter:              peer.NotAfter,
		KeyUsage:              peer.KeyUsage,
		ExtKeyUsage:           peer.ExtKeyUsage,
		BasicConstraintsValid: peer.BasicConstraintsValid,
	}, p.Issuer, key.Public(), p.IssuerKey)
	if err != nil {
		return nil, fmt.Errorf("impersonate agent %s: %w", peer.Subject.CommonName, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, p.Issuer.Raw}, PrivateKey: key}, nil
}
