// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/once"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// CreateRelease registers a release that the root's release role signed. The
// same release again gives what was registered. Its sequence must be above its
// line's newest, and its previousDigest that release; else the code is
// Conflict. A limited key registers what has its machines only.
func (p *Plane) CreateRelease(ctx context.Context, c access.Caller, in api.ReleaseRequest) (fleet.Release, error) {
	root := p.Documents.Current().Root
	if root == nil {
		return fleet.Release{}, documents.ErrNoRoot()
	}
	entries := make([]fleet.Entry, 0, min(len(in.Entries), cachedEntries))
	keys, ids := make([]store.EntryKey, 0, len(in.Entries)), make([]fleet.MachineID, 0, len(in.Entries))
	checked, err := trust.CheckReleaseEach(in.Envelope, in.Entries, root, p.now(), func(e fleet.Entry) {
		keys, ids = append(keys, store.EntryKey{Machine: e.ID, StorePath: e.StorePath}), append(ids, e.ID)
		if len(in.Entries) <= cachedEntries {
			entries = append(entries, e)
		}
	})
	if err != nil {
		return fleet.Release{}, err
	}
	if checked.Header.Sequence > math.MaxInt64 {
		return fleet.Release{}, fleet.Errorf(fleet.Invalid, "release: sequence %d is too large", checked.Header.Sequence)
	}
	if err = mayTouchEach(c, p.loop.Inventory.Machine, ids); err != nil {
		return fleet.Release{}, err
	}
	release := fleet.Release{Digest: checked.Digest, Header: checked.Header, RegisteredAt: p.now(), RegisteredBy: c.Actor()}
	added := false
	err = p.loop.Store.Write(ctx, func(tx *store.Tx) error {
		return once.Do(ctx, tx, &release, func() (err error) {
			added = true
			release, err = addRelease(ctx, tx, store.NewRelease{Release: release, Envelope: in.Envelope, Entries: keys, Raw: checked.Raw})
			return err
		})
	})
	if err != nil {
		return fleet.Release{}, err
	}
	if added { // what is only answered again may be deleted
		checked.Entries = entries
		p.releases.put(checked)
	}
	return release, nil
}

// addRelease keeps a release, and returns it, or what was registered before.
func addRelease(ctx context.Context, tx *store.Tx, n store.NewRelease) (fleet.Release, error) {
	have, err := tx.Release(ctx, n.Digest)
	if fleet.ErrorCode(err) != fleet.NotFound {
		return have, err
	}
	if err := followsLine(ctx, tx, n.Header); err != nil {
		return fleet.Release{}, err
	}
	if err := tx.AddRelease(ctx, n); err != nil {
		return fleet.Release{}, err
	}
	return n.Release, tx.AddAudit(ctx, fleet.AuditEvent{
		At: n.RegisteredAt, Actor: n.RegisteredBy, Action: fleet.ActionReleaseCreate, Subject: "release:" + string(n.Digest),
		Detail: map[string]string{
			"line": string(n.Header.Line), "sequence": fmt.Sprint(n.Header.Sequence), "name": n.Header.Name,
			"entries": fmt.Sprint(n.Header.Entries.Count),
		},
	})
}

// followsLine checks a release's place in its line. A line that is not known
// here, because the database is new, may begin anywhere: the agents have their
// own floors.
func followsLine(ctx context.Context, tx *store.Tx, h fleet.Header) error {
	head, ok, err := tx.LineHead(ctx, h.Line)
	switch {
	case err != nil || !ok:
		return err
	case h.Sequence <= head.Sequence:
		return fleet.Errorf(fleet.Conflict, "release: sequence %d of line %s is not above %d", h.Sequence, h.Line, head.Sequence).
			WithHint("another release came first: create this one again")
	case h.PreviousDigest != head.Digest:
		return fleet.Errorf(fleet.Conflict, "release: previousDigest is not the newest release of line %s, %s", h.Line, head.Digest.Short()).
			WithHint("another release came first: create this one again")
	}
	return nil
}

// Releases returns releases, newest first, also to a limited key: a header names
// no machine. Which have an entry for a machine, a limited key hears of its own.
func (p *Plane) Releases(ctx context.Context, c access.Caller, f fleet.ReleaseFilter, page fleet.PageRequest) (api.Page[fleet.Release], error) {
	if f.Machine != "" && !p.reaches(c, f.Machine) {
		return api.Page[fleet.Release]{Items: []fleet.Release{}}, nil
	}
	return p.loop.Store.Releases(ctx, f, page)
}

// Lines returns lines by name, each with the newest release that it has had: a
// header names no machine.
func (p *Plane) Lines(ctx context.Context, page fleet.PageRequest) (api.Page[api.LineHead], error) {
	return p.loop.Store.Lines(ctx, page)
}

// Line returns the newest release that a line has had, deleted or not. The error's
// code is NotFound if it had none.
func (p *Plane) Line(ctx context.Context, line fleet.Line) (api.LineHead, error) {
	if !line.Valid() {
		return api.LineHead{}, fleet.Errorf(fleet.Invalid, "%.63q is not the name of a line", line).WithHint("nixfleet release list shows them")
	}
	h, ok, err := p.loop.Store.LineHead(ctx, line)
	if err == nil && !ok {
		err = fleet.Errorf(fleet.NotFound, "line %.63q has had no release", line).WithHint("nixfleet release create makes its first")
	}
	return h, err
}

// Release returns a release with the bytes that were signed, to a limited key
// the entries of its machines.
func (p *Plane) Release(ctx context.Context, c access.Caller, digest fleet.Digest) (api.ReleaseDetail, error) {
	var d api.ReleaseDetail
	err := p.loop.Store.Read(ctx, func(r store.Reader) (err error) {
		if d.Release, err = r.Release(ctx, digest); err != nil {
			return err
		}
		if d.Envelope, err = r.ReleaseEnvelope(ctx, digest); err != nil {
			return err
		}
		d.Entries, err = r.ReleaseEntries(ctx, digest)
		return err
	})
	if err != nil {
		return api.ReleaseDetail{}, err
	}
	d.Entries, err = p.reachedEntries(c, d.Entries)
	return d, err
}

// DiffReleases says what changes from a to b, on the machines that the caller's
// key is for.
func (p *Plane) DiffReleases(ctx context.Context, c access.Caller, a, b fleet.Digest) (fleet.ReleaseDiff, error) {
	from, err := p.releases.release(ctx, a)
	if err != nil {
		return fleet.ReleaseDiff{}, err
	}
	to, err := p.releases.release(ctx, b)
	if err != nil {
		return fleet.ReleaseDiff{}, err
	}
	reached := func(r *trust.Release) []fleet.Entry {
		return slices.DeleteFunc(slices.Clone(r.Entries), func(e fleet.Entry) bool { return !p.reaches(c, e.ID) })
	}
	return fleet.DiffEntries(a, b, reached(from), reached(to)), nil
}

// DeleteRelease forgets a release that nothing uses. The error's code is
// Conflict, and says what uses it, if something does (O12). A limited key deletes
// what has its machines only.
func (p *Plane) DeleteRelease(ctx context.Context, c access.Caller, digest fleet.Digest) (fleet.Release, error) {
	var gone fleet.Release
	release, err := p.releases.release(ctx, digest)
	if err != nil {
		return gone, err
	}
	err = p.loop.Act(ctx, func(ctx context.Context, pass *loop.Pass) (err error) {
		r, err := pass.Tx.Release(ctx, digest)
		if err != nil {
			return err
		}
		if len(partOf(c, pass.Machine, machinesOf(release)).others) > 0 {
			return fleet.Errorf(fleet.Forbidden, "release %s has machines that your key is not for", digest.Short())
		}
		users, err := pass.Tx.ReleaseUsers(ctx, digest)
		if err != nil {
			return err
		}
		if len(users) > 0 && c.Limited() {
			users = []string{"a rollout or a machine"} // which may be another's
		}
		if len(users) > 0 {
			return fleet.Errorf(fleet.Conflict, "release %s is used by %s", digest.Short(), strings.Join(users, ", "))
		}
		gone = r
		if err := pass.Tx.DeleteRelease(ctx, digest); err != nil {
			return err
		}
		pass.AfterCommit(func() { p.releases.drop(digest) })
		return pass.Audit(ctx, c.Actor(), fleet.ActionReleaseDelete, "release:"+string(digest), nil)
	})
	return gone, err
}

// sweepReleases deletes the oldest release that is past its retention and that
// nothing uses.
func (p *Plane) sweepReleases(ctx context.Context, pass *loop.Pass) (more bool, err error) {
	keep := p.conf.Retention.Releases
	if keep == 0 {
		return false, nil
	}
	old, err := pass.Tx.OldReleases(ctx, pass.Now-keep.Milliseconds())
	if err != nil {
		return false, err
	}
	for _, digest := range old {
		users, err := pass.Tx.ReleaseUsers(ctx, digest)
		if err != nil {
			return false, err
		}
		if len(users) > 0 {
			continue
		}
		if err = pass.Tx.DeleteRelease(ctx, digest); err != nil {
			return false, err
		}
		pass.AfterCommit(func() { p.releases.drop(digest) })
		return true, pass.Audit(ctx, rollout.EngineActor, fleet.ActionReleaseDelete, "release:"+string(digest), map[string]string{"why": "retention"})
	}
	return false, nil
}

func machinesOf(r *trust.Release) []fleet.MachineID {
	ids := make([]fleet.MachineID, len(r.Entries))
	for i, e := range r.Entries {
		ids[i] = e.ID
	}
	return ids
}

// BundleFor returns what a machine gets of a release, as JSON text: the signed
// header, its own entry and the proof. The error's code is NotFound if the
// release has nothing for it.
func (p *Plane) BundleFor(ctx context.Context, machine fleet.MachineID, digest fleet.Digest) ([]byte, error) {
	bundle, err := p.releases.bundle(ctx, digest, machine)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(bundle)
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	return b, nil
}
