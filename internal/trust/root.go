// SPDX-License-Identifier: MIT

package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// maxRootKeys bounds how many keys a root document may list, and so how many
// signatures a verifier tries.
const maxRootKeys = 64

// NewRoot makes the payload of a root document to sign. Errors have the code
// Invalid.
func NewRoot(root fleet.Root) ([]byte, error) {
	if err := ValidateRoot(root); err != nil {
		return nil, err
	}
	b, err := encode(root, &fleet.Root{}, MaxRootBytes)
	if err != nil {
		return nil, fleet.Errorf(fleet.Invalid, "root: %w", err)
	}
	return b, nil
}

// ValidateRoot returns the first fault in the form of a root. Every role's keys
// must be listed, a threshold must lie between 1 and their number, no public key
// may be listed twice, and the roles root and release must exist. The code is
// Invalid.
func ValidateRoot(root fleet.Root) error {
	switch {
	case !fleet.ValidFleetID(root.FleetID):
		return fleet.Errorf(fleet.Invalid, "root: %.80q is not a fleet id", root.FleetID)
	case root.Version < 1:
		return fleet.Errorf(fleet.Invalid, "root: version must be at least 1")
	case root.Expires <= 0:
		return fleet.Errorf(fleet.Invalid, "root: expires must be a time in Unix milliseconds")
	case root.SignedAt < 0 || root.SignedAt >= root.Expires:
		return fleet.Errorf(fleet.Invalid, "root: expires must be later than signedAt")
	case len(root.Keys) > maxRootKeys:
		return fleet.Errorf(fleet.Invalid, "root: %d keys, at most %d", len(root.Keys), maxRootKeys)
	}
	holder := make(map[string]string, len(root.Keys))
	for id, k := range root.Keys {
		public, ok := decodePublic(k)
		if !ok {
			return fleet.Errorf(fleet.Invalid, "root: key %.80q is not 32 bytes of base64", id)
		}
		if other, twice := holder[string(public)]; twice {
			return fleet.Errorf(fleet.Invalid, "root: keys %.80q and %.80q are the same", min(id, other), max(id, other))
		}
		holder[string(public)] = id
	}
	for role, quota := range root.Roles {
		if err := validateQuota(root, role, quota); err != nil {
			return err
		}
	}
	for _, role := range []fleet.TrustRole{fleet.TrustRoleRoot, fleet.TrustRoleRelease} {
		if _, ok := root.Roles[role]; !ok {
			return fleet.Errorf(fleet.Invalid, "root: no role %s", role)
		}
	}
	return nil
}

func validateQuota(root fleet.Root, role fleet.TrustRole, quota fleet.KeyQuota) error {
	for i, id := range quota.Keys {
		if _, ok := root.Keys[id]; !ok {
			return fleet.Errorf(fleet.Invalid, "root: role %.40s names key %.80q, which is not listed", role, id)
		}
		if slices.Contains(quota.Keys[:i], id) {
			return fleet.Errorf(fleet.Invalid, "root: role %.40s names key %.80q twice", role, id)
		}
	}
	if quota.Threshold < 1 || quota.Threshold > len(quota.Keys) || quota.Threshold > MaxSignatures {
		return fleet.Errorf(fleet.Invalid, "root: role %.40s has a threshold of %d and %d keys", role, quota.Threshold, len(quota.Keys))
	}
	return nil
}

func decodePublic(k fleet.TrustKey) (ed25519.PublicKey, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(k.Public)
	return b, err == nil && len(b) == ed25519.PublicKeySize && base64.StdEncoding.EncodeToString(b) == k.Public
}

// RoleKeys returns the public keys of a role of a valid root, and how many of
// them must sign; none and 0 if the root does not have the role.
func RoleKeys(root fleet.Root, role fleet.TrustRole) (keys []ed25519.PublicKey, threshold int) {
	quota := root.Roles[role]
	for _, id := range quota.Keys {
		if k, ok := decodePublic(root.Keys[id]); ok {
			keys = append(keys, k)
		}
	}
	return keys, quota.Threshold
}

// HasKey reports whether k is one of keys.
func HasKey(keys []ed25519.PublicKey, k ed25519.PublicKey) bool {
	return slices.ContainsFunc(keys, func(o ed25519.PublicKey) bool { return o.Equal(k) })
}

func verifyRole(e Envelope, root fleet.Root, role fleet.TrustRole) error {
	keys, threshold := RoleKeys(root, role)
	if len(keys) == 0 {
		return refuse(fleet.ReasonUnknownKey, "the root document has no key for the role %s", role)
	}
	return e.Verify(keys, threshold)
}

// PinRoot reads the root that a machine or a control plane starts from. The
// caller trusts the source of the bytes; they must still be signed by the root's
// own threshold. Its expiry is checked when it is used. Errors are Refusals.
func PinRoot(envelope []byte) (fleet.Root, error) {
	e, root, err := parseRoot(envelope)
	if err != nil {
		return fleet.Root{}, err
	}
	if err := verifyRole(e, root, fleet.TrustRoleRoot); err != nil {
		return fleet.Root{}, about("root", err)
	}
	return root, nil
}

// AdvanceRoot follows the chain from old through next, oldest first: each is
// one version later, of the same fleet, and signed by the root thresholds of
// the one before and of its own. Only the last must not have expired at now
// (Unix ms): a machine that was off during a version can still follow. Errors
// are Refusals; then it returns old.
func AdvanceRoot(old fleet.Root, now int64, next ...[]byte) (fleet.Root, error) {
	root := old
	for _, envelope := range next {
		e, r, err := parseRoot(envelope)
		if err != nil {
			return old, err
		}
		if r.FleetID != root.FleetID {
			return old, refuse(fleet.ReasonWrongFleet, "a root of fleet %q, this is %q", r.FleetID, root.FleetID)
		}
		if r.Version != root.Version+1 {
			return old, refuse(fleet.ReasonRootChain, "root version %d does not follow version %d", r.Version, root.Version)
		}
		for _, judge := range []fleet.Root{root, r} {
			if err := verifyRole(e, judge, fleet.TrustRoleRoot); err != nil {
				return old, refuse(fleet.ReasonRootChain, "root version %d, checked with the keys of version %d: %v", r.Version, judge.Version, err)
			}
		}
		root = r
	}
	if len(next) > 0 && root.Expires <= now {
		return old, refuse(fleet.ReasonExpired, "root version %d has expired", root.Version)
	}
	return root, nil
}

func parseRoot(envelope []byte) (Envelope, fleet.Root, error) {
	e, err := ParseEnvelope(envelope, fleet.TypeRoot)
	if err != nil {
		return Envelope{}, fleet.Root{}, about("root", err)
	}
	var root fleet.Root
	if err := Decode(e.Payload, MaxRootBytes, &root); err != nil {
		return Envelope{}, fleet.Root{}, about("root", err)
	}
	if err := ValidateRoot(root); err != nil {
		return Envelope{}, fleet.Root{}, refuse(fleet.ReasonMalformed, "%v", err)
	}
	return e, root, nil
}

// SameRole reports whether two roots give a role to the same keys with the
// same threshold.
func SameRole(a, b fleet.Root, role fleet.TrustRole) bool {
	ka, ta := RoleKeys(a, role)
	kb, tb := RoleKeys(b, role)
	if len(ka) != len(kb) || ta != tb {
		return false
	}
	for _, k := range ka {
		if !HasKey(kb, k) {
			return false
		}
	}
	return true
}
