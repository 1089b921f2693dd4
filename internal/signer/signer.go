// SPDX-License-Identifier: MIT

// Package signer signs documents with what an operator names: a secret key in a
// file, a key in an ssh-agent, or a command that holds one elsewhere. Each
// signature is verified before it is used.
//
// It never decides which keys may sign, and never keeps a secret longer than it
// takes.
package signer

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// timeout is how long a signer may take: somebody may have to touch a device or
// type a passphrase.
const timeout = 2 * time.Minute

// Signer makes ed25519 signatures in the name of one key.
type Signer interface {
	// Name says where the signer is, for messages.
	Name() string
	// Public is its key; nil if only a signature shows which one it is.
	Public() ed25519.PublicKey
	// Sign returns the 64 bytes of the signature over message itself, not over a
	// hash of it.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Check refuses a signer whose key is known and is none of keys: that something
// is wrong shows before the work that takes long.
func Check(keys []ed25519.PublicKey, signers ...Signer) error {
	for _, s := range signers {
		k := s.Public()
		if k != nil && !trust.HasKey(keys, k) {
			return fleet.Errorf(fleet.Refused, "key %s (%s) may not sign this", trust.KeyID(k), s.Name()).
				WithHint("nixfleet trust show lists who may sign what")
		}
	}
	return nil
}

// Sign adds the signers' signatures to e. Each has to be by one of keys, and by
// the signer's own key if that is known. A key that has signed already does not
// sign again. After an error e is unchanged.
func Sign(ctx context.Context, e trust.Envelope, keys []ed25519.PublicKey, signers ...Signer) (trust.Envelope, error) {
	if err := Check(keys, signers...); err != nil {
		return e, err
	}
	message := trust.PAE(e.PayloadType, e.Payload)
	out := e
	for _, s := range signers {
		allowed := keys
		if k := s.Public(); k != nil {
			allowed = []ed25519.PublicKey{k}
		}
		if hasSigned(out, message, s.Public()) {
			continue
		}
		sig, err := s.Sign(ctx, message)
		if err != nil {
			return e, fmt.Errorf("sign with %s: %w", s.Name(), err)
		}
		if out, _, err = trust.Attach(out, sig, allowed); err != nil {
			return e, fleet.Errorf(fleet.ErrorCode(err), "%s returned %w", s.Name(), err).
				WithHint("it must sign the bytes that it gets on its own, ed25519 without a hash before")
		}
	}
	return out, nil
}

func hasSigned(e trust.Envelope, message []byte, k ed25519.PublicKey) bool {
	return k != nil && slices.ContainsFunc(e.Signatures, func(s trust.Signature) bool { return ed25519.Verify(k, message, s.Sig) })
}

// file is a secret key that was read from a file.
type file struct {
	trust.SecretKey
	path string
}

// File is the signer of a secret key, with the file that it was read from.
func File(path string, k trust.SecretKey) Signer { return file{k, path} }

func (f file) Name() string { return f.path }

func (f file) Sign(_ context.Context, message []byte) ([]byte, error) {
	return f.SecretKey.Sign(message)
}
