// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// DocumentKind is a kind of trust document that the control plane serves.
type DocumentKind string

// The kinds of trust document.
const (
	Root        DocumentKind = "root"
	Revocations DocumentKind = "revocations"
	Timestamp   DocumentKind = "timestamp"
)

// Document is a signed trust document as it was handed in.
type Document struct {
	Kind DocumentKind
	// RootVersion is the root that it was checked against; a root's own is its
	// Version.
	RootVersion uint64
	Version     uint64
	Digest      fleet.Digest // of the payload
	Envelope    []byte
	AddedAt     int64 // Unix milliseconds
	AddedBy     string
}

const documentColumns = `kind, root_version, version, digest, envelope, added_at, added_by`

// CurrentDocument returns the newest document of a kind; false if there is
// none.
func (r Reader) CurrentDocument(ctx context.Context, kind DocumentKind) (Document, bool, error) {
	return r.document(ctx, `SELECT `+documentColumns+` FROM document WHERE kind = $1 ORDER BY root_version DESC, version DESC LIMIT 1`, string(kind))
}

// RootVersion returns one version of the root; false if there is none.
func (r Reader) RootVersion(ctx context.Context, version uint64) (Document, bool, error) {
	return r.document(ctx, `SELECT `+documentColumns+` FROM document WHERE kind = 'root' AND version = $1`, int64(version))
}

// DocumentByDigest returns a document of any kind; false if there is none.
func (r Reader) DocumentByDigest(ctx context.Context, digest fleet.Digest) (Document, bool, error) {
	return r.document(ctx, `SELECT `+documentColumns+` FROM document WHERE digest = $1`, string(digest))
}

func (r Reader) document(ctx context.Context, query string, args ...any) (Document, bool, error) {
	d, ok, err := first(ctx, r.q, func(r row) (d Document, err error) {
		return d, r.Scan(&d.Kind, &d.RootVersion, &d.Version, &d.Digest, &d.Envelope, &d.AddedAt, &d.AddedBy)
	}, query, args...)
	if err != nil {
		return d, false, fmt.Errorf("read trust document: %w", err)
	}
	return d, ok, nil
}

// AddDocument keeps a new version. The caller has checked that it is newer than
// the current one.
func (t *Tx) AddDocument(ctx context.Context, d Document) error {
	if _, err := t.exec(ctx, `INSERT INTO document (`+documentColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		string(d.Kind), int64(d.RootVersion), int64(d.Version), string(d.Digest), string(d.Envelope), d.AddedAt, d.AddedBy); err != nil {
		return fmt.Errorf("write %s: %w", d.Kind, err)
	}
	return nil
}

// Grant is a signed grant as it was handed in.
type Grant struct {
	Digest   fleet.Digest // of the payload
	Envelope []byte
	Expires  int64 // Unix milliseconds
	AddedAt  int64 // Unix milliseconds
	AddedBy  string
}

const grantColumns = `digest, envelope, expires, added_at, added_by`

// Grants returns the grants that expire after now (Unix milliseconds), newest
// first.
func (r Reader) Grants(ctx context.Context, now int64) ([]Grant, error) {
	gs, err := list(ctx, r.q, func(r row) (g Grant, err error) {
		return g, r.Scan(&g.Digest, &g.Envelope, &g.Expires, &g.AddedAt, &g.AddedBy)
	}, `SELECT `+grantColumns+` FROM trust_grant WHERE expires > $1 ORDER BY added_at DESC, digest`, now)
	if err != nil {
		return nil, fmt.Errorf("read grants: %w", err)
	}
	return gs, nil
}

// AddGrant keeps a grant, and removes those that expired before now (Unix
// milliseconds). One that is there already stays as it is; false says so.
func (t *Tx) AddGrant(ctx context.Context, g Grant, now int64) (bool, error) {
	if _, err := t.exec(ctx, `DELETE FROM trust_grant WHERE expires <= $1`, now); err != nil {
		return false, fmt.Errorf("remove expired grants: %w", err)
	}
	n, err := t.exec(ctx, `INSERT INTO trust_grant (`+grantColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (digest) DO NOTHING`,
		string(g.Digest), string(g.Envelope), g.Expires, g.AddedAt, g.AddedBy)
	if err != nil {
		return false, fmt.Errorf("write grant: %w", err)
	}
	return n > 0, nil
}
