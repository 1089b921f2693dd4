// SPDX-License-Identifier: MIT

package trust

import (
	"errors"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// Accepted is a release that a machine may fetch and activate. Everything in it
// was signed.
type Accepted struct {
	Digest fleet.Digest `json:"digest"`
	Header fleet.Header `json:"header"`
	Entry  fleet.Entry  `json:"entry"`
	// Line is the machine's line once this release runs: the header's, or the
	// entry's nextLine.
	Line fleet.Line `json:"line"`
	// Granted says that the machine does not know its floor, and that an operator's
	// grant lets it begin with this release.
	Granted bool `json:"granted,omitempty"`
}

// Mark names the release for the floor.
func (a Accepted) Mark() Mark { return Mark{a.Header.Line, a.Header.Sequence, a.Digest} }

// Accept judges an offered release at now (the machine's clock, Unix ms). It
// checks in this order: who signed, for whom, when, what, and whether the
// release is newer than the one before. A release refused for a reason that
// Holds may be accepted later, without a new release.
func Accept(s State, now int64, b Bundle) (Accepted, *Refusal) {
	a, err := accept(s, now, b)
	if err == nil {
		return a, nil
	}
	var r *Refusal
	if !errors.As(err, &r) {
		r = refuse(fleet.ReasonMalformed, "%v", err)
	}
	return Accepted{}, r
}

func accept(s State, now int64, b Bundle) (Accepted, error) {
	if err := s.checkRoot(now); err != nil {
		return Accepted{}, err
	}
	h, digest, err := CheckHeader(b.Envelope, s.Root)
	if err != nil {
		return Accepted{}, err
	}
	if h.Line != s.Line {
		return Accepted{}, refuse(fleet.ReasonWrongLine, "a release of line %s, this machine is on %s", h.Line, s.Line)
	}
	if err = s.checkFresh(now, h, digest); err != nil {
		return Accepted{}, err
	}
	e, err := s.openEntry(h, b)
	if err != nil {
		return Accepted{}, err
	}
	a := Accepted{Digest: digest, Header: h, Entry: e, Line: h.Line}
	if e.NextLine != "" {
		a.Line = e.NextLine
	}
	t := max(s.time(now), h.CreatedAt)
	a.Granted, err = s.checkFloor(a, t)
	return a, err
}

// checkRoot refuses everything unless the pinned root document is still valid, or
// the mode is unsigned and there is none.
func (s State) checkRoot(now int64) error {
	switch {
	case s.Unsigned && s.Root != nil:
		return refuse(fleet.ReasonUnsigned, "a root is pinned: unsigned mode is over")
	case s.Unsigned:
		return nil
	case s.Root == nil:
		return refuse(fleet.ReasonNoRoot, "no root document is pinned")
	case s.Root.Expires <= s.time(now):
		return refuse(fleet.ReasonExpired, "root version %d has expired", s.Root.Version)
	}
	return nil
}

// checkFresh judges a release whose signatures are good by revocations and
// time.
func (s State) checkFresh(now int64, h fleet.Header, digest fleet.Digest) error {
	if s.Revocations != nil && Revoked(*s.Revocations, Mark{h.Line, h.Sequence, digest}) {
		return refuse(fleet.ReasonRevoked, "release %s is revoked", digest.Short())
	}
	t := max(s.time(now), h.CreatedAt)
	if err := ahead("release", t, now); err != nil {
		return err
	}
	stale := s.granted(fleet.GrantStale, digest, t)
	if h.Expires <= t && !stale {
		return refuse(fleet.ReasonExpired, "the release has expired")
	}
	if s.Root == nil {
		return nil
	}
	if _, demanded := s.Root.Roles[fleet.TrustRoleTimestamp]; !demanded {
		return nil
	}
	switch {
	case s.Timestamp == nil && !stale:
		return refuse(fleet.ReasonStaleTimestamp, "the root demands a timestamp and there is none")
	case s.Timestamp == nil:
		return nil
	case s.Timestamp.Expires <= t && !stale:
		return refuse(fleet.ReasonStaleTimestamp, "timestamp version %d has expired", s.Timestamp.Version)
	case s.withheld():
		return refuse(fleet.ReasonWithheld, "the timestamp names the revocations %s, which were not delivered", s.Timestamp.Revocations.Short())
	}
	return nil
}

// withheld reports whether the timestamp knows a revocation list that this
// machine does not. A list signed after the timestamp may be another one.
func (s State) withheld() bool {
	named := s.Timestamp.Revocations
	if named == "" || named == s.RevocationsDigest {
		return false
	}
	return s.Revocations == nil || s.Revocations.SignedAt < s.Timestamp.SignedAt
}

// openEntry verifies that the entry is in the tree that the header signs, and
// that it is for this machine.
func (s State) openEntry(h fleet.Header, b Bundle) (fleet.Entry, error) {
	if len(b.Entry) > fleet.MaxEntryBytes {
		return fleet.Entry{}, refuse(fleet.ReasonTooLarge, "entry: %d bytes, at most %d", len(b.Entry), fleet.MaxEntryBytes)
	}
	if b.Proof.Count != h.Entries.Count {
		return fleet.Entry{}, refuse(fleet.ReasonProofMismatch, "a proof for %d entries, the header signs %d", b.Proof.Count, h.Entries.Count)
	}
	if err := b.Proof.Verify(h.Entries.Root, b.Entry); err != nil {
		return fleet.Entry{}, err
	}
	e, err := parseEntry(b.Entry)
	if err != nil {
		return fleet.Entry{}, err
	}
	if e.ID != s.Machine {
		return fleet.Entry{}, refuse(fleet.ReasonWrongMachine, "the entry of %s, this is %s", e.ID, s.Machine)
	}
	if e.System != s.System {
		return fleet.Entry{}, refuse(fleet.ReasonWrongSystem, "a system for %s, this is %s", e.System, s.System)
	}
	return e, nil
}

// checkFloor refuses what is below the floor. A machine that does not know its floor
// accepts what it runs, which sets none: several releases may have the same system.
// It accepts another release by an operator's grant only.
func (s State) checkFloor(a Accepted, t int64) (byGrant bool, err error) {
	m := a.Mark()
	granted := s.granted(fleet.GrantDowngrade, a.Digest, t)
	if s.Floor == nil {
		if runs := s.Running != "" && a.Entry.StorePath == s.Running; !runs && !granted {
			return false, refuse(fleet.ReasonFloorUnknown, "this machine does not know its floor, and the release is not what it runs")
		}
		return granted, nil
	}
	floor := s.Floor.At(m.Line, t)
	if m.Sequence < floor.Sequence && !granted {
		return false, refuse(fleet.ReasonBelowFloor, "sequence %d, the floor is %d", m.Sequence, floor.Sequence)
	}
	if conflict(m, floor) || s.Floor.Pending != nil && conflict(m, s.Floor.Pending.Mark) {
		return false, refuse(fleet.ReasonConflict, "another release of line %s has the sequence %d", m.Line, m.Sequence)
	}
	if left, ok := s.reverts(m, t); ok && s.Reverted[left] && !granted {
		return false, refuse(fleet.ReasonRevertRepeated, "sequence %d is older than release %s, which was reverted here before", m.Sequence, left.Short())
	}
	return false, nil
}

// conflict reports whether two releases claim the same place. A floor that a person
// or a timestamp has set names no release.
func conflict(a, b Mark) bool {
	return a.Line == b.Line && a.Sequence == b.Sequence && a.Digest != b.Digest && b.Digest != ""
}

// CheckClosure compares what was fetched with what was signed: the archive of
// the system itself, then the digest over its whole closure as Nix's database
// has it. It returns nil if both are those of e.
func CheckClosure(e fleet.Entry, closure []fleet.ClosurePath) *Refusal {
	i := slices.IndexFunc(closure, func(p fleet.ClosurePath) bool { return p.Path == e.StorePath })
	if i < 0 {
		return refuse(fleet.ReasonClosureMismatch, "the closure lacks the system %s", e.StorePath)
	}
	if closure[i].NarHash != e.NarHash {
		return refuse(fleet.ReasonNarHashMismatch, "%s has the hash %.80s, signed is %s", e.StorePath.Base(), closure[i].NarHash, e.NarHash)
	}
	if got := fleet.ClosureDigest(closure); got != e.ClosureDigest {
		return refuse(fleet.ReasonClosureMismatch, "%d paths with the digest %s, signed is %s", len(closure), got.Short(), e.ClosureDigest.Short())
	}
	return nil
}

// Revert judges the control plane's order to revert the release with this
// digest, at now (Unix ms). It is obeyed once per digest for ever, for the
// release that is pending here, within its signed window, and only to a last
// good system that is neither revoked nor below the floor. A rollback by the
// agent itself needs no permission.
func Revert(s State, now int64, digest fleet.Digest) *Refusal {
	if s.Reverted[digest] {
		return refuse(fleet.ReasonRevertRepeated, "release %s was reverted here before", digest.Short())
	}
	t := s.time(now)
	if t-MaxClockSkewMs > now {
		return refuse(fleet.ReasonClockBehind, "this machine's clock is %d s behind", (t-now)/1000)
	}
	if s.Floor == nil || s.Floor.Pending == nil || s.Floor.Pending.Digest != digest {
		return s.notPending(digest)
	}
	if s.Floor.Pending.over(t) {
		return refuse(fleet.ReasonRevertLate, "the revert window of release %s has ended", digest.Short())
	}
	if s.LastGood == nil {
		return refuse(fleet.ReasonNoLastGood, "no earlier release is recorded")
	}
	if s.Revocations != nil && Revoked(*s.Revocations, *s.LastGood) {
		return refuse(fleet.ReasonRevoked, "the last good release %s is revoked", s.LastGood.Digest.Short())
	}
	if floor := s.Floor.At(s.LastGood.Line, t); s.LastGood.Sequence < floor.Sequence {
		return refuse(fleet.ReasonBelowFloor, "the last good release has sequence %d, the floor is %d", s.LastGood.Sequence, floor.Sequence)
	}
	return nil
}

// notPending distinguishes a release whose window has ended from one that this
// machine does not run.
func (s State) notPending(digest fleet.Digest) *Refusal {
	if s.Floor != nil {
		for _, m := range s.Floor.Lines {
			if m.Digest == digest {
				return refuse(fleet.ReasonRevertLate, "the revert window of release %s has ended", digest.Short())
			}
		}
	}
	return refuse(fleet.ReasonRevertUnknown, "release %s is not the one running here", digest.Short())
}
