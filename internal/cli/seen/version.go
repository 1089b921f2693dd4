// SPDX-License-Identifier: MIT

package seen

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

func (p Place) versionsFile() string { return filepath.Join(p.dir, "documents-"+p.name) }

// series names the documents whose versions rise: those that the same keys of a
// role sign. New keys begin anew, as they do for agents; the root document's
// versions never do.
func series(root fleet.Root, role fleet.TrustRole) string {
	if role == fleet.TrustRoleRoot {
		return string(role)
	}
	keys, _ := trust.RoleKeys(root, role)
	words := make([]string, len(keys))
	for i, k := range keys {
		words[i] = trust.KeyID(k)
	}
	slices.Sort(words)
	return string(role) + " " + strings.Join(words, " ")
}

// Version is the highest version seen of the documents that a role of root
// signs; 0 for none.
func (p Place) Version(root fleet.Root, role fleet.TrustRole) (uint64, error) {
	v := map[string]uint64{}
	err := read(p.versionsFile(), &v)
	return v[series(root, role)], err
}

// Saw keeps the version of a document that a role of root signs. It refuses one
// that is lower than a version seen before.
func (p Place) Saw(root fleet.Root, role fleet.TrustRole, version uint64) error {
	v := map[string]uint64{}
	if err := read(p.versionsFile(), &v); err != nil {
		return err
	}
	name := series(root, role)
	switch was := v[name]; {
	case version == was:
		return nil
	case version < was:
		return fleet.Errorf(fleet.Refused, "the control plane's document of the role %s has version %d, and version %d was seen before", role, version, was).
			WithHint("was the control plane restored from a backup? hand the newer document in again; if you know why it is gone, remove %s", p.versionsFile())
	}
	if v == nil {
		v = map[string]uint64{} // the file says null
	}
	v[name] = version
	return write(p.versionsFile(), v)
}

func (p Place) revocationsFile() string { return filepath.Join(p.dir, "revocations-"+p.name) }

// Revocations are all that were seen revoked, by lists that were verified.
func (p Place) Revocations() (fleet.Revocations, error) {
	var r fleet.Revocations
	err := read(p.revocationsFile(), &r)
	return r, err
}

// KeepRevocations adds a list that was verified.
func (p Place) KeepRevocations(r fleet.Revocations) error {
	before, err := p.Revocations()
	if err != nil {
		return err
	}
	return write(p.revocationsFile(), trust.MergeRevocations(before, r))
}
