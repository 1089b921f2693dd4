// SPDX-License-Identifier: MIT

package trust

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/arcanesys/nixfleet/fleet"
)

// Bundle is the part of a release for one machine: the signed header, the
// machine's entry as signed, and the proof that the header covers the entry.
type Bundle struct {
	Envelope []byte `json:"envelope"` // JSON text of the header's DSSE envelope
	Entry    []byte `json:"entry"`    // the entry's bytes, a leaf of the header's tree
	Proof    Proof  `json:"proof"`
}

// MaxBundleBytes bounds the JSON text of a Bundle: two layers of base64 around
// the header, one around the entry, and the proof.
const MaxBundleBytes = (fleet.MaxHeaderBytes/3*4+8<<10)/3*4 + fleet.MaxEntryBytes/3*4 + 8<<10

// ParseBundle reads the JSON text of a bundle. Errors are Refusals.
func ParseBundle(data []byte) (Bundle, error) {
	var b Bundle
	if err := Decode(data, MaxBundleBytes, &b); err != nil {
		return Bundle{}, about("bundle", err)
	}
	return b, nil
}

// Release is a release whose form, signatures and tree have been checked.
type Release struct {
	Envelope []byte // as signed
	Digest   fleet.Digest
	Header   fleet.Header
	Entries  []fleet.Entry // sorted by id
	Raw      [][]byte      // the entries' bytes, in the same order
	Tree     *Tree
}

// Bundle returns the part of the release for a machine; false if it has no entry.
func (r *Release) Bundle(id fleet.MachineID) (Bundle, bool) {
	i, ok := slices.BinarySearchFunc(r.Entries, id, func(e fleet.Entry, id fleet.MachineID) int { return cmp.Compare(e.ID, id) })
	if !ok {
		return Bundle{}, false
	}
	return Bundle{Envelope: r.Envelope, Entry: r.Raw[i], Proof: r.Tree.Prove(i)}, true
}

// NewRelease makes the payload to sign and the entries' bytes, in order of
// machine id. It fills in the header's entries count and root. Errors have the
// code Invalid and name the entry.
func NewRelease(header fleet.Header, entries []fleet.Entry) (payload []byte, raw [][]byte, err error) {
	if len(entries) < 1 || len(entries) > fleet.MaxEntries {
		return nil, nil, fleet.Errorf(fleet.Invalid, "release: %d entries; a release has 1 to %d", len(entries), fleet.MaxEntries)
	}
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b fleet.Entry) int { return cmp.Compare(a.ID, b.ID) })
	raw = make([][]byte, len(sorted))
	for i := range sorted {
		e := sorted[i]
		e.Tags = slices.Compact(slices.Sorted(slices.Values(e.Tags)))
		if err = e.Validate(); err != nil {
			return nil, nil, err
		}
		if i > 0 && sorted[i-1].ID == e.ID {
			return nil, nil, fleet.Errorf(fleet.Invalid, "release: two entries for %s", e.ID)
		}
		if raw[i], err = encode(e, &fleet.Entry{}, fleet.MaxEntryBytes); err != nil {
			return nil, nil, fleet.Errorf(fleet.Invalid, "entry %s: %w", e.ID, err)
		}
	}
	header.Entries = fleet.EntriesRef{Count: len(raw), Root: NewTree(raw).Root()}
	if header.Caches == nil {
		header.Caches = []fleet.Cache{}
	}
	if err = header.Validate(); err != nil {
		return nil, nil, err
	}
	payload, err = encode(header, &fleet.Header{}, fleet.MaxHeaderBytes)
	if err != nil {
		return nil, nil, fleet.Errorf(fleet.Invalid, "release: %w", err)
	}
	return payload, raw, nil
}

// encode returns the JSON text of doc. It decodes it into v first, as a verifier
// will, so that nothing is signed that would be refused later.
func encode(doc, v any, limit int) ([]byte, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if err := Decode(b, limit, v); err != nil {
		return nil, err
	}
	return b, nil
}

// CheckRelease checks a whole release, as the CLI does before it uploads one
// and the control plane before it registers one: the signatures of root's
// release role, fleet, expiry at now (Unix ms), each entry's form, their order,
// and the tree. A nil root is unsigned mode: signatures are not checked.
// Errors are Refusals.
func CheckRelease(envelope []byte, entries [][]byte, root *fleet.Root, now int64) (*Release, error) {
	parsed := make([]fleet.Entry, 0, min(len(entries), fleet.MaxEntries))
	r, err := CheckReleaseEach(envelope, entries, root, now, func(e fleet.Entry) { parsed = append(parsed, e) })
	if err != nil {
		return nil, err
	}
	r.Entries = parsed
	return r, nil
}

// CheckReleaseEach is CheckRelease for a release that may be large: it gives each
// entry, in order, to a function, and keeps none of them. The Release has no
// Entries. What each was given counts only if there is no error.
func CheckReleaseEach(envelope []byte, entries [][]byte, root *fleet.Root, now int64, each func(fleet.Entry)) (*Release, error) {
	h, digest, err := CheckHeader(envelope, root)
	if err != nil {
		return nil, err
	}
	if root != nil && root.Expires <= now {
		return nil, refuse(fleet.ReasonExpired, "root version %d has expired", root.Version)
	}
	if h.Expires <= now {
		return nil, refuse(fleet.ReasonExpired, "the release has expired")
	}
	if len(entries) != h.Entries.Count {
		return nil, refuse(fleet.ReasonProofMismatch, "%d entries, the header signs %d", len(entries), h.Entries.Count)
	}
	r := &Release{Envelope: envelope, Digest: digest, Header: h, Raw: entries}
	before := fleet.MachineID("")
	for i, raw := range entries {
		e, err := parseEntry(raw)
		if err != nil {
			return nil, err
		}
		if i > 0 && before >= e.ID {
			return nil, refuse(fleet.ReasonMalformed, "entry %s: entries must be sorted by id, each once", e.ID)
		}
		before = e.ID
		each(e)
	}
	r.Tree = NewTree(entries)
	if got := r.Tree.Root(); got != h.Entries.Root {
		return nil, refuse(fleet.ReasonProofMismatch, "the entries have the root %s, the header signs %s", got.Short(), h.Entries.Root.Short())
	}
	return r, nil
}

// CheckAgain checks a release that was checked before, when it is read from
// where it was kept: it is the one with this digest, with all of its entries. It may
// have expired. Errors are Refusals.
func CheckAgain(envelope []byte, entries [][]byte, root fleet.Root, digest fleet.Digest) (*Release, error) {
	r, err := CheckRelease(envelope, entries, &root, 0)
	if err == nil && r.Digest != digest {
		return nil, refuse(fleet.ReasonProofMismatch, "it is release %s", r.Digest.Short())
	}
	return r, err
}

// CheckHeader reads a release's envelope and checks it against root, if there
// is one.
func CheckHeader(envelope []byte, root *fleet.Root) (fleet.Header, fleet.Digest, error) {
	e, err := ParseEnvelope(envelope, fleet.TypeRelease)
	if err != nil {
		return fleet.Header{}, "", about("release", err)
	}
	if root != nil {
		if err := verifyRole(e, *root, fleet.TrustRoleRelease); err != nil {
			return fleet.Header{}, "", about("release", err)
		}
	}
	var h fleet.Header
	if err := Decode(e.Payload, fleet.MaxHeaderBytes, &h); err != nil {
		return fleet.Header{}, "", about("release", err)
	}
	if err := h.Validate(); err != nil {
		return fleet.Header{}, "", refuse(fleet.ReasonMalformed, "%v", err)
	}
	if root != nil && h.FleetID != root.FleetID {
		return fleet.Header{}, "", refuse(fleet.ReasonWrongFleet, "a release of fleet %q, this is %q", h.FleetID, root.FleetID)
	}
	return h, e.Digest(), nil
}

func parseEntry(raw []byte) (fleet.Entry, error) {
	var e fleet.Entry
	if err := Decode(raw, fleet.MaxEntryBytes, &e); err != nil {
		return fleet.Entry{}, about("entry", err)
	}
	if e.ID.Valid() && !e.StorePath.Valid() {
		return fleet.Entry{}, refuse(fleet.ReasonBadStorePath, "entry %s: %.250q is not a store path", e.ID, e.StorePath)
	}
	if err := e.Validate(); err != nil {
		return fleet.Entry{}, refuse(fleet.ReasonMalformed, "%v", err)
	}
	return e, nil
}
