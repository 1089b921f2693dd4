// SPDX-License-Identifier: MIT

package fleet

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/url"
	"strings"
)

// EvidenceKey is the public half of the key with which a machine signs evidence:
// "ed25519:" and its 32 bytes in base64 for URLs, without padding. It is another
// key than that of the machine's certificate, which names it, and outlives renewals.
type EvidenceKey string

const evidencePrefix = "ed25519:"

// EvidenceScheme is the scheme of the URI by which certificate requests and
// certificates name the evidence key, as a subject alternative name:
// nixfleet-evidence:ed25519:BASE64URL.
const EvidenceScheme = "nixfleet-evidence"

// EvidenceKeyOf is the form of a public key.
func EvidenceKeyOf(k ed25519.PublicKey) EvidenceKey {
	return EvidenceKey(evidencePrefix + base64.RawURLEncoding.EncodeToString(k))
}

// Public returns the key; false if k is not valid.
func (k EvidenceKey) Public() (ed25519.PublicKey, bool) {
	text, ok := strings.CutPrefix(string(k), evidencePrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != ed25519.PublicKeySize || EvidenceKeyOf(b) != k {
		return nil, false
	}
	return b, true
}

// Valid reports whether k is a key.
func (k EvidenceKey) Valid() bool {
	_, ok := k.Public()
	return ok
}

// URIs are the subject alternative names for k; none if it is empty.
func (k EvidenceKey) URIs() []*url.URL {
	if k == "" {
		return nil
	}
	return []*url.URL{{Scheme: EvidenceScheme, Opaque: string(k)}}
}

// EvidenceKeyIn is the evidence key that the subject alternative names of a
// certificate, or of a request, name; "" if none does. The error's code is Invalid.
func EvidenceKeyIn(names []*url.URL) (EvidenceKey, error) {
	var found EvidenceKey
	for _, u := range names {
		if u.Scheme != EvidenceScheme {
			continue
		}
		k := EvidenceKey(u.Opaque)
		if found != "" || !k.Valid() || u.String() != k.URIs()[0].String() {
			return "", Errorf(Invalid, "the evidence key is not one ed25519 key: %.120q", u.String())
		}
		found = k
	}
	return found, nil
}
