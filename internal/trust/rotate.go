// SPDX-License-Identifier: MIT

package trust

import (
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// RootChange is how the next version of a root document differs. Keys in Remove
// and Replace are named by key id, or by a name that only one key has.
type RootChange struct {
	Add     []RoleKey
	Remove  []KeyRef
	Replace []Replacement
	// Thresholds are new ones by role; 0 ends a role.
	Thresholds map[fleet.TrustRole]int
	Expires    int64 // Unix milliseconds; 0: as before
}

// RoleKey gives a key to a role.
type RoleKey struct {
	Role fleet.TrustRole
	Key  PublicKey
}

// KeyRef names a key in a role; in all of its roles, if Role is empty.
type KeyRef struct {
	Role fleet.TrustRole
	Key  string
}

// Replacement puts a key in the place of another in all of its roles.
type Replacement struct {
	Old string
	New PublicKey
}

// NextRoot returns the version after old, as it is signed at now (Unix ms): first
// keys are replaced, then removed, then added. Keys that no role has any more are
// left out. The error's code is Invalid, also if nothing changes.
func NextRoot(old fleet.Root, c RootChange, now int64) (fleet.Root, error) {
	next := fleet.Root{
		FleetID: old.FleetID, Version: old.Version + 1, SignedAt: now, Expires: old.Expires,
		Keys: maps.Clone(old.Keys), Roles: map[fleet.TrustRole]fleet.KeyQuota{},
	}
	for role, q := range old.Roles {
		next.Roles[role] = fleet.KeyQuota{Keys: slices.Clone(q.Keys), Threshold: q.Threshold}
	}
	if c.Expires != 0 {
		next.Expires = c.Expires
	}
	if err := applyKeys(&next, c); err != nil {
		return fleet.Root{}, err
	}
	for role, n := range c.Thresholds {
		q, ok := next.Roles[role]
		switch {
		case !ok:
			return fleet.Root{}, fleet.Errorf(fleet.Invalid, "root: role %s has no key, so it has no threshold", role)
		case n == 0:
			delete(next.Roles, role)
		default:
			next.Roles[role] = fleet.KeyQuota{Keys: q.Keys, Threshold: n}
		}
	}
	dropUnused(&next)
	if sameRoot(old, next) {
		return fleet.Root{}, fleet.Errorf(fleet.Invalid, "root: nothing changes")
	}
	if next.Expires <= now {
		return fleet.Root{}, fleet.Errorf(fleet.Invalid, "root: version %d would have expired already", next.Version)
	}
	return next, ValidateRoot(next)
}

func applyKeys(root *fleet.Root, c RootChange) error {
	for _, r := range c.Replace {
		old, err := FindKey(*root, r.Old)
		if err != nil {
			return err
		}
		id, err := addKey(root, r.New)
		if err != nil {
			return err
		}
		for role, q := range root.Roles {
			if i := slices.Index(q.Keys, old); i >= 0 {
				q.Keys[i] = id
				root.Roles[role] = q
			}
		}
	}
	for _, r := range c.Remove {
		if err := removeKey(root, r); err != nil {
			return err
		}
	}
	for _, a := range c.Add {
		if !a.Role.Valid() {
			return fleet.Errorf(fleet.Invalid, "root: %.40q is not a role", a.Role)
		}
		id, err := addKey(root, a.Key)
		if err != nil {
			return err
		}
		q := root.Roles[a.Role]
		root.Roles[a.Role] = fleet.KeyQuota{Keys: append(q.Keys, id), Threshold: max(q.Threshold, 1)}
	}
	return nil
}

// addKey lists a key, unless it is listed already, and returns its id.
func addKey(root *fleet.Root, k PublicKey) (string, error) {
	listed := k.Trust()
	for id, known := range root.Keys {
		if known.Public == listed.Public {
			return id, nil
		}
	}
	id := KeyID(k.Key)
	if _, taken := root.Keys[id]; taken {
		return "", fleet.Errorf(fleet.Invalid, "root: key id %s belongs to another key", id)
	}
	root.Keys[id] = listed
	return id, nil
}

func removeKey(root *fleet.Root, r KeyRef) error {
	id, err := FindKey(*root, r.Key)
	if err != nil {
		return err
	}
	removed := false
	for role, q := range root.Roles {
		i := slices.Index(q.Keys, id)
		if i < 0 || r.Role != "" && r.Role != role {
			continue
		}
		q.Keys = slices.Delete(q.Keys, i, i+1)
		root.Roles[role] = q
		removed = true
	}
	if !removed {
		return fleet.Errorf(fleet.Invalid, "root: key %.80q does not have the role %s", r.Key, r.Role)
	}
	return nil
}

// FindKey returns the id of the key that word names: by its id, or by a name
// that no other key has. The error's code is Invalid.
func FindKey(root fleet.Root, word string) (string, error) {
	if _, ok := root.Keys[word]; ok {
		return word, nil
	}
	var found []string
	for id, k := range root.Keys {
		if k.Name == word && word != "" {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fleet.Errorf(fleet.Invalid, "root: version %d has no key %.80q", root.Version, word).WithHint("nixfleet trust show lists the keys")
	}
	return "", fleet.Errorf(fleet.Invalid, "root: %d keys are called %.80q", len(found), word).WithHint("give the key's id")
}

func dropUnused(root *fleet.Root) {
	used := map[string]bool{}
	for _, q := range root.Roles {
		for _, id := range q.Keys {
			used[id] = true
		}
	}
	maps.DeleteFunc(root.Keys, func(id string, _ fleet.TrustKey) bool { return !used[id] })
}

// sameRoot reports whether two versions give the same keys the same roles until
// the same time.
func sameRoot(a, b fleet.Root) bool {
	if a.Expires != b.Expires || len(a.Roles) != len(b.Roles) {
		return false
	}
	for role := range a.Roles {
		if !SameRole(a, b, role) {
			return false
		}
	}
	return true
}
