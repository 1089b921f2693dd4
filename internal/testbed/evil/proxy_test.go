// SPDX-License-Identifier: MIT

package evil_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/arcanesys/nixfleet/internal/testbed/evil"
)

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authority{issue(t, authority{nil, key}, key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}), key}
}

func issue(t *testing.T, ca authority, key crypto.Signer, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	if c.SerialNumber == nil {
		c.SerialNumber = big.NewInt(1)
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := ca.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a authority) leaf(t *testing.T, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{issue(t, a, key, c).Raw}, PrivateKey: key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// scene is a control plane that knows its agents by their certificates, and a
// proxy in front of it.
type scene struct {
	servers, agents authority
	url             string
}

func newScene(t *testing.T, rewrite func(string, []byte) []byte) scene {
	t.Helper()
	s := scene{servers: newAuthority(t), agents: newAuthority(t)}
	cert := s.servers.leaf(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		who := "anonymous"
		if len(r.TLS.PeerCertificates) > 0 {
			c := r.TLS.PeerCertificates[0]
			who = fmt.Sprint(c.Subject.CommonName, c.DNSNames, c.URIs, c.SerialNumber)
		}
		if r.URL.Path == "/forbidden" {
			w.WriteHeader(http.StatusForbidden)
		}
		fmt.Fprintf(w, "%s %s %s %s", who, r.Method, r.URL, body)
	}))
	upstream.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: s.agents.pool()}
	upstream.StartTLS()
	t.Cleanup(upstream.Close)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &evil.Proxy{
		Upstream: upstream.Listener.Addr().String(), ServerCert: cert, ClientCAs: s.agents.pool(),
		Issuer: s.agents.cert, IssuerKey: s.agents.key, Rewrite: rewrite,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	s.url = "https://" + l.Addr().String()
	return s
}

func (s scene) client(certs ...tls.Certificate) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.servers.pool(), Certificates: certs}}}
}

func (s scene) agent(t *testing.T, name string, serial int64) *http.Client {
	t.Helper()
	return s.client(s.agents.leaf(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example"},
		URIs: []*url.URL{{Scheme: "nixfleet", Host: name}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}))
}

func post(t *testing.T, c *http.Client, url, body string) (int, string) {
	t.Helper()
	res, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestProxy_EditsRepliesWithTheIdentityOfEachAgent(t *testing.T) {
	s := newScene(t, func(path string, body []byte) []byte {
		if path != "/orders" && path != "/forbidden" {
			return body
		}
		return append([]byte("EVIL "), body...)
	})
	a, b := s.agent(t, "web-01", 7), s.agent(t, "db-01", 8)
	var got []string
	for _, c := range []struct {
		client *http.Client
		path   string
	}{{a, "/orders?x=%2F"}, {b, "/orders"}, {a, "/other"}, {a, "/forbidden"}, {s.client(), "/orders"}} {
		code, body := post(t, c.client, s.url+c.path, "hello")
		got = append(got, fmt.Sprint(code, " ", body))
	}
	want := []string{
		"200 EVIL web-01[web-01.example] [nixfleet://web-01] 7 POST /orders?x=%2F hello",
		"200 EVIL db-01[db-01.example] [nixfleet://db-01] 8 POST /orders hello",
		"200 web-01[web-01.example] [nixfleet://web-01] 7 POST /other hello",
		"403 EVIL web-01[web-01.example] [nixfleet://web-01] 7 POST /forbidden hello",
		"200 EVIL anonymous POST /orders hello",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

// The proxy has no more than it should: it does not pass an agent of another CA on to
// the control plane as one of ours.
func TestProxy_RefusesStrangers(t *testing.T) {
	s := newScene(t, nil)
	stranger := newAuthority(t).leaf(t, &x509.Certificate{Subject: pkix.Name{CommonName: "web-01"}})
	c := s.client()
	c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
	if res, err := c.Get(s.url); err == nil {
		res.Body.Close()
		t.Errorf("a stranger's certificate was accepted: %s", res.Status)
	}
}
