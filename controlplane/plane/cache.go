// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

const (
	// cachedReleases is how many releases are kept with their trees. A fleet moves
	// between two or three at a time.
	cachedReleases = 8
	// cachedEntries is how many entries are kept, of all those releases: each takes
	// two KiB. A release with more is read again when all of its entries are asked for.
	cachedEntries = 25_000
)

// releaseCache keeps the releases that were used last, with their trees, and with
// their entries as far as there is room.
type releaseCache struct {
	store *store.Store
	trees *lru.Cache[fleet.Digest, *trust.Release] // without entries

	mu     sync.Mutex
	wholes []*trust.Release // the one that was used last is the last
}

func newReleaseCache(s *store.Store) (*releaseCache, error) {
	c, err := lru.New[fleet.Digest, *trust.Release](cachedReleases)
	return &releaseCache{store: s, trees: c}, err
}

// release returns a registered release, whole. It was checked when it came; agents
// check it again.
func (c *releaseCache) release(ctx context.Context, digest fleet.Digest) (*trust.Release, error) {
	if r := c.whole(digest); r != nil {
		return r, nil
	}
	r, err := c.read(ctx, digest)
	if err == nil {
		c.put(r)
	}
	return r, err
}

// entries returns the entries of a release. It takes the place of no other one.
func (c *releaseCache) entries(ctx context.Context, digest fleet.Digest) ([]fleet.Entry, error) {
	if r := c.whole(digest); r != nil {
		return r.Entries, nil
	}
	r, err := c.read(ctx, digest)
	return r.Entries, err
}

// read reads a release whole.
func (c *releaseCache) read(ctx context.Context, digest fleet.Digest) (*trust.Release, error) {
	r := &trust.Release{Digest: digest}
	err := c.store.Read(ctx, func(s store.Reader) (err error) {
		if err = readHead(ctx, s, r); err != nil {
			return err
		}
		r.Raw, err = s.ReleaseEntries(ctx, digest)
		return err
	})
	if err != nil {
		return r, err
	}
	r.Entries = make([]fleet.Entry, len(r.Raw))
	for i, raw := range r.Raw {
		if err := json.Unmarshal(raw, &r.Entries[i]); err != nil {
			return r, fmt.Errorf("read entry %d of release %s: %w", i, digest.Short(), err)
		}
	}
	if t, ok := c.trees.Get(digest); ok {
		r.Tree = t.Tree
	} else {
		r.Tree = trust.NewTree(r.Raw)
	}
	return r, nil
}

// readHead reads what a release has beside its entries.
func readHead(ctx context.Context, s store.Reader, r *trust.Release) error {
	v, err := s.Release(ctx, r.Digest)
	if err != nil {
		return err
	}
	r.Header = v.Header
	r.Envelope, err = s.ReleaseEnvelope(ctx, r.Digest)
	return err
}

// bundle returns what a machine gets of a release. It reads the machine's entry
// alone, if the release is not there whole.
func (c *releaseCache) bundle(ctx context.Context, digest fleet.Digest, id fleet.MachineID) (trust.Bundle, error) {
	if r := c.whole(digest); r != nil {
		if b, ok := r.Bundle(id); ok {
			return b, nil
		}
		return trust.Bundle{}, noSystem(digest, id)
	}
	r, err := c.tree(ctx, digest)
	if err != nil {
		return trust.Bundle{}, err
	}
	at, entry, ok, err := c.store.RawReleaseEntry(ctx, digest, id)
	if err != nil {
		return trust.Bundle{}, err
	}
	if !ok || at >= r.Tree.Len() {
		return trust.Bundle{}, noSystem(digest, id)
	}
	return trust.Bundle{Envelope: r.Envelope, Entry: entry, Proof: r.Tree.Prove(at)}, nil
}

func noSystem(digest fleet.Digest, id fleet.MachineID) error {
	return fleet.Errorf(fleet.NotFound, "release %s has no system for %s", digest.Short(), id)
}

// tree returns a release without its entries.
func (c *releaseCache) tree(ctx context.Context, digest fleet.Digest) (*trust.Release, error) {
	if r, ok := c.trees.Get(digest); ok {
		return r, nil
	}
	r := &trust.Release{Digest: digest}
	err := c.store.Read(ctx, func(s store.Reader) error {
		if err := readHead(ctx, s, r); err != nil {
			return err
		}
		var failed error
		r.Tree = trust.TreeOf(r.Header.Entries.Count, func(leaf func([]byte) bool) {
			failed = s.EachReleaseEntry(ctx, digest, func(body []byte) { leaf(body) })
		})
		return failed
	})
	if err != nil {
		return nil, err
	}
	c.trees.Add(digest, r)
	return r, nil
}

// whole returns a release that is there with its entries, or nil.
func (c *releaseCache) whole(digest fleet.Digest) *trust.Release {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.wholes, func(r *trust.Release) bool { return r.Digest == digest })
	if i < 0 {
		return nil
	}
	r := c.wholes[i]
	c.wholes = append(slices.Delete(c.wholes, i, i+1), r)
	return r
}

// put keeps a release: its entries only if there are not too many.
func (c *releaseCache) put(r *trust.Release) {
	c.trees.Add(r.Digest, &trust.Release{Envelope: r.Envelope, Digest: r.Digest, Header: r.Header, Tree: r.Tree})
	if len(r.Entries) == 0 || len(r.Entries) > cachedEntries {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wholes = append(c.without(r.Digest), r)
	sum := 0
	for i, w := range slices.Backward(c.wholes) {
		if sum += len(w.Entries); sum > cachedEntries || len(c.wholes)-i > cachedReleases {
			c.wholes = slices.Delete(c.wholes, 0, i+1)
			return
		}
	}
}

func (c *releaseCache) without(digest fleet.Digest) []*trust.Release {
	return slices.DeleteFunc(c.wholes, func(r *trust.Release) bool { return r.Digest == digest })
}

func (c *releaseCache) drop(digest fleet.Digest) {
	c.trees.Remove(digest)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wholes = c.without(digest)
}
