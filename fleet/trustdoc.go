// SPDX-License-Identifier: MIT

package fleet

// Payload types of the signed documents, one per kind, compared exactly.
const (
	TypeRelease     = "application/vnd.nixfleet.release.v1+json"
	TypeRoot        = "application/vnd.nixfleet.root.v1+json"
	TypeTimestamp   = "application/vnd.nixfleet.timestamp.v1+json"
	TypeRevocations = "application/vnd.nixfleet.revocations.v1+json"
	TypeGrant       = "application/vnd.nixfleet.grant.v1+json"
	TypeEvidence    = "application/vnd.nixfleet.evidence.v1+json"
)

// TrustRole is a duty that a root document gives to keys.
type TrustRole string

// The roles of a root document.
const (
	TrustRoleRoot      TrustRole = "root"
	TrustRoleRelease   TrustRole = "release"
	TrustRoleTimestamp TrustRole = "timestamp"
	TrustRoleRevoker   TrustRole = "revoker"
	TrustRoleOperator  TrustRole = "operator"
)

// Valid reports whether r is one of the roles.
func (r TrustRole) Valid() bool {
	switch r {
	case TrustRoleRoot, TrustRoleRelease, TrustRoleTimestamp, TrustRoleRevoker, TrustRoleOperator:
		return true
	}
	return false
}

// Root is the payload of a root.v1 document: who may sign what in a fleet.
type Root struct {
	FleetID string `json:"fleetId"`
	Version uint64 `json:"version"` // from 1, each signed by the one before
	// SignedAt is when the document was made, in Unix milliseconds; 0 in older
	// ones. It only tells how much of the document's life is over.
	SignedAt int64                  `json:"signedAt,omitempty"`
	Expires  int64                  `json:"expires"` // Unix milliseconds
	Keys     map[string]TrustKey    `json:"keys"`    // by key id, a hint for people
	Roles    map[TrustRole]KeyQuota `json:"roles"`
	Crit     []string               `json:"crit,omitempty"`
}

// TrustKey is an ed25519 public key.
type TrustKey struct {
	Public string `json:"public"` // 32 bytes, standard base64
	Name   string `json:"name,omitempty"`
}

// KeyQuota names the keys of a role and how many distinct ones must sign.
type KeyQuota struct {
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

// Timestamp is the payload of a timestamp.v1 document: proof that the newest
// releases and revocations are not being withheld.
type Timestamp struct {
	FleetID     string            `json:"fleetId"`
	Version     uint64            `json:"version"`
	SignedAt    int64             `json:"signedAt"`
	Expires     int64             `json:"expires"`
	Revocations Digest            `json:"revocations,omitempty"`
	Lines       map[Line]Sequence `json:"lines"`
	Crit        []string          `json:"crit,omitempty"`
}

// Sequence is a release's place in its line.
type Sequence = uint64

// Revocations is the payload of a revocations.v1 document.
type Revocations struct {
	FleetID      string            `json:"fleetId"`
	Version      uint64            `json:"version"`
	SignedAt     int64             `json:"signedAt"`
	Releases     []Digest          `json:"releases"`
	MinSequence  map[Line]Sequence `json:"minSequence"`
	Certificates []string          `json:"certificates"` // serial numbers, lower-case hex
	Crit         []string          `json:"crit,omitempty"`
}

// GrantKind is what an operator's grant allows.
type GrantKind string

// The kinds of grant.
const (
	GrantDowngrade GrantKind = "downgrade" // accept a release below the floor
	GrantStale     GrantKind = "stale"     // accept with a stale timestamp or an expired release
)

// Valid reports whether k is one of the kinds.
func (k GrantKind) Valid() bool {
	switch k {
	case GrantDowngrade, GrantStale:
		return true
	}
	return false
}

// Grant is the payload of a grant.v1 document, signed by the operator role and
// good for at most 24 hours.
type Grant struct {
	FleetID  string      `json:"fleetId"`
	Machines []MachineID `json:"machines"`
	Digest   Digest      `json:"digest"`
	Kind     GrantKind   `json:"kind"`
	SignedAt int64       `json:"signedAt"`
	Expires  int64       `json:"expires"`
	Crit     []string    `json:"crit,omitempty"`
}
