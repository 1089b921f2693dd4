// SPDX-License-Identifier: MIT

package seen

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// heads are the highest releases seen, by line.
type heads map[fleet.Line]trust.Mark

func (p Place) headsFile() string { return filepath.Join(p.dir, "heads-"+p.name) }

func (p Place) heads() (heads, error) {
	h := heads{}
	if p.dir == "" {
		return h, nil
	}
	err := read(p.headsFile(), &h)
	if h == nil {
		h = heads{} // the file says null
	}
	return h, err
}

// Keep remembers a release, if none higher was seen.
func (p Place) Keep(head trust.Mark) error {
	h, err := p.heads()
	if err != nil || p.dir == "" || head.Sequence <= h[head.Line].Sequence {
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
		WithHint("was the control plane restored from a backup? if you know why, remove line %q from %s", line, p.headsFile())
}

// Newest returns the newest release that a line has had, deleted or not: its signed
// header, and its mark; the zero Mark if there is none. The header is verified with
// root, and refused if the control plane has shown a higher one before.
func (p Place) Newest(ctx context.Context, c *api.Client, line fleet.Line, root fleet.Root) ([]byte, trust.Mark, error) {
	shown, head, err := newest(ctx, c, line)
	if err != nil {
		return nil, head, err
	}
	if err := verify(line, shown, root); err != nil {
		return nil, head, err
	}
	if err := p.check(line, head); err != nil {
		return nil, head, err
	}
	return shown, head, p.Keep(head)
}

// newest returns the signed header that the control plane shows as the newest of a
// line, and what that says; nothing if there is none. It is not verified.
func newest(ctx context.Context, c *api.Client, line fleet.Line) ([]byte, trust.Mark, error) {
	shown, err := c.Line(ctx, line)
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil, trust.Mark{}, nil
	}
	if err != nil {
		return nil, trust.Mark{}, err
	}
	h, digest, err := trust.CheckHeader(shown.Envelope, nil)
	if err != nil {
		return nil, trust.Mark{}, fleet.Errorf(fleet.Refused, "the newest release of line %s: %w", line, err)
	}
	head := trust.Mark{Line: h.Line, Sequence: h.Sequence, Digest: digest}
	if h.Line != line {
		return nil, head, fleet.Errorf(fleet.Refused, "the control plane names release %s as the newest of line %s, and it is of line %s", digest.Short(), line, h.Line)
	}
	return shown.Envelope, head, nil
}

// verify checks the signatures of a header, if there is one.
func verify(line fleet.Line, envelope []byte, root fleet.Root) error {
	if envelope == nil {
		return nil
	}
	if _, _, err := trust.CheckHeader(envelope, &root); err != nil {
		return fleet.Errorf(fleet.Refused, "the newest release of line %s: %w", line, err).
			WithHint("is the root document the fleet's newest? nixfleet trust show FILE shows which one it is")
	}
	return nil
}

// Next returns the place of the next release of a line: its sequence and its
// previousDigest. It follows the newest that the line has had, which root verifies
// or this user has seen verified before; never a number that was not signed. Where
// that cannot be, after a restored backup or new release keys, a person names the
// release to follow, after.
func (p Place) Next(ctx context.Context, c *api.Client, line fleet.Line, root fleet.Root, after string) (fleet.Sequence, fleet.Digest, error) {
	shown, head, err := newest(ctx, c, line)
	if err != nil {
		return 0, "", err
	}
	heads, err := p.heads()
	if err != nil {
		return 0, "", err
	}
	was := heads[line]
	named := head
	if head.Digest == "" {
		named = was // the control plane has lost it
	}
	if after != "" && !begins(named.Digest, after) {
		return 0, "", fleet.Errorf(fleet.Refused, "the newest release of line %s is %s, not %s", line, cmp.Or(named.Digest.Short(), "none"), after)
	}
	if after == "" {
		err := verify(line, shown, root)
		if head == was {
			err = nil // by a root document of then
		}
		if err == nil {
			err = p.check(line, head)
		}
		if err != nil {
			return 0, "", fleet.Errorf(fleet.Refused, "%w", err).
				WithHint("was the control plane restored from a backup, or were release keys replaced? If release %s is the one to follow, give --after %s", named.Digest.Short(), named.Digest.Short())
		}
		if err := p.Keep(head); err != nil {
			return 0, "", err
		}
	}
	return max(head.Sequence, was.Sequence) + 1, named.Digest, nil
}

// begins reports whether a digest is the one that a person wrote, at least four
// digits of it.
func begins(d fleet.Digest, written string) bool {
	written = strings.TrimPrefix(written, "sha256:")
	return len(written) >= 4 && strings.HasPrefix(strings.TrimPrefix(string(d), "sha256:"), written)
}

// Heads are the highest releases seen, by line.
func (p Place) Heads() (map[fleet.Line]trust.Mark, error) { return p.heads() }
