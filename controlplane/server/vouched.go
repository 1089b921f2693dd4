// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"crypto/sha256"
	"crypto/x509"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/arcanesys/nixfleet/controlplane/pki"
)

// A machine shows the same certificate with each connection, and to verify its
// signature costs as much as a good part of a resumed handshake. So what a CA has
// vouched for is remembered for a while.
const (
	vouchedFor   = 10 * time.Minute
	vouchedCerts = 1 << 17 // those that were shown last
)

// vouched are certificates that the CAs have vouched for. Whether one still counts,
// and its own time, is looked at with each request.
type vouched struct {
	certs *lru.Cache[[sha256.Size]byte, vouch]
}

type vouch struct {
	by *x509.CertPool
	at time.Time
}

func newVouched() (*vouched, error) {
	c, err := lru.New[[sha256.Size]byte, vouch](vouchedCerts)
	return &vouched{certs: c}, err
}

// verify is pki.Verify for machines' certificates.
func (v *vouched) verify(cas *x509.CertPool, chain []*x509.Certificate, now time.Time) error {
	sum := sha256.Sum256(chain[0].Raw)
	if have, ok := v.certs.Get(sum); ok && have.by == cas {
		if since := now.Sub(have.at); since >= 0 && since < vouchedFor {
			return nil
		}
	}
	if _, err := pki.Verify(cas, chain, x509.ExtKeyUsageClientAuth, now); err != nil {
		return err
	}
	v.certs.Add(sum, vouch{cas, now})
	return nil
}
