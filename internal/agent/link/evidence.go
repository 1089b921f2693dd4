// SPDX-License-Identifier: MIT

package link

import (
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
func (i *identity) evidenceFor(token string) (fleet.EvidenceKey, error) {
	for _, file := range []string{next(i.evidenceFile()), i.evidenceFile()} {
		if k, of, err := readKey(file); err == nil && of == token {
			return evidenceKey(file, k.Public())
		}
	}
	k, err := makeEvidenceKey(next(i.evidenceFile()), token)
	if err != nil {
		return "", err
	}
	return evidenceKey(next(i.evidenceFile()), k.Public())
}

// evidence returns the public half of the evidence key in use. A machine that
// enrolled before there were such keys gets one; a machine whose certificate names
// a key that it does not have gets an error, since only an enrolment changes it.
func (i *identity) evidence(certificate *x509.Certificate) (fleet.EvidenceKey, error) {
	named, err := fleet.EvidenceKeyIn(certificate.URIs)
	if err != nil {
		return "", err
	}
	k, _, err := readKey(i.evidenceFile())
	if errors.Is(err, fs.ErrNotExist) && named == "" {
		k, err = makeEvidenceKey(i.evidenceFile(), "")
	}
	if err != nil {
		return "", fmt.Errorf("evidence key: %w", err)
	}
	have, err := evidenceKey(i.evidenceFile(), k.Public())
	if err == nil && named != "" && named != have {
		err = fleet.Errorf(fleet.Conflict, "the certificate names another evidence key than that in %s", i.evidenceFile()).
			WithHint("enrol the machine again: nixfleet machine token %s --replace", i.cfg.MachineID)
	}
	return have, err
}

func evidenceKey(file string, public any) (fleet.EvidenceKey, error) {
	k, ok := public.(ed25519.PublicKey)
	if !ok {
		return "", fleet.Errorf(fleet.Invalid, "the key in %s is not an ed25519 key", file)
	}
	return fleet.EvidenceKeyOf(k), nil
}
