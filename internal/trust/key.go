// SPDX-License-Identifier: MIT

package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// PublicKey is a named ed25519 public key.
type PublicKey struct {
	Name string
	Key  ed25519.PublicKey
}

// SecretKey is a named ed25519 key that signs. It prints as its name; only Encode
// returns the secret.
type SecretKey struct {
	name string
	key  ed25519.PrivateKey
}

var _ Signer = SecretKey{}

// Generate makes a key from 32 bytes of rand.
func Generate(rand io.Reader, name string) (SecretKey, error) {
	if !validKeyName(name) {
		return SecretKey{}, invalidKeyName(name)
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return SecretKey{}, fmt.Errorf("generate key %s: %w", name, err)
	}
	return SecretKey{name, ed25519.NewKeyFromSeed(seed)}, nil
}

// ParseSecretKey reads the text of a key file as nix-store --generate-binary-cache-key
// writes it: the name, a colon and 64 bytes (seed, then public key) in base64.
// Errors never quote the text.
func ParseSecretKey(text string) (SecretKey, error) {
	name, b64, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok || !validKeyName(name) {
		return SecretKey{}, fleet.Errorf(fleet.Invalid, "secret key: want one line name:base64").
			WithHint("nixfleet trust init makes keys, and so does nix-store --generate-binary-cache-key")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || strings.ContainsAny(b64, "\r\n") {
		return SecretKey{}, fleet.Errorf(fleet.Invalid, "secret key %s: not base64", name)
	}
	if len(raw) != ed25519.PrivateKeySize {
		return SecretKey{}, fleet.Errorf(fleet.Invalid, "secret key %s: %d bytes, want %d", name, len(raw), ed25519.PrivateKeySize).
			WithHint("a public key has %d bytes: is this the other file of the pair?", ed25519.PublicKeySize)
	}
	key := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(raw)) {
		return SecretKey{}, fleet.Errorf(fleet.Invalid, "secret key %s: its two halves do not match", name).
			WithHint("the file is damaged; restore it from its backup or make a new key")
	}
	return SecretKey{name, key}, nil
}

// ParsePublicKey reads name:base64, as in Nix's trusted-public-keys. The error's
// code is Invalid.
func ParsePublicKey(text string) (PublicKey, error) {
	name, b64, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok || !validKeyName(name) {
		return PublicKey{}, fleet.Errorf(fleet.Invalid, "public key: want one line name:base64")
	}
	key, ok := decodePublic(fleet.TrustKey{Public: b64})
	if !ok {
		return PublicKey{}, fleet.Errorf(fleet.Invalid, "public key %s: want %d bytes of base64 after the name", name, ed25519.PublicKeySize).
			WithHint("a secret key is longer: is this the other file of the pair?")
	}
	return PublicKey{name, key}, nil
}

// NewPublicKey gives a key a name that root documents and Nix can hold: what a
// name must not have becomes '-'.
func NewPublicKey(name string, key ed25519.PublicKey) PublicKey {
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r == ':' || r >= 0x7f {
			return '-'
		}
		return r
	}, name)
	if name == "" {
		name = KeyID(key)
	}
	return PublicKey{name[:min(len(name), 120)], key}
}

// String returns name:base64, as in Nix's trusted-public-keys.
func (k PublicKey) String() string { return k.Name + ":" + base64.StdEncoding.EncodeToString(k.Key) }

// Trust returns the key as a root document lists it.
func (k PublicKey) Trust() fleet.TrustKey {
	return fleet.TrustKey{Public: base64.StdEncoding.EncodeToString(k.Key), Name: k.Name}
}

// Name returns the key's name.
func (k SecretKey) Name() string { return k.name }

// Public returns the key that verifies.
func (k SecretKey) Public() ed25519.PublicKey { return k.key.Public().(ed25519.PublicKey) }

// PublicKey returns the public key with its name.
func (k SecretKey) PublicKey() PublicKey { return PublicKey{k.name, k.Public()} }

// Sign signs message. The error is always nil.
func (k SecretKey) Sign(message []byte) ([]byte, error) { return ed25519.Sign(k.key, message), nil }

// Encode returns the text of the key file, without a line end. It is a secret.
func (k SecretKey) Encode() string { return k.name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// String returns the name, so that no print reveals the secret.
func (k SecretKey) String() string { return "secret key " + k.name }

// GoString is String.
func (k SecretKey) GoString() string { return k.String() }

// LogValue logs the name.
func (k SecretKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// validKeyName reports whether a name has 1 to 120 printable bytes without colon
// or space, so that Nix and people can see where the key begins.
func validKeyName(name string) bool {
	return len(name) >= 1 && len(name) <= 120 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == ':' || r >= 0x7f })
}

func invalidKeyName(name string) error {
	return fleet.Errorf(fleet.Invalid, "key name %.40q: want 1 to 120 printable characters without colon or space", name).
		WithHint("Nix suggests the host's name and a number: cache.example.org-1")
}
