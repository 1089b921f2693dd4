// SPDX-License-Identifier: MIT

package seen

import (
	"context"
	"path/filepath"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// heads are the highest releases seen, by line.
type heads map[fleet.Line]trust.Mark

func (p Place) headsFile() string { return filepath.Join(p.dir, "heads-"+p.name) }

func (p Place) heads() (heads, error) {
	h := heads{}
	err := read(p.headsFile(), &h)
	if h == nil {
		h = heads{} // the file says null
	}
	return h, err
}

// Keep remembers a release, if none higher was seen.
func (p Place) Keep(head trust.Mark) error {
	h, err := p.heads()
	if err != nil || head.Sequence <= h[head.Line].Sequence {
		return err
	}
	h[head.Line] = head
	return write(p.headsFile(), h)
}

// check refuses a head of a line that is not the highest seen, or higher. The zero
// Mark is a line without releases.
func (p Place) check(line fleet.Line, head trust.Mark) error {
	h, err := p.heads()
	if err != nil {
		return err
	}
	was, known := h[line]
	if !known || head.Sequence > was.Sequence || head == was {
		return nil
	}
	now := "no release"
	if head.Digest != "" {
		now = "release " + head.Digest.Short()
	}
	return fleet.Errorf(fleet.Refused, "the control plane names %s (sequence %d) as the newest of line %s, and release %s (sequence %d) was seen before",
		now, head.Sequence, line, was.Digest.Short(), was.Sequence).
		WithHint("was that release deleted, or the control plane restored from a backup? if you know why, remove line %q from %s", line, p.headsFile())
}

// Newest returns the newest release of a line: its signed header, and its mark; the
// zero Mark if there is none. The header is verified with root, and refused if the
// control plane has shown a higher one before.
func (p Place) Newest(ctx context.Context, c *api.Client, line fleet.Line, root fleet.Root) ([]byte, trust.Mark, error) {
	page, err := c.Releases(ctx, fleet.ReleaseFilter{Line: line}, fleet.PageRequest{Limit: 1})
	if err != nil {
		return nil, trust.Mark{}, err
	}
	if len(page.Items) == 0 {
		return nil, trust.Mark{}, p.check(line, trust.Mark{})
	}
	r, err := c.Release(ctx, page.Items[0].Digest)
	if err != nil {
		return nil, trust.Mark{}, err
	}
	h, digest, err := trust.CheckHeader(r.Envelope, &root)
	if err != nil {
		return nil, trust.Mark{}, fleet.Errorf(fleet.Refused, "the newest release of line %s: %w", line, err).
			WithHint("is the root document the fleet's newest? nixfleet trust show FILE shows which one it is")
	}
	head := trust.Mark{Line: h.Line, Sequence: h.Sequence, Digest: digest}
	if h.Line != line {
		return nil, head, fleet.Errorf(fleet.Refused, "the control plane names release %s as the newest of line %s, and it is of line %s", digest.Short(), line, h.Line)
	}
	if err := p.check(line, head); err != nil {
		return nil, head, err
	}
	return r.Envelope, head, p.Keep(head)
}

// Heads are the highest releases seen, by line.
func (p Place) Heads() (map[fleet.Line]trust.Mark, error) { return p.heads() }
