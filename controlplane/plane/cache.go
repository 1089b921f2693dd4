// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"encoding/json"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// cachedReleases is how many releases are kept with their trees. A fleet moves
// between two or three at a time.
const cachedReleases = 8

// releaseCache keeps the releases that were used last, with their trees.
type releaseCache struct {
	store    *store.Store
	releases *lru.Cache[fleet.Digest, *trust.Release]
}

func newReleaseCache(s *store.Store) (*releaseCache, error) {
	c, err := lru.New[fleet.Digest, *trust.Release](cachedReleases)
	return &releaseCache{store: s, releases: c}, err
}

// release returns a registered release. It was checked when it came; agents
// check it again.
func (c *releaseCache) release(ctx context.Context, digest fleet.Digest) (*trust.Release, error) {
	if r, ok := c.releases.Get(digest); ok {
		return r, nil
	}
	r := &trust.Release{Digest: digest}
	err := c.store.Read(ctx, func(s store.Reader) error {
		v, err := s.Release(ctx, digest)
		if err != nil {
			return err
		}
		r.Header = v.Header
		if r.Envelope, err = s.ReleaseEnvelope(ctx, digest); err != nil {
			return err
		}
		r.Raw, err = s.ReleaseEntries(ctx, digest)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.Entries = make([]fleet.Entry, len(r.Raw))
	for i, raw := range r.Raw {
		if err := json.Unmarshal(raw, &r.Entries[i]); err != nil {
			return nil, fmt.Errorf("read entry %d of release %s: %w", i, digest.Short(), err)
		}
	}
	r.Tree = trust.NewTree(r.Raw)
	c.put(r)
	return r, nil
}

func (c *releaseCache) put(r *trust.Release) { c.releases.Add(r.Digest, r) }

func (c *releaseCache) drop(digest fleet.Digest) { c.releases.Remove(digest) }
