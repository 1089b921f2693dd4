// SPDX-License-Identifier: MIT

package trust

import (
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// MaxGrantLifeMs is how long a grant may be valid, in milliseconds.
const MaxGrantLifeMs = 24 * 60 * 60 * 1000

// NewTimestamp makes the payload of a timestamp to sign. Errors are Refusals.
func NewTimestamp(t fleet.Timestamp) ([]byte, error) {
	if t.Lines == nil {
		t.Lines = map[fleet.Line]fleet.Sequence{}
	}
	if err := checkNew("timestamp", t.FleetID, validateTimestamp(t)); err != nil {
		return nil, err
	}
	return encode(t, &fleet.Timestamp{}, MaxTimestampBytes)
}

// NewRevocations makes the payload of a revocation list to sign. Errors are
// Refusals.
func NewRevocations(r fleet.Revocations) ([]byte, error) {
	if r.Releases == nil {
		r.Releases = []fleet.Digest{}
	}
	if r.MinSequence == nil {
		r.MinSequence = map[fleet.Line]fleet.Sequence{}
	}
	if r.Certificates == nil {
		r.Certificates = []string{}
	}
	if err := checkNew("revocations", r.FleetID, validateRevocations(r)); err != nil {
		return nil, err
	}
	return encode(r, &fleet.Revocations{}, MaxRevocationsBytes)
}

// NewGrant makes the payload of a grant to sign. Errors are Refusals.
func NewGrant(g fleet.Grant) ([]byte, error) {
	if err := checkNew("grant", g.FleetID, validateGrant(g)); err != nil {
		return nil, err
	}
	return encode(g, &fleet.Grant{}, MaxGrantBytes)
}

func checkNew(what, fleetID string, err error) error {
	if err == nil && !fleet.ValidFleetID(fleetID) {
		return refuse(fleet.ReasonMalformed, "%s: %.80q is not a fleet id", what, fleetID)
	}
	return err
}

// ParseTimestamp reads a timestamp and checks that root's timestamp role
// signed it for root's fleet. It does not check the age. Errors are Refusals.
func ParseTimestamp(envelope []byte, root fleet.Root) (fleet.Timestamp, error) {
	var t fleet.Timestamp
	if _, err := open(envelope, fleet.TypeTimestamp, root, fleet.TrustRoleTimestamp, &t); err != nil {
		return fleet.Timestamp{}, about("timestamp", err)
	}
	if err := validateTimestamp(t); err != nil {
		return fleet.Timestamp{}, err
	}
	if err := sameFleet("timestamp", t.FleetID, root); err != nil {
		return fleet.Timestamp{}, err
	}
	return t, nil
}

func validateTimestamp(t fleet.Timestamp) error {
	switch {
	case t.Version < 1 || t.SignedAt <= 0 || t.Expires <= t.SignedAt:
		return refuse(fleet.ReasonMalformed, "timestamp: version must be at least 1, and expires later than signedAt")
	case t.Revocations != "" && !t.Revocations.Valid():
		return refuse(fleet.ReasonMalformed, "timestamp: revocations %.80q is not a digest", t.Revocations)
	}
	return validLines("timestamp", t.Lines)
}

// LifeUsed returns how much of a document's life is over at now, in percent from
// 0 to 100; times are Unix milliseconds. Operators and agents are warned at 50
// and at 75. Before a life is known, with a signedAt of 0, it is 0 until expires.
func LifeUsed(signedAt, expires, now int64) int {
	if signedAt == 0 && now < expires {
		return 0
	}
	life, used := expires-signedAt, now-signedAt
	switch {
	case used <= 0:
		return 0
	case used >= life:
		return 100
	}
	return int(float64(used) / float64(life) * 100)
}

// LifeStep returns the warning that a share of a life, in percent, calls for: 0,
// 50, 75 or 100.
func LifeStep(used int) int {
	step := 0
	for _, s := range []int{50, 75, 100} {
		if used >= s {
			step = s
		}
	}
	return step
}

// ParseRevocations reads a revocation list and checks that root's revoker role
// signed it for root's fleet. The digest is that of its payload, as timestamps
// name it. Errors are Refusals.
func ParseRevocations(envelope []byte, root fleet.Root) (fleet.Revocations, fleet.Digest, error) {
	var r fleet.Revocations
	digest, err := open(envelope, fleet.TypeRevocations, root, fleet.TrustRoleRevoker, &r)
	if err != nil {
		return fleet.Revocations{}, "", about("revocations", err)
	}
	if err := validateRevocations(r); err != nil {
		return fleet.Revocations{}, "", err
	}
	if err := sameFleet("revocations", r.FleetID, root); err != nil {
		return fleet.Revocations{}, "", err
	}
	return r, digest, nil
}

func validateRevocations(r fleet.Revocations) error {
	if r.Version < 1 || r.SignedAt <= 0 {
		return refuse(fleet.ReasonMalformed, "revocations: version must be at least 1, and signedAt a time")
	}
	for _, d := range r.Releases {
		if !d.Valid() {
			return refuse(fleet.ReasonMalformed, "revocations: %.80q is not a digest", d)
		}
	}
	for _, c := range r.Certificates {
		if c == "" || len(c) > 40 || strings.Trim(c, "0123456789abcdef") != "" {
			return refuse(fleet.ReasonMalformed, "revocations: %.80q is not a serial number in lower-case hex", c)
		}
	}
	return validLines("revocations", r.MinSequence)
}

// MergeRevocations returns what either of two lists revokes. Fleet, version and
// time are those of b.
func MergeRevocations(a, b fleet.Revocations) fleet.Revocations {
	out := fleet.Revocations{
		FleetID: b.FleetID, Version: b.Version, SignedAt: b.SignedAt, MinSequence: map[fleet.Line]fleet.Sequence{},
		Releases:     union(a.Releases, b.Releases),
		Certificates: union(a.Certificates, b.Certificates),
	}
	for _, r := range []fleet.Revocations{a, b} {
		for l, n := range r.MinSequence {
			out.MinSequence[l] = max(out.MinSequence[l], n)
		}
	}
	return out
}

func union[T comparable](a, b []T) []T {
	out := append([]T{}, a...)
	for _, v := range b {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// Revoked reports whether r revokes the release with this digest, line and
// sequence.
func Revoked(r fleet.Revocations, m Mark) bool {
	for _, d := range r.Releases {
		if d == m.Digest {
			return true
		}
	}
	return m.Sequence < r.MinSequence[m.Line]
}

// ParseGrant reads a grant and checks that root's operator role signed it for
// root's fleet, for at most 24 hours. It does not check which machines it names,
// or whether it has expired. Errors are Refusals.
func ParseGrant(envelope []byte, root fleet.Root) (fleet.Grant, error) {
	var g fleet.Grant
	if _, err := open(envelope, fleet.TypeGrant, root, fleet.TrustRoleOperator, &g); err != nil {
		return fleet.Grant{}, about("grant", err)
	}
	if err := validateGrant(g); err != nil {
		return fleet.Grant{}, err
	}
	if err := sameFleet("grant", g.FleetID, root); err != nil {
		return fleet.Grant{}, err
	}
	return g, nil
}

func validateGrant(g fleet.Grant) error {
	switch {
	case !g.Kind.Valid():
		return refuse(fleet.ReasonMalformed, "grant: %.40q is not a kind of grant", g.Kind)
	case !g.Digest.Valid():
		return refuse(fleet.ReasonMalformed, "grant: %.80q is not a digest", g.Digest)
	case len(g.Machines) == 0:
		return refuse(fleet.ReasonMalformed, "grant: names no machine")
	case g.SignedAt <= 0 || g.Expires <= g.SignedAt:
		return refuse(fleet.ReasonMalformed, "grant: expires must be later than signedAt")
	case g.Expires-g.SignedAt > MaxGrantLifeMs:
		return refuse(fleet.ReasonGrantTooLong, "grant: valid for more than 24 hours")
	}
	for _, m := range g.Machines {
		if !m.Valid() {
			return refuse(fleet.ReasonMalformed, "grant: %.80q is not a machine id", m)
		}
	}
	return nil
}

// open verifies an envelope by a role of root and decodes its payload into v.
func open(envelope []byte, payloadType string, root fleet.Root, role fleet.TrustRole, v any) (fleet.Digest, error) {
	e, err := ParseEnvelope(envelope, payloadType)
	if err != nil {
		return "", err
	}
	if err := verifyRole(e, root, role); err != nil {
		return "", err
	}
	return e.Digest(), Decode(e.Payload, payloadLimit(payloadType), v)
}

func sameFleet(what, fleetID string, root fleet.Root) error {
	if fleetID != root.FleetID {
		return refuse(fleet.ReasonWrongFleet, "%s: of fleet %.80q, this is %q", what, fleetID, root.FleetID)
	}
	return nil
}

func validLines(what string, lines map[fleet.Line]fleet.Sequence) error {
	for l := range lines {
		if !l.Valid() {
			return refuse(fleet.ReasonMalformed, "%s: %.80q is not a line", what, l)
		}
	}
	return nil
}
