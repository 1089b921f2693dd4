// SPDX-License-Identifier: AGPL-3.0-only

package wire

import (
	"io"
	"net/http"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

const (
	// MaxReleaseBody is enough for fleet.MaxEntries of the size that entries have.
	MaxReleaseBody = 256 << 20
	// maxReleasePart bounds what is read for one value: an envelope, or an entry.
	maxReleasePart = 4 * (fleet.MaxHeaderBytes + fleet.MaxEntryBytes)
	// arenaBytes is how much memory entries are given at once.
	arenaBytes = 1 << 20
)

// Release reads a release that an operator hands in, as strictly as other bodies of
// operators are read.
func Release(w http.ResponseWriter, r *http.Request) (api.ReleaseRequest, error) {
	return openBody(w, r, MaxReleaseBody, maxReleasePart).release()
}

func (b *agentBody) release() (in api.ReleaseRequest, err error) {
	if err = b.delim('{'); err != nil {
		return in, err
	}
	seen := map[any]bool{}
	for b.dec.More() {
		b.part.N = maxReleasePart
		field, broken := b.dec.Token()
		switch {
		case broken != nil:
			return in, b.err(broken)
		case seen[field]:
			return in, fleet.Errorf(fleet.Invalid, "request: the field %q is there twice", field)
		case field == "envelope":
			err = b.strict(&in.Envelope)
		case field == "entries":
			in.Entries, err = b.entries()
		default:
			err = fleet.Errorf(fleet.Invalid, "request: unknown field %q", field).WithHint("docs/reference/openapi.json describes every request")
		}
		if err != nil {
			return in, err
		}
		seen[field] = true
	}
	if err = b.delim('}'); err != nil {
		return in, err
	}
	b.part.N = maxReleasePart
	if _, err = b.dec.Token(); err == nil {
		return in, fleet.Errorf(fleet.Invalid, "request: more text after the JSON value")
	}
	if err != io.EOF {
		return in, b.err(err)
	}
	return in, nil
}

// strict reads the next value, which must be of v's type.
func (b *agentBody) strict(v any) error {
	b.part.N = maxReleasePart
	if err := b.dec.Decode(v); err != nil {
		return b.err(err)
	}
	return nil
}

// entries reads a list of entries, one after the other. They share a few large
// pieces of memory.
func (b *agentBody) entries() ([][]byte, error) {
	if err := b.delim('['); err != nil {
		return nil, err
	}
	var out [][]byte
	var arena, entry []byte
	for b.dec.More() {
		if len(out) == fleet.MaxEntries {
			return nil, fleet.Errorf(fleet.TooLarge, "a release has at most %d entries", fleet.MaxEntries)
		}
		if err := b.strict(&entry); err != nil {
			return nil, err
		}
		if len(entry) > fleet.MaxEntryBytes {
			return nil, fleet.Errorf(fleet.TooLarge, "entry %d has %d bytes; at most %d are allowed", len(out), len(entry), fleet.MaxEntryBytes)
		}
		if cap(arena)-len(arena) < len(entry) {
			arena = make([]byte, 0, arenaBytes)
		}
		begin := len(arena)
		arena = append(arena, entry...)
		out = append(out, arena[begin:len(arena):len(arena)])
	}
	return out, b.delim(']')
}
