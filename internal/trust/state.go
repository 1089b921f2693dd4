// SPDX-License-Identifier: MIT

package trust

import (
	"cmp"
	"maps"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// MaxClockSkewMs is how far a machine's clock may be behind a signed time.
const MaxClockSkewMs = 5 * 60 * 1000

// MaxGrants bounds how many grants a machine keeps; the newest stay.
const MaxGrants = 64

// State is all that a machine judges a release by. The first fields come from its
// running system; the others it has verified before and keeps on disk. Methods
// return a changed copy.
type State struct {
	Machine  fleet.MachineID `json:"machine"`
	System   fleet.System    `json:"system"`
	Line     fleet.Line      `json:"line"`
	Running  fleet.StorePath `json:"running,omitempty"`  // the running system
	Unsigned bool            `json:"unsigned,omitempty"` // signatures are not checked; loopback only

	Root              *fleet.Root        `json:"root,omitempty"`
	Timestamp         *fleet.Timestamp   `json:"timestamp,omitempty"`
	Revocations       *fleet.Revocations `json:"revocations,omitempty"`
	RevocationsDigest fleet.Digest       `json:"revocationsDigest,omitempty"` // of the payload
	Grants            []fleet.Grant      `json:"grants,omitempty"`            // for this machine
	HighestSignedTime int64              `json:"highestSignedTime,omitempty"` // Unix ms, of all that was accepted

	Floor    *Floor                `json:"floor,omitempty"`    // nil: state was lost
	LastGood *Mark                 `json:"lastGood,omitempty"` // where a revert leads
	Reverted map[fleet.Digest]bool `json:"reverted,omitempty"` // by an order, each once for ever
}

// Documents are envelopes that the control plane offers besides releases. Each
// may be missing.
type Documents struct {
	Roots       [][]byte // the versions after the trusted one, in order
	Timestamp   []byte
	Revocations []byte
	Grants      [][]byte
}

// Learn adds the documents that are valid at now (Unix ms), and returns a
// Refusal for each of the others; one invalid document does not hold up the
// rest. A document signed in the future is refused as clock-behind and its time
// is not remembered, so that a signer's wrong clock cannot stop a fleet.
func (s State) Learn(now int64, d Documents) (State, []error) {
	var errs []error
	if s.Root == nil {
		return s, append(errs, refuse(fleet.ReasonNoRoot, "no root to judge documents by"))
	}
	root, err := AdvanceRoot(*s.Root, s.time(now), d.Roots...)
	if err != nil {
		errs = append(errs, err)
	} else {
		s = s.withRoot(root)
	}
	if d.Revocations != nil {
		if s, err = s.learnRevocations(now, d.Revocations); err != nil {
			errs = append(errs, err)
		}
	}
	if d.Timestamp != nil {
		if s, err = s.learnTimestamp(now, d.Timestamp); err != nil {
			errs = append(errs, err)
		}
	}
	for _, g := range d.Grants {
		if s, err = s.learnGrant(now, g); err != nil {
			errs = append(errs, err)
		}
	}
	return s, errs
}

// withRoot changes the root. What a role signed before its keys changed must
// not block what the new keys sign; otherwise a stolen key could sign a version
// higher than any that follows. Revocations stay in force until the new keys
// replace them.
func (s State) withRoot(root fleet.Root) State {
	old := *s.Root
	s.Root = &root
	if !SameRole(old, root, fleet.TrustRoleTimestamp) {
		s.Timestamp = nil
	}
	if !SameRole(old, root, fleet.TrustRoleRevoker) && s.Revocations != nil {
		kept := *s.Revocations
		kept.Version, kept.SignedAt = 0, 0
		s.Revocations, s.RevocationsDigest = &kept, ""
	}
	if !SameRole(old, root, fleet.TrustRoleOperator) {
		s.Grants = nil
	}
	return s
}

func (s State) learnRevocations(now int64, envelope []byte) (State, error) {
	r, digest, err := ParseRevocations(envelope, *s.Root)
	if err != nil {
		return s, err
	}
	if seen := s.Revocations; seen != nil && (r.Version < seen.Version || r.Version == seen.Version && digest != s.RevocationsDigest) {
		return s, refuse(fleet.ReasonOlderDocument, "revocations version %d, seen %d", r.Version, seen.Version)
	}
	if err := ahead("revocations", r.SignedAt, now); err != nil {
		return s, err
	}
	s.Revocations, s.RevocationsDigest = &r, digest
	s.HighestSignedTime = max(s.HighestSignedTime, r.SignedAt)
	return s, nil
}

func (s State) learnTimestamp(now int64, envelope []byte) (State, error) {
	t, err := ParseTimestamp(envelope, *s.Root)
	if err != nil {
		return s, err
	}
	if seen := s.Timestamp; seen != nil && (t.Version < seen.Version || t.Version == seen.Version && !sameTimestamp(t, *seen)) {
		return s, refuse(fleet.ReasonOlderDocument, "timestamp version %d, seen %d", t.Version, seen.Version)
	}
	if err := ahead("timestamp", t.SignedAt, now); err != nil {
		return s, err
	}
	s.Timestamp = &t
	s.HighestSignedTime = max(s.HighestSignedTime, t.SignedAt)
	return s, nil
}

func sameTimestamp(a, b fleet.Timestamp) bool {
	return a.SignedAt == b.SignedAt && a.Expires == b.Expires && a.Revocations == b.Revocations && maps.Equal(a.Lines, b.Lines)
}

func (s State) learnGrant(now int64, envelope []byte) (State, error) {
	g, err := ParseGrant(envelope, *s.Root)
	if err != nil {
		return s, err
	}
	if !slices.Contains(g.Machines, s.Machine) {
		return s, refuse(fleet.ReasonWrongMachine, "grant: not for %s", s.Machine)
	}
	if err := ahead("grant", g.SignedAt, now); err != nil {
		return s, err
	}
	if g.Expires <= s.time(now) {
		return s, refuse(fleet.ReasonExpired, "grant: has expired")
	}
	s.HighestSignedTime = max(s.HighestSignedTime, g.SignedAt)
	g.Machines = []fleet.MachineID{s.Machine} // there may be many others
	kept := []fleet.Grant{g}
	for _, k := range s.Grants {
		same := k.Kind == g.Kind && k.Digest == g.Digest && k.SignedAt == g.SignedAt
		if !same && k.Expires > s.time(now) {
			kept = append(kept, k)
		}
	}
	slices.SortStableFunc(kept, func(a, b fleet.Grant) int { return cmp.Compare(b.SignedAt, a.SignedAt) })
	s.Grants = kept[:min(len(kept), MaxGrants)]
	return s, nil
}

// time is the later of the machine's clock and the highest signed time.
func (s State) time(now int64) int64 { return max(now, s.HighestSignedTime) }

// ahead refuses what was signed later than the clock says, beyond its skew.
func ahead(what string, signedAt, now int64) error {
	if signedAt-MaxClockSkewMs > now {
		return refuse(fleet.ReasonClockBehind, "%s: signed %d s after this machine's clock", what, (signedAt-now)/1000)
	}
	return nil
}

// granted reports whether there is a grant of a kind for a digest that is good
// at t.
func (s State) granted(kind fleet.GrantKind, d fleet.Digest, t int64) bool {
	return slices.ContainsFunc(s.Grants, func(g fleet.Grant) bool {
		return g.Kind == kind && g.Digest == d && slices.Contains(g.Machines, s.Machine) && t < g.Expires
	})
}

// TimestampFloor is the floor of a machine that has lost its own: the sequences that
// a timestamp names which has not expired at now (Unix ms). It returns false if the
// machine has a floor, or no such timestamp that names its line.
func (s State) TimestampFloor(now int64) (Floor, bool) {
	if s.Floor != nil || s.Timestamp == nil || s.Timestamp.Expires <= s.time(now) || ahead("timestamp", s.time(now), now) != nil {
		return Floor{}, false
	}
	if _, named := s.Timestamp.Lines[s.Line]; !named {
		return Floor{}, false
	}
	f := Floor{Lines: map[fleet.Line]Mark{}}
	for l, n := range s.Timestamp.Lines {
		f.Lines[l] = Mark{Line: l, Sequence: n}
	}
	return f, true
}

// Record says that a is about to be activated at now (Unix ms): the floor is
// updated, and the time at which its header was signed is remembered. A machine that
// does not know its floor, and has no grant, does not learn it from a release.
func (s State) Record(a Accepted, now int64) State {
	s.HighestSignedTime = max(s.HighestSignedTime, a.Header.CreatedAt)
	if s.Floor == nil && !a.Granted {
		return s
	}
	if s.Floor == nil {
		s.Floor = &Floor{Lines: map[fleet.Line]Mark{}}
	}
	if left, ok := s.reverts(a.Mark(), s.time(now)); ok {
		s.Reverted = cloneOrMake(s.Reverted)
		s.Reverted[left] = true
	}
	f := s.Floor.Begin(a.Mark(), a.Header.Policy.RevertWindowMs, s.time(now))
	s.Floor = &f
	return s
}

// reverts returns the release that applying m would leave for an older one at t
// (Unix ms), if it would. That is a revert, whoever calls it an apply.
func (s State) reverts(m Mark, t int64) (fleet.Digest, bool) {
	p := s.Floor.Raise(t).Pending
	if p == nil || p.ActivatedAt == 0 || p.Line != m.Line || p.Sequence <= m.Sequence {
		return "", false
	}
	return p.Digest, true
}

// Activated says that the machine has switched to the release that Record
// named, at now (Unix ms): its revert window begins.
func (s State) Activated(now int64) State {
	if s.Floor == nil {
		return s
	}
	f := s.Floor.Activated(s.time(now))
	s.Floor = &f
	return s
}

// Became says that m is the current release at now (Unix ms): its revert window
// began when it first was.
func (s State) Became(m Mark, now int64) State {
	if s.Floor == nil {
		return s
	}
	f := s.Floor.Became(m, s.time(now))
	s.Floor = &f
	return s
}

// RaiseFloor moves the floor up if a revert window has ended at now (Unix ms). A
// machine keeps the result on disk, so that a clock that is set back does not
// open the window again.
func (s State) RaiseFloor(now int64) State {
	if s.Floor == nil {
		return s
	}
	f := s.Floor.Raise(s.time(now))
	s.Floor = &f
	return s
}

// Left says that an order to revert the release had the machine leave it for the
// last good one at now (Unix ms): the floor does not move up to it, and it is not
// reverted again.
func (s State) Left(d fleet.Digest, now int64) State {
	s.Reverted = cloneOrMake(s.Reverted)
	s.Reverted[d] = true
	if s.Floor != nil && s.Floor.Pending != nil && s.Floor.Pending.Digest == d {
		f := s.Floor.RolledBack(s.time(now))
		s.Floor = &f
	}
	return s
}

func cloneOrMake[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}
