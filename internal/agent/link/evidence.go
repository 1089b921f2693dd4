// SPDX-License-Identifier: MIT

package link

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/arcanesys/nixfleet/fleet"
)

// evidenceFile is the key with which the machine signs evidence. It is made at an
// enrolment and stays until the next one.
func (i *identity) evidenceFile() string {
	return filepath.Join(i.cfg.StateDir, "identity", "evidence.pem")
}

// evidenceFor returns the evidence key of an enrolment by a token: a new one, or
// that which the same enrolment made before it was repeated.
func (i *identity) evidenceFor(token string) (ed25519.PrivateKey, error) {
	for _, file := range []string{next(i.evidenceFile()), i.evidenceFile()} {
		if k, of, err := readKey(file); err == nil && of == token {
			return evidenceKey(file, k)
		}
	}
	return makeEvidenceKey(next(i.evidenceFile()), token)
}

// evidence returns the evidence key in use. A machine that enrolled before there were
// such keys gets one; a machine whose certificate names a key that it does not have
// gets an error, since only an enrolment changes it.
func (i *identity) evidence(certificate *x509.Certificate) (ed25519.PrivateKey, error) {
	named, err := fleet.EvidenceKeyIn(certificate.URIs)
	if err != nil {
		return nil, err
	}
	k, _, err := readKey(i.evidenceFile())
	if errors.Is(err, fs.ErrNotExist) && named == "" {
		k, err = makeEvidenceKey(i.evidenceFile(), "")
	}
	if err != nil {
		return nil, fmt.Errorf("evidence key: %w", err)
	}
	have, err := evidenceKey(i.evidenceFile(), k)
	if err == nil && named != "" && named != publicOf(have) {
		return nil, fleet.Errorf(fleet.Conflict, "the certificate names another evidence key than that in %s", i.evidenceFile()).
			WithHint("enrol the machine again: nixfleet machine token %s --replace", i.cfg.MachineID)
	}
	return have, err
}

func evidenceKey(file string, k crypto.Signer) (ed25519.PrivateKey, error) {
	private, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fleet.Errorf(fleet.Invalid, "the key in %s is not an ed25519 key", file)
	}
	return private, nil
}

// publicOf is the public half of an evidence key; "" of none.
func publicOf(k ed25519.PrivateKey) fleet.EvidenceKey {
	if k == nil {
		return ""
	}
	return fleet.EvidenceKeyOf(k.Public().(ed25519.PublicKey))
}
