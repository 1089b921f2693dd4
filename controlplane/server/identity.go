// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Identity is the control plane's own certificate, and what it verifies
// machines' certificates with. Files of the configuration are read again when
// they change.
type Identity struct {
	conf      config.TLS
	keys      *pki.Keys
	issues    bool // machines' certificates come from keys
	renewLate time.Duration

	mu     sync.Mutex
	stamps map[string]time.Time // modification times at the last try, by file; guarded by mu
	now    files                // guarded by mu
}

// files are what the files of the configuration hold.
type files struct {
	own *tls.Certificate // of certFile; nil: those of keys serve
	// root is where own's chain ends. Agents keep it as their anchor, so it has to
	// be the root itself. Nil for a chain without one, as ACME gives it: what signed
	// it is another intermediate after some renewal, so agents are shown a
	// certificate of keys.
	root      *x509.Certificate
	forAgents *tls.Certificate // own with root; nil without root
	clientCAs *x509.CertPool
}

// NewIdentity reads the certificates that c names, if any; else those of keys
// serve. The error's code is Invalid.
func NewIdentity(c config.TLS, keys *pki.Keys) (*Identity, error) {
	id := &Identity{conf: c, keys: keys, issues: c.ClientCAFile == "", renewLate: c.RenewLate(), stamps: map[string]time.Time{}}
	id.changed()
	var err error
	id.now, err = readFiles(c, keys, time.Now())
	return id, err
}

// Names are those that the control plane's own CA issues its certificate for:
// agents reach it by those of a certFile whose root is not known too.
func Names(c config.TLS) ([]string, error) {
	if c.CertFile == "" {
		return c.Names, nil
	}
	f, err := readFiles(config.TLS{CertFile: c.CertFile, KeyFile: c.KeyFile, CAFile: c.CAFile}, nil, time.Now())
	if err != nil || f.root != nil {
		return c.Names, err
	}
	names := append(slices.Clone(c.Names), f.own.Leaf.DNSNames...)
	for _, ip := range f.own.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names, nil
}

// refresh reads the files again if one has changed. What they held stays in use
// when that fails, or when the new certificate has expired and the present one
// has not; the error then says so, once for each change.
func (id *Identity) refresh(now time.Time) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if !id.changed() {
		return nil
	}
	next, err := readFiles(id.conf, id.keys, now)
	if err != nil {
		return err
	}
	if have := id.now.own; have != nil && now.After(next.own.Leaf.NotAfter) && !now.After(have.Leaf.NotAfter) {
		return fleet.Errorf(fleet.Invalid, "the certificate in %s has expired on %s", id.conf.CertFile, next.own.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	id.now = next
	return nil
}

// changed reports whether a file has changed since the last call. The caller
// holds mu, or id alone.
func (id *Identity) changed() bool {
	changed := false
	for _, file := range []string{id.conf.CertFile, id.conf.KeyFile, id.conf.CAFile, id.conf.ClientCAFile} {
		if file == "" {
			continue
		}
		if info, err := os.Stat(file); err == nil && !info.ModTime().Equal(id.stamps[file]) {
			id.stamps[file], changed = info.ModTime(), true
		}
	}
	return changed
}

func readFiles(c config.TLS, keys *pki.Keys, now time.Time) (files, error) {
	var f files
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return f, fleet.Errorf(fleet.Invalid, "read tls.certFile and tls.keyFile: %w", err)
		}
		f.own = &pair
		if f.root, err = rootOf(c, pair, now); err != nil {
			return f, err
		}
		if f.root != nil {
			f.forAgents = withRoot(pair, f.root)
		}
	}
	if c.ClientCAFile != "" {
		_, pool, err := readCAs("tls.clientCaFile", c.ClientCAFile)
		f.clientCAs = pool
		return f, err
	}
	if keys != nil {
		f.clientCAs = x509.NewCertPool()
		f.clientCAs.AddCert(keys.AgentCA.Cert)
	}
	return f, nil
}

// rootOf returns the root of a certificate: the one in caFile that its chain
// leads to, or the end of the chain if that is a root; else nil.
func rootOf(c config.TLS, pair tls.Certificate, now time.Time) (*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for i, der := range pair.Certificate {
		var err error
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "read tls.certFile %s: %w", c.CertFile, err)
		}
	}
	if c.CAFile == "" {
		if last := chain[len(chain)-1]; pki.IsRoot(last) {
			return last, nil
		}
		return nil, nil
	}
	list, pool, err := readCAs("tls.caFile", c.CAFile)
	if err != nil {
		return nil, err
	}
	for _, ca := range list {
		if !pki.IsRoot(ca) {
			return nil, fleet.Errorf(fleet.Invalid, "tls.caFile %s holds %q, which is no root: its CA may sign the next certificate by another one", c.CAFile, ca.Subject).
				WithHint("use the certificate of the root itself")
		}
	}
	root, err := pki.Verify(pool, chain, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "tls.certFile %s does not lead to a root in tls.caFile %s: %w", c.CertFile, c.CAFile, err)
	}
	return root, nil
}

// withRoot is a chain that ends with its root: a token names that by its hash,
// and the machine looks for it in the handshake.
func withRoot(pair tls.Certificate, root *x509.Certificate) *tls.Certificate {
	if !slices.ContainsFunc(pair.Certificate, func(der []byte) bool { return bytes.Equal(der, root.Raw) }) {
		pair.Certificate = append(slices.Clone(pair.Certificate), root.Raw)
	}
	return &pair
}

func readCAs(setting, file string) ([]*x509.Certificate, *x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fleet.Errorf(fleet.Invalid, "read %s: %w", setting, err)
	}
	var list []*x509.Certificate
	pool := x509.NewCertPool()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fleet.Errorf(fleet.Invalid, "read %s %s: %w", setting, file, err)
		}
		list = append(list, c)
		pool.AddCert(c)
	}
	if len(list) == 0 {
		return nil, nil, fleet.Errorf(fleet.Invalid, "%s %s holds no PEM certificate", setting, file)
	}
	return list, pool, nil
}

func (id *Identity) files() files {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.now
}

// forOperators is the certificate to show operators now.
func (id *Identity) forOperators(now time.Time) (*tls.Certificate, error) {
	if f := id.files(); f.own != nil {
		return f.own, nil
	}
	return id.keys.Server(now)
}

// forAgents is the certificate to show agents now.
func (id *Identity) forAgents(now time.Time) (*tls.Certificate, error) {
	if f := id.files(); f.forAgents != nil {
		return f.forAgents, nil
	}
	return id.keys.Server(now)
}

// anchor is the root, DER, that an agent verifies the control plane with.
func (id *Identity) anchor() []byte {
	if f := id.files(); f.root != nil {
		return f.root.Raw
	}
	return id.keys.ServerCA.Cert.Raw
}

// agentCAs are the CAs whose certificates machines may show.
func (id *Identity) agentCAs() *x509.CertPool { return id.files().clientCAs }
