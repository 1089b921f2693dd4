// SPDX-License-Identifier: MIT

// Package undo finds what machines ran before a rollout, as release signers signed
// it, to be signed again.
//
// It never signs, and believes no control plane about a system.
package undo

import (
	"context"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// SignedRelease returns a registered release as its signers signed it. Its systems
// are about to be signed again, and no control plane may choose them (E01): entries
// are those of the signed tree, and an expired release counts, for it was good once.
func SignedRelease(ctx context.Context, c *api.Client, digest fleet.Digest, root fleet.Root) (*trust.Release, error) {
	d, err := c.Release(ctx, digest)
	if err != nil {
		return nil, err
	}
	h, _, err := trust.CheckHeader(d.Envelope, &root)
	if err != nil {
		return nil, fleet.Errorf(fleet.Refused, "release %s is not signed again: %w", digest.Short(), err).
			WithHint("give --root with the fleet's root document, if another of its signers made that release; else build its systems anew")
	}
	if len(d.Entries) < h.Entries.Count {
		return nil, fleet.Errorf(fleet.Refused, "release %s is not signed again: the control plane shows %d of its %d entries", digest.Short(), len(d.Entries), h.Entries.Count).
			WithHint("a key that is limited to tags sees its own machines only: use a key for the whole fleet")
	}
	root.Expires = max(root.Expires, h.CreatedAt+1) // its end is judged where the new release is
	r, err := trust.CheckRelease(d.Envelope, d.Entries, &root, h.CreatedAt)
	if err == nil && r.Digest != digest {
		err = fleet.Errorf(fleet.Refused, "the control plane gave release %s instead", r.Digest.Short())
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Refused, "release %s is not signed again: %w", digest.Short(), err)
	}
	return r, nil
}
