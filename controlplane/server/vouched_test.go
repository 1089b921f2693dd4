// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/pki"
	"github.com/arcanesys/nixfleet/fleet"
)

// What a CA vouched for is remembered for a while, for that CA alone; what none
// vouched for never is.
func TestVouched_RemembersWhatTheCAVouchedFor(t *testing.T) {
	now := time.Now()
	key := selfSigned(t)
	leaf, err := x509.ParseCertificate(key.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	var pools []*x509.CertPool
	var certs [][]*x509.Certificate
	for range 2 {
		ca, failed := pki.NewAuthority("agents", now)
		if failed != nil {
			t.Fatal(failed)
		}
		cert, failed := ca.Agent(pki.Request{Machine: "web-01", Key: leaf.PublicKey, KeyHash: fleet.SHA256(leaf.RawSubjectPublicKeyInfo)}, now)
		if failed != nil {
			t.Fatal(failed)
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca.Cert)
		pools, certs = append(pools, pool), append(certs, []*x509.Certificate{cert})
	}
	v, err := newVouched()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i, pool := range pools {
			for j, chain := range certs {
				if err = v.verify(pool, chain, now); (err == nil) != (i == j) {
					t.Errorf("CA %d, certificate %d: %v", i, j, err)
				}
			}
		}
	}
	// Damaged where it is not looked at when it is remembered.
	forged := *certs[0][0]
	forged.Signature = make([]byte, len(forged.Signature))
	chain := []*x509.Certificate{&forged}
	if err = v.verify(pools[0], chain, now); err == nil {
		if err = v.verify(pools[0], chain, now.Add(vouchedFor)); err == nil {
			t.Error("a certificate is not verified again")
		}
	} else {
		t.Errorf("it is not remembered: %v", err)
	}
}
