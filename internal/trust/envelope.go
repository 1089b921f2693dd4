// SPDX-License-Identifier: MIT

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/arcanesys/nixfleet/fleet"
)

// Limits of the documents' payloads in bytes, and of their signatures.
const (
	MaxRootBytes        = 64 << 10
	MaxTimestampBytes   = 64 << 10
	MaxRevocationsBytes = 1 << 20
	MaxGrantBytes       = 256 << 10
	MaxEvidenceBytes    = 4 << 20
	MaxSignatures       = 16
)

// payloadLimit returns how large a payload of a kind may be; 0 for a kind that
// does not exist.
func payloadLimit(payloadType string) int {
	switch payloadType {
	case fleet.TypeRelease:
		return fleet.MaxHeaderBytes
	case fleet.TypeRoot:
		return MaxRootBytes
	case fleet.TypeTimestamp:
		return MaxTimestampBytes
	case fleet.TypeRevocations:
		return MaxRevocationsBytes
	case fleet.TypeGrant:
		return MaxGrantBytes
	case fleet.TypeEvidence:
		return MaxEvidenceBytes
	}
	return 0
}

// EnvelopeLimit returns how large the JSON text of an envelope of a kind may
// be, in bytes: what a reader may read from the network before it parses.
func EnvelopeLimit(payloadType string) int { return payloadLimit(payloadType)/3*4 + 8<<10 }

// Envelope is a DSSE envelope (secure-systems-lab/dsse, version 1.0). Its
// payload is kept as it was signed, never encoded again.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is one key's ed25519 signature over the envelope's PAE.
type Signature struct {
	KeyID string `json:"keyid,omitempty"` // a hint, never trusted
	Sig   []byte `json:"sig"`
}

// PAE returns the bytes that are signed: DSSE's pre-authentication encoding.
func PAE(payloadType string, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+len(payloadType)+32)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ' ')
	return append(b, payload...)
}

// KeyID returns the hint that Sign puts beside a signature: the first 16 hex
// digits of the public key's SHA-256.
func KeyID(public ed25519.PublicKey) string {
	s := sha256.Sum256(public)
	return hex.EncodeToString(s[:8])
}

// ParseEnvelope reads an envelope that must be of the given kind. It checks
// sizes and form, not signatures. Errors are Refusals.
func ParseEnvelope(data []byte, payloadType string) (Envelope, error) {
	var e Envelope
	if err := Decode(data, EnvelopeLimit(payloadType), &e); err != nil {
		return Envelope{}, about("envelope", err)
	}
	switch {
	case e.PayloadType != payloadType:
		return Envelope{}, refuse(fleet.ReasonWrongType, "envelope: payloadType is %.80q, want %q", e.PayloadType, payloadType)
	case len(e.Payload) > payloadLimit(payloadType):
		return Envelope{}, refuse(fleet.ReasonTooLarge, "payload: %d bytes, at most %d", len(e.Payload), payloadLimit(payloadType))
	case len(e.Signatures) > MaxSignatures:
		return Envelope{}, refuse(fleet.ReasonTooLarge, "envelope: %d signatures, at most %d", len(e.Signatures), MaxSignatures)
	}
	return e, nil
}

// Encode returns the envelope's JSON text.
func (e Envelope) Encode() []byte {
	if e.Signatures == nil {
		e.Signatures = []Signature{}
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic("encode envelope: " + err.Error()) // strings and bytes always have a JSON form
	}
	return b
}

// Digest returns the digest of the payload, by which the document is known.
func (e Envelope) Digest() fleet.Digest { return fleet.SHA256(e.Payload) }

// Verify reports nil if at least threshold distinct keys have signed e. Key
// ids only say which key to try first. Errors are Refusals: not-signed,
// unknown-key, bad-signature or threshold-not-met.
func (e Envelope) Verify(keys []ed25519.PublicKey, threshold int) error {
	if len(e.Signatures) == 0 {
		return refuse(fleet.ReasonNotSigned, "the envelope has no signature")
	}
	if threshold < 1 {
		return refuse(fleet.ReasonThreshold, "a threshold of %d", threshold)
	}
	if len(e.Signatures) > MaxSignatures {
		return refuse(fleet.ReasonTooLarge, "%d signatures, at most %d", len(e.Signatures), MaxSignatures)
	}
	message := PAE(e.PayloadType, e.Payload)
	counted := make(map[string]bool, threshold)
	hinted := false
	for _, sig := range e.Signatures {
		key, known := signerOf(message, sig, keys)
		hinted = hinted || known
		if key != nil {
			counted[string(key)] = true
		}
	}
	switch {
	case len(counted) >= threshold:
		return nil
	case len(counted) > 0:
		return refuse(fleet.ReasonThreshold, "signed by %d of the role's keys, %d are needed", len(counted), threshold)
	case hinted:
		return refuse(fleet.ReasonBadSignature, "the signature does not match the payload")
	}
	return refuse(fleet.ReasonUnknownKey, "signed by no key of the role")
}

// signerOf returns the key that made sig, if one of keys did, and whether the
// signature's key id names one of keys.
func signerOf(message []byte, sig Signature, keys []ed25519.PublicKey) (key ed25519.PublicKey, hinted bool) {
	for _, k := range keys {
		if KeyID(k) == sig.KeyID {
			hinted = true
			if validSignature(k, message, sig.Sig) {
				return k, true
			}
		}
	}
	for _, k := range keys {
		if KeyID(k) != sig.KeyID && validSignature(k, message, sig.Sig) {
			return k, hinted
		}
	}
	return nil, hinted
}

func validSignature(k ed25519.PublicKey, message, sig []byte) bool {
	return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, message, sig)
}

// Signer makes ed25519 signatures: a key file, an ssh-agent, a command.
type Signer interface {
	Public() ed25519.PublicKey
	// Sign returns the 64 bytes of the signature over message itself, not over
	// a hash of it.
	Sign(message []byte) ([]byte, error)
}

// Sign puts payload into an envelope signed by all signers. It checks what
// each of them returns, since a signer may be a command or a device.
func Sign(payloadType string, payload []byte, signers ...Signer) (Envelope, error) {
	limit := payloadLimit(payloadType)
	if limit == 0 {
		return Envelope{}, fleet.Errorf(fleet.Invalid, "sign: %q is not a kind of document", payloadType)
	}
	if len(payload) > limit {
		return Envelope{}, fleet.Errorf(fleet.TooLarge, "sign: payload of %d bytes, at most %d", len(payload), limit)
	}
	return Cosign(Envelope{PayloadType: payloadType, Payload: payload}, signers...)
}

// Cosign returns e with the signatures of signers added, for documents that
// several people sign. A key that has already signed is not added again.
func Cosign(e Envelope, signers ...Signer) (Envelope, error) {
	message := PAE(e.PayloadType, e.Payload)
	out := e
	out.Signatures = append([]Signature{}, e.Signatures...)
	for _, s := range signers {
		public := s.Public()
		if signedBy(message, out.Signatures, public) {
			continue
		}
		sig, err := s.Sign(message)
		if err != nil {
			return Envelope{}, fmt.Errorf("sign with key %s: %w", KeyID(public), err)
		}
		if !validSignature(public, message, sig) {
			return Envelope{}, fleet.Errorf(fleet.Invalid, "sign with key %s: the signer returned a signature that does not verify", KeyID(public))
		}
		out.Signatures = append(out.Signatures, Signature{KeyID: KeyID(public), Sig: bytes.Clone(sig)})
	}
	if len(out.Signatures) > MaxSignatures {
		return Envelope{}, fleet.Errorf(fleet.TooLarge, "sign: more than %d signatures", MaxSignatures)
	}
	return out, nil
}

func signedBy(message []byte, sigs []Signature, public ed25519.PublicKey) bool {
	for _, s := range sigs {
		if validSignature(public, message, s.Sig) {
			return true
		}
	}
	return false
}
