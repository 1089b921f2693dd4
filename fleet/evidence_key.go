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

// EvidenceProofScheme is the scheme of the URI by which a certificate request proves
// that its machine has the evidence key that it names, as a subject alternative name:
// nixfleet-evidence-proof:BASE64URL, with the key's signature over machine and
// request.
const EvidenceProofScheme = "nixfleet-evidence-proof"

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

// evidenceStatement is what an evidence key signs to be named in a machine's
// certificate of a key; of is the hash of that key.
func evidenceStatement(m MachineID, of Digest) []byte {
	return []byte("nixfleet evidence key\n" + string(m) + "\n" + string(of) + "\n")
}

// ProveEvidence returns the subject alternative name that proves k to whoever issues
// a certificate: m is the machine, of the hash of the certificate's public key
// (SubjectPublicKeyInfo).
func ProveEvidence(k ed25519.PrivateKey, m MachineID, of Digest) *url.URL {
	return &url.URL{Scheme: EvidenceProofScheme, Opaque: base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, evidenceStatement(m, of)))}
}

// ProvedIn reports whether the subject alternative names of a certificate request
// prove k; false without a proof, as agents before it ask. The error's code is Invalid
// for a proof that is not good.
func (k EvidenceKey) ProvedIn(names []*url.URL, m MachineID, of Digest) (bool, error) {
	proved := false
	for _, u := range names {
		if u.Scheme != EvidenceProofScheme {
			continue
		}
		public, ok := k.Public()
		signature, err := base64.RawURLEncoding.Strict().DecodeString(u.Opaque)
		if proved || !ok || err != nil || !ed25519.Verify(public, evidenceStatement(m, of), signature) {
			return false, Errorf(Invalid, "the request does not prove that its machine has the evidence key %.120q", k)
		}
		proved = true
	}
	return proved, nil
}
