// SPDX-License-Identifier: AGPL-3.0-only

// Package documents keeps the fleet's trust documents, root, revocations,
// timestamp and grants, and hands them to agents. What comes in is checked against the
// pinned root, and is newer than what is there.
//
// It never signs, and agents check everything again.
package documents

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Current is what releases are checked against now, and the digests of the
// current documents.
type Current struct {
	Root        *fleet.Root // nil before one is pinned
	Revocations *fleet.Revocations
	Timestamp   *fleet.Timestamp
	Digests     fleet.DocumentDigests

	// InForce is the newest revocation list, also one by keys that have lost the
	// role since: what it revokes stays so until the new keys have signed a list.
	InForce *fleet.Revocations
}

// Keeper keeps the trust documents.
type Keeper struct {
	loop *loop.Loop

	mu      sync.RWMutex
	current Current
	serials map[string]bool // of the certificates that the list in force revokes
	grants  grants
}

// Open reads the current documents.
func Open(ctx context.Context, l *loop.Loop) (*Keeper, error) {
	k := &Keeper{loop: l}
	return k, k.load(ctx)
}

// Current returns what releases are checked against now.
func (k *Keeper) Current() Current {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current
}

// Revoked reports whether the revocations list a certificate, by its serial
// number.
func (k *Keeper) Revoked(serial string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.serials[serial]
}

// load reads the current documents. One that the root's keys no longer vouch
// for is not handed on. One that the keys of its time do not vouch for is damaged:
// an error, never none.
func (k *Keeper) load(ctx context.Context) error {
	var c Current
	var g grants
	err := k.loop.Store.Read(ctx, func(r store.Reader) error {
		root, ok, err := r.CurrentDocument(ctx, store.Root)
		if err != nil || !ok {
			return err
		}
		pinned, err := trust.PinRoot(root.Envelope)
		if err != nil {
			return fmt.Errorf("read root version %d: %w", root.Version, err)
		}
		c.Root, c.Digests.Root = &pinned, root.Digest
		d, ok, err := r.CurrentDocument(ctx, store.Revocations)
		if err != nil {
			return err
		}
		if ok {
			if c.InForce, err = inForce(ctx, r, d); err != nil {
				return fmt.Errorf("read revocations version %d: %w", d.Version, err)
			}
			if v, digest, unfit := trust.ParseRevocations(d.Envelope, pinned); unfit == nil {
				c.Revocations, c.Digests.Revocations = &v, digest
			}
		}
		if d, ok, err = r.CurrentDocument(ctx, store.Timestamp); err != nil {
			return err
		}
		if v, unfit := trust.ParseTimestamp(d.Envelope, pinned); ok && unfit == nil {
			c.Timestamp, c.Digests.Timestamp = &v, d.Digest
		}
		g, err = readGrants(ctx, r, pinned, k.loop.Clock.UnixMilli())
		return err
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.grants = c, g
	if c.InForce != nil {
		k.serials = map[string]bool{}
		for _, s := range c.InForce.Certificates {
			k.serials[s] = true
		}
	}
	return nil
}

// inForce reads a revocation list by the root document that it was taken under.
func inForce(ctx context.Context, r store.Reader, d store.Document) (*fleet.Revocations, error) {
	of, ok, err := r.RootVersion(ctx, d.RootVersion)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fleet.Errorf(fleet.Invalid, "there is no root version %d", d.RootVersion).WithHint("put a backup of the database in its place")
	}
	root, err := trust.PinRoot(of.Envelope)
	if err != nil {
		return nil, err
	}
	v, _, err := trust.ParseRevocations(d.Envelope, root)
	return &v, err
}

// Revocations returns the newest revocation list, also one by keys that have lost the
// role since: what it revokes is to be signed anew. The error's code is NotFound if
// there is none.
func (k *Keeper) Revocations(ctx context.Context) (api.Document, error) {
	return k.newest(ctx, store.Revocations)
}

// Timestamp returns the newest timestamp. The error's code is NotFound if there is
// none that the root document's keys have signed.
func (k *Keeper) Timestamp(ctx context.Context) (api.Document, error) {
	if k.Current().Timestamp == nil {
		return api.Document{}, fleet.Errorf(fleet.NotFound, "there is no timestamp by the root document's keys")
	}
	return k.newest(ctx, store.Timestamp)
}

func (k *Keeper) newest(ctx context.Context, kind store.DocumentKind) (api.Document, error) {
	d, ok, err := k.loop.Store.CurrentDocument(ctx, kind)
	if err == nil && !ok {
		err = fleet.Errorf(fleet.NotFound, "there is no document %s", kind)
	}
	return api.Document{Envelope: d.Envelope}, err
}

// Root returns the pinned root document. The error's code is NotFound before
// one is pinned.
func (k *Keeper) Root(ctx context.Context) (api.Document, error) {
	d, ok, err := k.loop.Store.CurrentDocument(ctx, store.Root)
	if err != nil {
		return api.Document{}, err
	}
	if !ok {
		return api.Document{}, fleet.Errorf(fleet.NotFound, "no root is pinned").WithHint("nixfleet trust init makes one and pins it")
	}
	return api.Document{Envelope: d.Envelope}, nil
}

// RootVersion returns one version of the root document, so that an agent with
// an old one can follow the chain.
func (k *Keeper) RootVersion(ctx context.Context, version uint64) ([]byte, error) {
	d, ok, err := k.loop.Store.RootVersion(ctx, version)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fleet.Errorf(fleet.NotFound, "there is no root version %d", version)
	}
	return d.Envelope, nil
}

// ByDigest returns the envelope of a trust document whose payload has the
// digest.
func (k *Keeper) ByDigest(ctx context.Context, digest fleet.Digest) ([]byte, error) {
	if b := k.grant(digest); b != nil {
		return b, nil
	}
	d, ok, err := k.loop.Store.DocumentByDigest(ctx, digest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fleet.Errorf(fleet.NotFound, "there is no document %.100q", digest)
	}
	return d.Envelope, nil
}

// PutRoot pins the first root, or follows the chain to its successor. The
// pinned one again changes nothing.
func (k *Keeper) PutRoot(ctx context.Context, c access.Caller, in api.Document) (api.Document, error) {
	return in, k.put(ctx, c, store.Root, in.Envelope, func(have Current, now int64) (uint64, uint64, error) {
		if have.Root == nil {
			root, err := trust.PinRoot(in.Envelope)
			if err == nil && root.Expires <= now {
				err = fleet.Errorf(fleet.Refused, "root version %d has expired", root.Version)
			}
			return root.Version, root.Version, err
		}
		root, err := trust.AdvanceRoot(*have.Root, now, in.Envelope)
		return root.Version, root.Version, err
	})
}

// PutRevocations takes a newer revocation list.
func (k *Keeper) PutRevocations(ctx context.Context, c access.Caller, in api.Document) (api.Document, error) {
	return in, k.put(ctx, c, store.Revocations, in.Envelope, func(have Current, _ int64) (uint64, uint64, error) {
		if have.Root == nil {
			return 0, 0, ErrNoRoot()
		}
		r, _, err := trust.ParseRevocations(in.Envelope, *have.Root)
		if err == nil && have.Revocations != nil && r.Version <= have.Revocations.Version {
			err = notNewer("revocations", r.Version, have.Revocations.Version)
		}
		return have.Root.Version, r.Version, err
	})
}

// PutTimestamp takes a newer timestamp.
func (k *Keeper) PutTimestamp(ctx context.Context, c access.Caller, in api.Document) (api.Document, error) {
	return in, k.put(ctx, c, store.Timestamp, in.Envelope, func(have Current, now int64) (uint64, uint64, error) {
		if have.Root == nil {
			return 0, 0, ErrNoRoot()
		}
		t, err := trust.ParseTimestamp(in.Envelope, *have.Root)
		switch {
		case err != nil:
		case have.Timestamp != nil && t.Version <= have.Timestamp.Version:
			err = notNewer("timestamp", t.Version, have.Timestamp.Version)
		case t.Expires <= now:
			err = fleet.Errorf(fleet.Refused, "the timestamp has expired")
		case t.Revocations != "" && t.Revocations != have.Digests.Revocations:
			err = fleet.Errorf(fleet.Conflict, "the timestamp names revocations %s, which are not the current ones", t.Revocations.Short()).
				WithHint("upload the revocations first")
		}
		return have.Root.Version, t.Version, err
	})
}

// ErrNoRoot refuses what needs a pinned root.
func ErrNoRoot() error {
	return fleet.Errorf(fleet.Conflict, "no root is pinned").WithHint("pin one first: nixfleet trust init")
}

func notNewer(what string, got, have uint64) error {
	return fleet.Errorf(fleet.Conflict, "%s version %d is not newer than version %d", what, got, have)
}

// put keeps a document that judge accepts in the light of the current ones, and
// shows it to the agents. The very document that is current is accepted, and
// changes nothing.
func (k *Keeper) put(ctx context.Context, c access.Caller, kind store.DocumentKind, envelope []byte,
	judge func(have Current, now int64) (rootVersion, version uint64, err error),
) error {
	action, mediaType := described(kind)
	return k.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		have, ok, err := p.Tx.CurrentDocument(ctx, kind)
		if err != nil || ok && string(have.Envelope) == string(envelope) {
			return err
		}
		rootVersion, version, err := judge(k.Current(), p.Now)
		if err != nil {
			return err
		}
		e, err := trust.ParseEnvelope(envelope, mediaType)
		if err != nil {
			return err
		}
		d := store.Document{
			Kind: kind, RootVersion: rootVersion, Version: version, Digest: fleet.SHA256(e.Payload), Envelope: envelope,
			AddedAt: p.Now, AddedBy: c.Actor(),
		}
		if err := p.Tx.AddDocument(ctx, d); err != nil {
			return err
		}
		p.AfterCommit(func() { k.changed(ctx) })
		return p.Audit(ctx, c.Actor(), action, string(kind)+":"+strconv.FormatUint(version, 10), map[string]string{"digest": string(d.Digest)})
	})
}

// changed reads the documents again and shows them to the agents.
func (k *Keeper) changed(ctx context.Context) {
	if err := k.load(context.WithoutCancel(ctx)); err != nil {
		k.loop.Log.Error("cannot read the new trust documents", "err", err)
	}
	k.loop.Presence.WakeAll()
}

// described returns the audited action and the payload type of a kind.
func described(kind store.DocumentKind) (action, mediaType string) {
	switch kind {
	case store.Revocations:
		return fleet.ActionTrustRevocations, fleet.TypeRevocations
	case store.Timestamp:
		return fleet.ActionTrustTimestamp, fleet.TypeTimestamp
	case store.Root:
	}
	return fleet.ActionTrustRoot, fleet.TypeRoot
}
