// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// trustState is what releases are checked against now, and the digests of the
// current documents.
type trustState struct {
	root        *fleet.Root
	revocations *fleet.Revocations
	timestamp   *fleet.Timestamp
	documents   fleet.DocumentDigests
}

func (p *Plane) trustNow() trustState {
	p.trustMu.RLock()
	defer p.trustMu.RUnlock()
	return p.trust
}

// loadTrust reads the current documents. One that the root's keys no longer
// vouch for is not handed on.
func (p *Plane) loadTrust(ctx context.Context) error {
	var s trustState
	err := p.st.Read(ctx, func(r store.Reader) error {
		root, ok, err := r.CurrentDocument(ctx, store.Root)
		if err != nil || !ok {
			return err
		}
		pinned, err := trust.PinRoot(root.Envelope)
		if err != nil {
			return fmt.Errorf("read root version %d: %w", root.Version, err)
		}
		s.root, s.documents.Root = &pinned, root.Digest
		if d, ok, err := r.CurrentDocument(ctx, store.Revocations); err != nil {
			return err
		} else if v, digest, err := trust.ParseRevocations(d.Envelope, pinned); ok && err == nil {
			s.revocations, s.documents.Revocations = &v, digest
		}
		if d, ok, err := r.CurrentDocument(ctx, store.Timestamp); err != nil {
			return err
		} else if v, err := trust.ParseTimestamp(d.Envelope, pinned); ok && err == nil {
			s.timestamp, s.documents.Timestamp = &v, d.Digest
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.trustMu.Lock()
	p.trust = s
	p.trustMu.Unlock()
	if s.revocations != nil {
		p.serials.listed(s.revocations.Certificates)
	}
	return nil
}

// Root returns the pinned root document. The error's code is NotFound before
// one is pinned.
func (p *Plane) Root(ctx context.Context) (api.Document, error) {
	d, ok, err := p.st.CurrentDocument(ctx, store.Root)
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
func (p *Plane) RootVersion(ctx context.Context, version uint64) ([]byte, error) {
	d, ok, err := p.st.RootVersion(ctx, version)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fleet.Errorf(fleet.NotFound, "there is no root version %d", version)
	}
	return d.Envelope, nil
}

// DocumentByDigest returns the envelope of a trust document whose payload has
// the digest.
func (p *Plane) DocumentByDigest(ctx context.Context, digest fleet.Digest) ([]byte, error) {
	d, ok, err := p.st.DocumentByDigest(ctx, digest)
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
func (p *Plane) PutRoot(ctx context.Context, c Caller, in api.Document) (api.Document, error) {
	err := p.putDocument(ctx, c, store.Root, fleet.ActionTrustRoot, in.Envelope, func(s trustState) (uint64, uint64, error) {
		if s.root == nil {
			root, err := trust.PinRoot(in.Envelope)
			if err == nil && root.Expires <= p.ms() {
				err = fleet.Errorf(fleet.Refused, "root version %d has expired", root.Version)
			}
			return root.Version, root.Version, err
		}
		root, err := trust.AdvanceRoot(*s.root, p.ms(), in.Envelope)
		return root.Version, root.Version, err
	})
	return in, err
}

// PutRevocations takes a newer revocation list.
func (p *Plane) PutRevocations(ctx context.Context, c Caller, in api.Document) (api.Document, error) {
	err := p.putDocument(ctx, c, store.Revocations, fleet.ActionTrustRevocations, in.Envelope, func(s trustState) (uint64, uint64, error) {
		if s.root == nil {
			return 0, 0, errNoRoot()
		}
		r, _, err := trust.ParseRevocations(in.Envelope, *s.root)
		if err == nil && s.revocations != nil && r.Version <= s.revocations.Version {
			err = notNewer("revocations", r.Version, s.revocations.Version)
		}
		return s.root.Version, r.Version, err
	})
	return in, err
}

// PutTimestamp takes a newer timestamp.
func (p *Plane) PutTimestamp(ctx context.Context, c Caller, in api.Document) (api.Document, error) {
	err := p.putDocument(ctx, c, store.Timestamp, fleet.ActionTrustTimestamp, in.Envelope, func(s trustState) (uint64, uint64, error) {
		if s.root == nil {
			return 0, 0, errNoRoot()
		}
		t, err := trust.ParseTimestamp(in.Envelope, *s.root)
		switch {
		case err != nil:
		case s.timestamp != nil && t.Version <= s.timestamp.Version:
			err = notNewer("timestamp", t.Version, s.timestamp.Version)
		case t.Expires <= p.ms():
			err = fleet.Errorf(fleet.Refused, "the timestamp has expired")
		case t.Revocations != "" && t.Revocations != s.documents.Revocations:
			err = fleet.Errorf(fleet.Conflict, "the timestamp names revocations %s, which are not the current ones", t.Revocations.Short()).
				WithHint("upload the revocations first")
		}
		return s.root.Version, t.Version, err
	})
	return in, err
}

func errNoRoot() error {
	return fleet.Errorf(fleet.Conflict, "no root is pinned").WithHint("pin one first: nixfleet trust init")
}

func notNewer(what string, got, have uint64) error {
	return fleet.Errorf(fleet.Conflict, "%s version %d is not newer than version %d", what, got, have)
}

// putDocument keeps a document that judge finds good in the light of the
// current ones, and shows it to the agents. The very document that is current
// is good, and changes nothing.
func (p *Plane) putDocument(ctx context.Context, c Caller, kind store.DocumentKind, action string, envelope []byte,
	judge func(trustState) (rootVersion, version uint64, err error),
) error {
	return p.act(ctx, func(ctx context.Context, t *pass) error {
		have, ok, err := t.tx.CurrentDocument(ctx, kind)
		if err != nil || ok && string(have.Envelope) == string(envelope) {
			return err
		}
		rootVersion, version, err := judge(p.trustNow())
		if err != nil {
			return err
		}
		e, err := trust.ParseEnvelope(envelope, documentType(kind))
		if err != nil {
			return err
		}
		d := store.Document{
			Kind: kind, RootVersion: rootVersion, Version: version, Digest: fleet.SHA256(e.Payload), Envelope: envelope,
			AddedAt: t.now, AddedBy: c.actor(),
		}
		if err := t.tx.AddDocument(ctx, d); err != nil {
			return err
		}
		t.after = append(t.after, func() {
			if err := p.loadTrust(context.WithoutCancel(ctx)); err != nil {
				p.log.Error("cannot read the new trust documents", "err", err)
			}
			p.presence.wakeAll()
		})
		return t.audit(ctx, c.actor(), action, string(kind)+":"+strconv.FormatUint(version, 10), map[string]string{"digest": string(d.Digest)})
	})
}

func documentType(kind store.DocumentKind) string {
	switch kind {
	case store.Revocations:
		return fleet.TypeRevocations
	case store.Timestamp:
		return fleet.TypeTimestamp
	case store.Root:
	}
	return fleet.TypeRoot
}

// revokedSerials has the certificates that must not be used any more.
type revokedSerials struct {
	mu     sync.RWMutex
	own    map[string]bool // revoked here
	signed map[string]bool // by the revocation list
}

func newRevokedSerials() *revokedSerials {
	return &revokedSerials{own: map[string]bool{}, signed: map[string]bool{}}
}

func (p *Plane) loadSerials(ctx context.Context) error {
	list, err := p.st.RevokedCertificates(ctx, p.ms())
	if err != nil {
		return err
	}
	for _, c := range list {
		p.serials.add(c.Serial)
	}
	return nil
}

func (r *revokedSerials) add(serials ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range serials {
		r.own[s] = true
	}
}

func (r *revokedSerials) listed(serials []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signed = map[string]bool{}
	for _, s := range serials {
		r.signed[s] = true
	}
}

func (r *revokedSerials) has(serial string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.own[serial] || r.signed[serial]
}
