// SPDX-License-Identifier: MIT

package trust

import (
	"crypto/ed25519"
	"encoding/json"

	"github.com/arcanesys/nixfleet/fleet"
)

// Draft is a document whose form was checked and whose signatures were not: it
// may lack some. Exactly one of the pointers is set.
type Draft struct {
	Envelope    Envelope
	Root        *fleet.Root
	Timestamp   *fleet.Timestamp
	Revocations *fleet.Revocations
	Grant       *fleet.Grant
	Header      *fleet.Header // of a release
}

// ParseDraft reads a document of any kind but evidence. Errors are Refusals.
func ParseDraft(data []byte) (Draft, error) {
	var kind struct {
		PayloadType string `json:"payloadType"`
	}
	if len(data) > EnvelopeLimit(fleet.TypeRevocations) { // the largest kind
		return Draft{}, refuse(fleet.ReasonTooLarge, "document: %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return Draft{}, refuse(fleet.ReasonMalformed, "not a signed document: %v", err)
	}
	e, err := ParseEnvelope(data, kind.PayloadType)
	if err != nil {
		return Draft{}, err
	}
	d := Draft{Envelope: e}
	if err := d.decode(); err != nil {
		return Draft{}, err
	}
	return d, nil
}

// decode fills the pointer of the envelope's kind.
func (d *Draft) decode() error {
	read := func(what string, v any, validate func() error) error {
		if err := Decode(d.Envelope.Payload, payloadLimit(d.Envelope.PayloadType), v); err != nil {
			return about(what, err)
		}
		return validate()
	}
	malformed := func(err error) error {
		if err != nil {
			return refuse(fleet.ReasonMalformed, "%v", err)
		}
		return nil
	}
	switch d.Envelope.PayloadType {
	case fleet.TypeRoot:
		d.Root = &fleet.Root{}
		return read("root", d.Root, func() error { return malformed(ValidateRoot(*d.Root)) })
	case fleet.TypeTimestamp:
		d.Timestamp = &fleet.Timestamp{}
		return read("timestamp", d.Timestamp, func() error { return validateTimestamp(*d.Timestamp) })
	case fleet.TypeRevocations:
		d.Revocations = &fleet.Revocations{}
		return read("revocations", d.Revocations, func() error { return validateRevocations(*d.Revocations) })
	case fleet.TypeGrant:
		d.Grant = &fleet.Grant{}
		return read("grant", d.Grant, func() error { return validateGrant(*d.Grant) })
	case fleet.TypeRelease:
		d.Header = &fleet.Header{}
		return read("release", d.Header, func() error { return malformed(d.Header.Validate()) })
	}
	return refuse(fleet.ReasonWrongType, "a document of type %.80q", d.Envelope.PayloadType)
}

// Role is the role of a root document that signs documents of this kind.
func (d Draft) Role() fleet.TrustRole {
	switch {
	case d.Timestamp != nil:
		return fleet.TrustRoleTimestamp
	case d.Revocations != nil:
		return fleet.TrustRoleRevoker
	case d.Grant != nil:
		return fleet.TrustRoleOperator
	case d.Header != nil:
		return fleet.TrustRoleRelease
	}
	return fleet.TrustRoleRoot
}

// FleetID is the fleet that the document names.
func (d Draft) FleetID() string {
	switch {
	case d.Timestamp != nil:
		return d.Timestamp.FleetID
	case d.Revocations != nil:
		return d.Revocations.FleetID
	case d.Grant != nil:
		return d.Grant.FleetID
	case d.Header != nil:
		return d.Header.FleetID
	case d.Root != nil:
		return d.Root.FleetID
	}
	return ""
}

// Life is when the document was signed and when it ends, in Unix milliseconds;
// 0 for what it does not say.
func (d Draft) Life() (signedAt, expires int64) {
	switch {
	case d.Root != nil:
		return d.Root.SignedAt, d.Root.Expires
	case d.Timestamp != nil:
		return d.Timestamp.SignedAt, d.Timestamp.Expires
	case d.Revocations != nil:
		return d.Revocations.SignedAt, 0
	case d.Grant != nil:
		return d.Grant.SignedAt, d.Grant.Expires
	case d.Header != nil:
		return d.Header.CreatedAt, d.Header.Expires
	}
	return 0, 0
}

// Quorum is how far a document has the signatures that one version of the root
// document asks for.
type Quorum struct {
	RootVersion uint64          `json:"rootVersion"`
	Role        fleet.TrustRole `json:"role"`
	Need        int             `json:"need"`   // distinct keys
	Signed      []string        `json:"signed"` // ids of the role's keys that have signed
}

// Met reports whether no signature is missing.
func (q Quorum) Met() bool { return q.Need > 0 && len(q.Signed) >= q.Need }

// Quorums judges the signatures by root. A root document is judged by its own
// keys too, and by these alone if root is nil. Errors are Refusals: of another
// fleet, a root document that does not follow root, a kind that root has no keys
// for.
func (d Draft) Quorums(root *fleet.Root) ([]Quorum, error) {
	judges, err := d.judges(root)
	if err != nil {
		return nil, err
	}
	message := PAE(d.Envelope.PayloadType, d.Envelope.Payload)
	out := make([]Quorum, len(judges))
	for i, j := range judges {
		keys, need := RoleKeys(j, d.Role())
		if len(keys) == 0 {
			return nil, refuse(fleet.ReasonUnknownKey, "root version %d has no key for the role %s", j.Version, d.Role())
		}
		out[i] = Quorum{RootVersion: j.Version, Role: d.Role(), Need: need, Signed: []string{}}
		for _, k := range keys {
			if signedBy(message, d.Envelope.Signatures, k) {
				out[i].Signed = append(out[i].Signed, KeyID(k))
			}
		}
	}
	return out, nil
}

// Keys are the public keys whose signatures count for the document.
func (d Draft) Keys(root *fleet.Root) ([]ed25519.PublicKey, error) {
	judges, err := d.judges(root)
	if err != nil {
		return nil, err
	}
	var all []ed25519.PublicKey
	for _, j := range judges {
		keys, _ := RoleKeys(j, d.Role())
		all = append(all, keys...)
	}
	return all, nil
}

// judges are the root documents whose thresholds count.
func (d Draft) judges(root *fleet.Root) ([]fleet.Root, error) {
	switch {
	case root == nil && d.Root == nil:
		return nil, refuse(fleet.ReasonNoRoot, "no root document to judge the signatures by")
	case root == nil:
		return []fleet.Root{*d.Root}, nil
	case d.FleetID() != root.FleetID:
		return nil, refuse(fleet.ReasonWrongFleet, "of fleet %.80q, the root document is of %q", d.FleetID(), root.FleetID)
	case d.Root == nil:
		return []fleet.Root{*root}, nil
	case d.Root.Version != root.Version+1:
		return nil, refuse(fleet.ReasonRootChain, "root version %d does not follow version %d", d.Root.Version, root.Version)
	}
	return []fleet.Root{*root, *d.Root}, nil
}

// Attach adds a signature that one of keys made, and returns that key. A key
// that has signed before is not added again: it counts once. The error's code is
// Refused if no key made it.
func Attach(e Envelope, sig []byte, keys []ed25519.PublicKey) (Envelope, ed25519.PublicKey, error) {
	message := PAE(e.PayloadType, e.Payload)
	key, _ := signerOf(message, Signature{Sig: sig}, keys)
	switch {
	case key == nil:
		return e, nil, fleet.Errorf(fleet.Refused, "%d bytes that are not a signature of this document by a key that may sign it", len(sig))
	case signedBy(message, e.Signatures, key):
		return e, key, nil
	case len(e.Signatures) >= MaxSignatures:
		return e, nil, fleet.Errorf(fleet.TooLarge, "the document has %d signatures; more are not accepted", len(e.Signatures))
	}
	out := e
	out.Signatures = append(append([]Signature{}, e.Signatures...), Signature{KeyID: KeyID(key), Sig: append([]byte{}, sig...)})
	return out, key, nil
}
