// SPDX-License-Identifier: MIT

package link

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/config"
)

// tokenHeader is the PEM header of a key that names the token it was made for,
// by hash. A repeat of an enrolment finds its key by it.
const tokenHeader = "Token"

// FloorTold is told what floor the operator's side put beside a token's secret;
// nil: none. It is called when the control plane has exchanged the token, before
// the certificate is written: a crash between the two repeats the enrolment.
type FloorTold func(*api.TokenFloor) error

// Enroll exchanges the token in a file for the machine's first certificate.
func Enroll(ctx context.Context, cfg config.Agent, tokenFile string, told FloorTold) error {
	token, err := readToken(tokenFile)
	if err != nil {
		return err
	}
	return (&identity{cfg: cfg, told: told}).enroll(ctx, token)
}

// readToken reads a token from a file.
func readToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fleet.Errorf(fleet.NotFound, "read enrolment token: %w", err).WithHint("nixfleet machine token NAME makes one")
	}
	return string(bytes.TrimSpace(b)), nil
}

// enroll exchanges a token for a certificate of a new key. Until it has one, the
// key and the certificate that the machine had stay in use.
func (i *identity) enroll(ctx context.Context, token string) error {
	t, err := api.ParseToken(token)
	if err != nil {
		return err
	}
	if t.Machine != i.cfg.MachineID {
		return fleet.Errorf(fleet.Invalid, "the token is for %s, and this is %s", t.Machine, i.cfg.MachineID)
	}
	u, err := url.Parse(i.cfg.ControlPlane.URL)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "controlPlane.url: %w", err)
	}
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: i.cfg.ControlPlane.URL, TLS: t.EnrollTLS(u.Hostname())})
	if err != nil {
		return err
	}
	defer c.Close()
	k, err := i.keyFor(t.Bare())
	if err != nil {
		return err
	}
	evidence, err := i.evidenceFor(string(fleet.SHA256([]byte(t.Bare()))))
	if err != nil {
		return err
	}
	csr, err := i.request(k, evidence)
	if err != nil {
		return err
	}
	cert, err := c.Enroll(ctx, api.EnrollRequest{Token: t.Bare(), CSR: csr})
	if err != nil {
		return err
	}
	if i.cfg.ControlPlane.CAFile == "" && api.CAHash(cert.CA) != t.CAHash {
		return fleet.Errorf(fleet.Refused, "the control plane sent another CA than the one that the token names")
	}
	if _, err := i.ours(cert, k, publicOf(evidence)); err != nil {
		return err
	}
	if i.cfg.ControlPlane.CAFile == "" {
		if err := os.MkdirAll(filepath.Dir(caFile(i.cfg)), 0o700); err != nil {
			return fmt.Errorf("keep the control plane's CA: %w", err)
		}
		if err := atomicfile.Write(caFile(i.cfg), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.CA}), 0o644); err != nil {
			return err
		}
	}
	if i.told != nil {
		if err := i.told(t.Floor); err != nil {
			return err
		}
	}
	// After a crash between two of the files the keys are found by their token, and
	// the same certificate is sent again.
	if err := i.useNextKey(); err != nil {
		return err
	}
	return i.writeCertificate(cert)
}

// next is where a key is kept until its enrolment has succeeded.
func next(keyFile string) string { return keyFile + ".next" }

func (i *identity) nextKeyFile() string { return next(i.cfg.Identity.KeyFile) }

// keyFor returns the key to enrol with. Each token gets a key of its own, so
// that a key that was stolen ends with the enrolment after it; the repeat of an
// enrolment finds the one it had. A key that someone else manages is used as it
// is, and so is one that was put here before the first enrolment.
func (i *identity) keyFor(token string) (crypto.Signer, error) {
	made := string(fleet.SHA256([]byte(token)))
	for _, file := range []string{i.nextKeyFile(), i.cfg.Identity.KeyFile} {
		if k, of, err := readKey(file); err == nil && of == made {
			return k, nil
		}
	}
	k, of, err := readKey(i.cfg.Identity.KeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeKey(i.cfg.Identity.KeyFile, made)
	case err != nil:
		return nil, err
	case !i.managed() || of == "" && !i.enrolled():
		return k, nil
	}
	return makeKey(i.nextKeyFile(), made)
}

// useNextKey puts the keys of this enrolment in the place of those before.
func (i *identity) useNextKey() error {
	return errors.Join(useNext(i.evidenceFile()), useNext(i.cfg.Identity.KeyFile))
}

func useNext(keyFile string) error {
	b, err := os.ReadFile(next(keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	if err := atomicfile.Write(keyFile, b, 0o600); err != nil {
		return err
	}
	return atomicfile.Remove(next(keyFile))
}

// readKey reads a key, and the hash of the token that it was made for.
func readKey(file string) (k crypto.Signer, token string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, "", fleet.Errorf(fleet.Invalid, "%s contains no key", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, "", fleet.Errorf(fleet.Invalid, "read key %s: %w", file, err)
	}
	k, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, "", fleet.Errorf(fleet.Invalid, "the key in %s cannot sign", file)
	}
	return k, block.Headers[tokenHeader], nil
}

// makeKey makes the key of a certificate for a token and writes it.
func makeKey(file, token string) (crypto.Signer, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return k, writeKey(file, token, k)
}

// makeEvidenceKey makes the key of a machine's evidence for a token, "" for none,
// and writes it.
func makeEvidenceKey(file, token string) (ed25519.PrivateKey, error) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return k, writeKey(file, token, k)
}

func writeKey(file, token string, k crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	block := &pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{tokenHeader: token}, Bytes: der}
	return atomicfile.Write(file, pem.EncodeToMemory(block), 0o600)
}
