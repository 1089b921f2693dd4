// SPDX-License-Identifier: MIT

package documents

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// maxShown bounds how many machines or digests are listed before the rest is
// counted.
const maxShown = 50

// Describe says in plain words what a document does, a line each. What a
// release's header says of its entries was recomputed when it was read. root is
// the root document in force; nil if none is known.
func (f File) Describe(root *fleet.Root) []string {
	switch {
	case f.Root != nil:
		return describeRoot(*f.Root, root)
	case f.Timestamp != nil:
		return describeTimestamp(*f.Timestamp)
	case f.Revocations != nil:
		return describeRevocations(*f.Revocations)
	case f.Grant != nil:
		return describeGrant(*f.Grant)
	case f.Checked != nil:
		return describeRelease(f.Checked)
	}
	return nil
}

func describeRelease(r *trust.Release) []string {
	h := r.Header
	out := []string{
		fmt.Sprintf("release %d of line %s of fleet %s, for %d machines", h.Sequence, h.Line, h.FleetID, len(r.Entries)),
		"digest " + string(r.Digest),
		fmt.Sprintf("from %s, revision %s", h.Source.Flake, view.Revision(h.Source)),
		fmt.Sprintf("made %s, accepted until %s", view.Date(h.CreatedAt), view.Date(h.Expires)),
	}
	if h.Name != "" {
		out = append(out, "name "+h.Name)
	}
	if h.PreviousDigest != "" {
		out = append(out, "follows release "+string(h.PreviousDigest))
	}
	if h.Source.Dirty {
		out = append(out, "warning: the source had changes that no revision names")
	}
	if h.AuditHead != nil {
		out = append(out, fmt.Sprintf("the audit trail had %d entries, head %s", h.AuditHead.Size, h.AuditHead.Head.Short()))
	}
	for _, c := range h.Caches {
		out = append(out, fmt.Sprintf("fetched from %s, by the keys %s", c.URL, strings.Join(c.PublicKeys, " ")))
	}
	for i, e := range r.Entries {
		if i == maxShown {
			out = append(out, fmt.Sprintf("  and %d more machines", len(r.Entries)-i))
			break
		}
		line := fmt.Sprintf("  %s gets %s", e.ID, e.StorePath)
		if e.NextLine != "" {
			line += ", and moves to line " + string(e.NextLine)
		}
		if e.Detach {
			line += ", and has no agent then"
		}
		out = append(out, line)
	}
	return append(out, "the file's entries make the tree that the header names")
}

func describeTimestamp(t fleet.Timestamp) []string {
	out := []string{fmt.Sprintf("timestamp version %d of fleet %s, valid until %s: nothing newer is withheld", t.Version, t.FleetID, view.Date(t.Expires))}
	if t.Revocations != "" {
		out = append(out, "revocation list "+string(t.Revocations))
	}
	for _, l := range slices.Sorted(maps.Keys(t.Lines)) {
		out = append(out, fmt.Sprintf("the newest release of line %s has sequence %d", l, t.Lines[l]))
	}
	return out
}

func describeRevocations(r fleet.Revocations) []string {
	out := []string{fmt.Sprintf("revocation list version %d of fleet %s, signed %s", r.Version, r.FleetID, view.Date(r.SignedAt))}
	for i, d := range r.Releases {
		if i == maxShown {
			out = append(out, fmt.Sprintf("and %d more releases", len(r.Releases)-i))
			break
		}
		out = append(out, "no machine accepts release "+string(d))
	}
	for _, l := range slices.Sorted(maps.Keys(r.MinSequence)) {
		out = append(out, fmt.Sprintf("no machine accepts a release of line %s below sequence %d", l, r.MinSequence[l]))
	}
	for i, c := range r.Certificates {
		if i == maxShown {
			out = append(out, fmt.Sprintf("and %d more certificates", len(r.Certificates)-i))
			break
		}
		out = append(out, "the control plane refuses the certificate with serial number "+c)
	}
	return out
}

func describeGrant(g fleet.Grant) []string {
	what := "although it is below their floor"
	if g.Kind == fleet.GrantStale {
		what = "although it or the timestamp has expired"
	}
	machines := make([]string, len(g.Machines))
	for i, m := range g.Machines {
		machines[i] = string(m)
	}
	if n := len(machines); n > maxShown {
		machines = append(machines[:maxShown], fmt.Sprintf("and %d more", n-maxShown))
	}
	return []string{
		fmt.Sprintf("grant %s of fleet %s, valid until %s", g.Kind, g.FleetID, view.Date(g.Expires)),
		fmt.Sprintf("these machines may accept release %s %s: %s", g.Digest, what, strings.Join(machines, ", ")),
	}
}

// roles are those of a root document, in the order in which they are shown.
var roles = [...]fleet.TrustRole{
	fleet.TrustRoleRoot, fleet.TrustRoleRelease, fleet.TrustRoleTimestamp, fleet.TrustRoleRevoker, fleet.TrustRoleOperator,
}

func describeRoot(r fleet.Root, before *fleet.Root) []string {
	out := []string{fmt.Sprintf("root document version %d of fleet %s, valid until %s", r.Version, r.FleetID, view.Date(r.Expires))}
	if before == nil || before.Version+1 != r.Version {
		for _, role := range roles {
			if q, ok := r.Roles[role]; ok {
				out = append(out, fmt.Sprintf("role %s: %d of %s", role, q.Threshold, names(q.Keys, r)))
			}
		}
		return out
	}
	if before.Expires != r.Expires {
		out = append(out, "was valid until "+view.Date(before.Expires))
	}
	for _, role := range roles {
		out = append(out, describeRole(role, *before, r)...)
	}
	return out
}

// describeRole says how a role changes.
func describeRole(role fleet.TrustRole, before, after fleet.Root) []string {
	had, has := before.Roles[role], after.Roles[role]
	var out []string
	for _, id := range has.Keys {
		if !holds(before, role, after.Keys[id].Public) {
			out = append(out, fmt.Sprintf("role %s: %s is added", role, names([]string{id}, after)))
		}
	}
	for _, id := range had.Keys {
		if !holds(after, role, before.Keys[id].Public) {
			out = append(out, fmt.Sprintf("role %s: %s is removed", role, names([]string{id}, before)))
		}
	}
	switch {
	case had.Threshold == has.Threshold:
	case has.Threshold == 0:
		out = append(out, fmt.Sprintf("role %s ends", role))
	case had.Threshold == 0:
		out = append(out, fmt.Sprintf("role %s is new and needs %d of %d keys", role, has.Threshold, len(has.Keys)))
	default:
		out = append(out, fmt.Sprintf("role %s needs %d keys, before %d", role, has.Threshold, had.Threshold))
	}
	return out
}

func holds(r fleet.Root, role fleet.TrustRole, public string) bool {
	return slices.ContainsFunc(r.Roles[role].Keys, func(id string) bool { return r.Keys[id].Public == public })
}

// quorumLines say whose signatures a document has and how many it lacks.
func quorumLines(quorums []trust.Quorum, roots ...fleet.Root) []string {
	out := make([]string, len(quorums))
	for i, q := range quorums {
		out[i] = fmt.Sprintf("role %s of root version %d: signed by %s; %d of %d needed", q.Role, q.RootVersion, names(q.Signed, roots...), len(q.Signed), q.Need)
	}
	return out
}
