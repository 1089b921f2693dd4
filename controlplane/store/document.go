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
