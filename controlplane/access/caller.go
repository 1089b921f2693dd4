// SPDX-License-Identifier: AGPL-3.0-only

// Package access authenticates operators by their API keys, and says what they
// may do.
//
// It never looks at machines itself, and grants no authority over what they
// run: that comes from signed releases.
package access

import (
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Caller is an operator who was authenticated.
type Caller struct {
	Owner string
	KeyID string
	Role  fleet.Role
	Tags  []fleet.Tag // may touch machines with one of these only; none: all

	expiresAt int64        // of the key; 0 for never
	hash      fleet.Digest // of the secret that the caller came with
}

// Actor is the caller's name in the audit trail.
func (c Caller) Actor() string { return "key:" + c.Owner }

// MayDo checks that the caller's key is one that an operation's row in
// api.Operations is open to. The error's code is Forbidden.
func (c Caller) MayDo(op api.Operation) error {
	switch {
	case op.Scope != api.Scoped && op.Scope != api.FleetWide || !op.Allows(c.Role):
		return fleet.Errorf(fleet.Forbidden, "%s needs a key with one of the roles %v; this one has %s", op.ID, op.Roles, c.Role)
	case op.Scope == api.FleetWide && c.Limited():
		return fleet.Errorf(fleet.Forbidden, "%s is about the whole fleet; your key is limited to machines with one of the tags %v", op.ID, c.Tags)
	}
	return nil
}

// Limited reports whether the caller's key is for some machines only.
func (c Caller) Limited() bool { return len(c.Tags) > 0 }

// Reaches reports whether a machine is one that the caller's key is for. Only
// tags that operators set, and those of signed entries, count.
func (c Caller) Reaches(m fleet.Machine) bool {
	return !c.Limited() || slices.ContainsFunc(m.Tags.Effective, func(t fleet.Tag) bool { return slices.Contains(c.Tags, t) })
}

// MayTouch checks that a machine is one that the caller's key is for. The
// error's code is Forbidden.
func (c Caller) MayTouch(m fleet.Machine) error {
	if c.Reaches(m) {
		return nil
	}
	return fleet.Errorf(fleet.Forbidden, "machine %s has none of the tags %v that your key is for", m.ID, c.Tags)
}

// MaySetTags checks that the caller may change a machine's operator tags: a
// limited key adds and removes its own only. The error's code is Forbidden.
func (c Caller) MaySetTags(from, to []fleet.Tag) error {
	if !c.Limited() {
		return nil
	}
	for _, t := range append(slices.Clone(from), to...) {
		if slices.Contains(from, t) != slices.Contains(to, t) && !slices.Contains(c.Tags, t) {
			return fleet.Errorf(fleet.Forbidden, "tag %s is not one of the tags %v of your key, so you can neither set nor remove it", t, c.Tags)
		}
	}
	return nil
}

// covers reports whether a key with these tags can do no more than the caller.
func (c Caller) covers(tags []fleet.Tag) bool {
	outside := func(t fleet.Tag) bool { return !slices.Contains(c.Tags, t) }
	return !c.Limited() || len(tags) > 0 && !slices.ContainsFunc(tags, outside)
}
