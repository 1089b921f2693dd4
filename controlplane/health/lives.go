// SPDX-License-Identifier: AGPL-3.0-only

package health

import (
	"context"
	"fmt"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Life is how much of the life of a document is over.
type Life struct {
	Document string // root, timestamp, or release and a line's name
	Used     int    // percent
	Expires  int64  // Unix milliseconds
	hint     string
}

// lives are those of the root document, of the timestamp and of each line's newest
// release.
func (i *Inspector) lives(ctx context.Context) ([]Life, error) {
	have, now := i.documents.Current(), i.loop.Clock.UnixMilli()
	var out []Life
	if r := have.Root; r != nil {
		out = append(out, Life{"root", trust.LifeUsed(r.SignedAt, r.Expires, now), r.Expires, newRoot})
	}
	if t := have.Timestamp; t != nil {
		out = append(out, Life{"timestamp", trust.LifeUsed(t.SignedAt, t.Expires, now), t.Expires, newTimestamp})
	}
	err := i.loop.Store.Read(ctx, func(r store.Reader) error {
		heads, err := r.LineHeads(ctx)
		for _, h := range heads {
			out = append(out, Life{
				"release of line " + string(h.Header.Line), trust.LifeUsed(h.Header.CreatedAt, h.Header.Expires, now), h.Header.Expires,
				"make the next one, of the same systems if nothing else: nixfleet release create --from " + h.Digest.Short(),
			})
		}
		return err
	})
	return out, err
}

// lifeFindings warn of documents of whose life half, or three quarters, are over.
func (i *Inspector) lifeFindings(ctx context.Context) ([]Finding, error) {
	lives, err := i.lives(ctx)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, l := range lives {
		if trust.LifeStep(l.Used) > 0 {
			found = append(found, Finding{"warning", "trust", fmt.Sprintf("%d %% of the life of the %s is over; it ends on %s",
				l.Used, l.Document, time.UnixMilli(l.Expires).UTC().Format(time.DateOnly)), l.hint})
		}
	}
	return found, nil
}
