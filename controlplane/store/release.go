// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/paging"
	"github.com/arcanesys/nixfleet/fleet"
)

const releaseColumns = `digest, header, registered_at, registered_by`

// Releases returns a page of releases, newest first.
func (r Reader) Releases(ctx context.Context, f fleet.ReleaseFilter, p fleet.PageRequest) (api.Page[fleet.Release], error) {
	before, err := paging.After[paging.TimeKey](p)
	if err != nil {
		return api.Page[fleet.Release]{}, err
	}
	var w where
	w.is("line", string(f.Line))
	if f.Machine != "" {
		w.and("EXISTS (SELECT 1 FROM release_entry WHERE release_digest = digest AND machine_id = ?)", string(f.Machine))
	}
	if before.At != 0 {
		w.and("(registered_at, digest) < (?, ?)", before.At, before.ID)
	}
	rest, args := w.limited("registered_at DESC, digest DESC", p.Size()+1)
	releases, err := list(ctx, r.q, scanRelease, `SELECT `+releaseColumns+` FROM release`+rest, args...)
	if err != nil {
		return api.Page[fleet.Release]{}, fmt.Errorf("list releases: %w", err)
	}
	return paging.Cut(releases, p, func(v fleet.Release) paging.TimeKey { return paging.TimeKey{At: v.RegisteredAt, ID: string(v.Digest)} }), nil
}

// Release returns a release. The error's code is NotFound if there is none.
func (r Reader) Release(ctx context.Context, digest fleet.Digest) (fleet.Release, error) {
	v, ok, err := first(ctx, r.q, scanRelease, `SELECT `+releaseColumns+` FROM release WHERE digest = $1`, string(digest))
	if err != nil {
		return v, fmt.Errorf("read release %s: %w", digest.Short(), err)
	}
	if !ok {
		return v, notFound("release", string(digest), "nixfleet release list shows those there are")
	}
	return v, nil
}

func scanRelease(r row) (v fleet.Release, err error) {
	var header string
	if err := r.Scan(&v.Digest, &header, &v.RegisteredAt, &v.RegisteredBy); err != nil {
		return v, err
	}
	return v, parse(jsonColumn{header, &v.Header})
}

// ReleaseEnvelope returns a release's signed envelope. The error's code is
// NotFound if there is none.
func (r Reader) ReleaseEnvelope(ctx context.Context, digest fleet.Digest) ([]byte, error) {
	b, ok, err := first(ctx, r.q, column[[]byte], `SELECT envelope FROM release WHERE digest = $1`, string(digest))
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", digest.Short(), err)
	}
	if !ok {
		return nil, notFound("release", string(digest), "nixfleet release list shows those there are")
	}
	return b, nil
}

// ReleaseEntries returns the entries' bytes, by machine id.
func (r Reader) ReleaseEntries(ctx context.Context, digest fleet.Digest) ([][]byte, error) {
	entries, err := list(ctx, r.q, column[[]byte], `SELECT body FROM release_entry WHERE release_digest = $1 ORDER BY position`, string(digest))
	if err != nil {
		return nil, fmt.Errorf("read entries of release %s: %w", digest.Short(), err)
	}
	return entries, nil
}

// RawReleaseEntry returns a machine's entry as bytes, and its place in the release; false if it
// has none.
func (r Reader) RawReleaseEntry(ctx context.Context, digest fleet.Digest, id fleet.MachineID) (position int, body []byte, ok bool, err error) {
	_, ok, err = first(ctx, r.q, func(r row) (none struct{}, err error) {
		return none, r.Scan(&position, &body)
	}, `SELECT position, body FROM release_entry WHERE release_digest = $1 AND machine_id = $2`, string(digest), string(id))
	if err != nil {
		return 0, nil, false, fmt.Errorf("read entry of %s in release %s: %w", id, digest.Short(), err)
	}
	return position, body, ok, nil
}

// EachReleaseEntry calls a function with the bytes of each entry, by machine id,
// and keeps few of them.
func (r Reader) EachReleaseEntry(ctx context.Context, digest fleet.Digest, each func(body []byte)) error {
	type entry struct {
		id   string
		body []byte
	}
	after := ""
	for {
		entries, err := list(ctx, r.q, func(r row) (e entry, err error) { return e, r.Scan(&e.id, &e.body) },
			`SELECT machine_id, body FROM release_entry WHERE release_digest = $1 AND machine_id > $2 ORDER BY machine_id LIMIT $3`, string(digest), after, entriesAtOnce)
		if err != nil {
			return fmt.Errorf("read entries of release %s: %w", digest.Short(), err)
		}
		for _, e := range entries {
			each(e.body)
			after = e.id
		}
		if len(entries) < entriesAtOnce {
			return nil
		}
	}
}

// NewestEntryTags returns the tags of a machine's entry in the newest release
// that has one for it; false if none has.
func (r Reader) NewestEntryTags(ctx context.Context, id fleet.MachineID) ([]fleet.Tag, bool, error) {
	// Releases from the newest on, until one has the machine: entries have no index
	// by machine, which would grow with every release.
	body, ok, err := first(ctx, r.q, column[string], `SELECT e.body FROM release AS r
		CROSS JOIN release_entry AS e ON e.release_digest = r.digest AND e.machine_id = $1
		ORDER BY r.registered_at DESC, r.digest DESC LIMIT 1`, string(id))
	var entry struct{ Tags []fleet.Tag }
	if err == nil && ok {
		err = parse(jsonColumn{body, &entry})
	}
	if err != nil {
		return nil, false, fmt.Errorf("read newest entry of %s: %w", id, err)
	}
	return entry.Tags, ok, nil
}

// LineHeads returns the newest release of each line that still has it.
func (r Reader) LineHeads(ctx context.Context) ([]fleet.Release, error) {
	heads, err := list(ctx, r.q, scanRelease, `SELECT `+releaseColumns+` FROM release WHERE digest IN (SELECT digest FROM release_line) ORDER BY line`)
	if err != nil {
		return nil, fmt.Errorf("list newest releases: %w", err)
	}
	return heads, nil
}

const lineColumns = `line, sequence, digest, envelope`

func scanLine(r row) (h api.LineHead, err error) {
	return h, r.Scan(&h.Line, &h.Sequence, &h.Digest, &h.Envelope)
}

// LineHead returns the newest release that a line has had, deleted or not; false
// for a line that had none.
func (r Reader) LineHead(ctx context.Context, line fleet.Line) (api.LineHead, bool, error) {
	h, ok, err := first(ctx, r.q, scanLine, `SELECT `+lineColumns+` FROM release_line WHERE line = $1`, string(line))
	if err != nil {
		return h, false, fmt.Errorf("read line %s: %w", line, err)
	}
	return h, ok, nil
}

// Lines returns a page of the lines, by name, each with the newest release that
// it has had.
func (r Reader) Lines(ctx context.Context, p fleet.PageRequest) (api.Page[api.LineHead], error) {
	after, err := paging.After[fleet.Line](p)
	if err != nil {
		return api.Page[api.LineHead]{}, err
	}
	lines, err := list(ctx, r.q, scanLine, `SELECT `+lineColumns+` FROM release_line WHERE line > $1 ORDER BY line LIMIT $2`, string(after), p.Size()+1)
	if err != nil {
		return api.Page[api.LineHead]{}, fmt.Errorf("list lines: %w", err)
	}
	return paging.Cut(lines, p, func(h api.LineHead) fleet.Line { return h.Line }), nil
}

// NewRelease is a release to keep: its row and the bytes that were signed.
type NewRelease struct {
	fleet.Release
	Envelope []byte
	Entries  []EntryKey // in order of machine id
	Raw      [][]byte   // the entries' bytes, in the same order
}

// EntryKey is what is told of an entry beside its bytes.
type EntryKey struct {
	Machine   fleet.MachineID
	StorePath fleet.StorePath
}

// entriesAtOnce is how many entries a statement writes, or a read takes.
const entriesAtOnce = 500

// AddRelease keeps a release and makes it its line's newest.
func (t *Tx) AddRelease(ctx context.Context, n NewRelease) error {
	header, err := text(n.Header)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO release (digest, line, sequence, envelope, header, registered_at, registered_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, string(n.Digest), string(n.Header.Line), int64(n.Header.Sequence),
		string(n.Envelope), header, n.RegisteredAt, n.RegisteredBy); err != nil {
		return fmt.Errorf("write release %s: %w", n.Digest.Short(), err)
	}
	rows := make([][]any, 0, entriesAtOnce)
	for i, e := range n.Entries {
		rows = append(rows, []any{string(n.Digest), i, string(e.Machine), string(e.StorePath), string(n.Raw[i])})
		if len(rows) < entriesAtOnce && i < len(n.Entries)-1 {
			continue
		}
		if _, err := t.putRows(ctx, `INSERT INTO release_entry (release_digest, position, machine_id, store_path, body)`, rows, ""); err != nil {
			return fmt.Errorf("write entries up to %s: %w", e.Machine, err)
		}
		rows = rows[:0]
	}
	if _, err := t.exec(ctx, `INSERT INTO release_line (line, sequence, digest, envelope) VALUES ($1, $2, $3, $4)
		ON CONFLICT (line) DO UPDATE SET sequence = excluded.sequence, digest = excluded.digest, envelope = excluded.envelope`,
		string(n.Header.Line), int64(n.Header.Sequence), string(n.Digest), string(n.Envelope)); err != nil {
		return fmt.Errorf("write line %s: %w", n.Header.Line, err)
	}
	return nil
}

// ReleaseUsers names at most ten of what uses a release: rollouts, and
// machines that run it.
func (r Reader) ReleaseUsers(ctx context.Context, digest fleet.Digest) ([]string, error) {
	users, err := list(ctx, r.q, column[string], `SELECT 'rollout ' || id FROM rollout WHERE release_digest = $1
		UNION ALL SELECT 'rollout ' || rollout_id || ' (to roll back to on ' || machine_id || ')' FROM assignment WHERE previous_digest = $1
			AND rollout_id IN (SELECT rollout_id FROM claim)
		UNION ALL SELECT 'machine ' || id FROM machine WHERE runs_release = $1
		LIMIT 10`, string(digest))
	if err != nil {
		return nil, fmt.Errorf("read users of release %s: %w", digest.Short(), err)
	}
	return users, nil
}

// OldReleases returns releases that were registered before a time, which are not
// their line's newest and were never rolled out, or whose rollouts are deleted.
func (r Reader) OldReleases(ctx context.Context, before int64) ([]fleet.Digest, error) {
	old, err := list(ctx, r.q, column[fleet.Digest], `SELECT digest FROM release WHERE registered_at < $1 AND digest NOT IN (SELECT digest FROM release_line)
		AND NOT EXISTS (SELECT 1 FROM rollout WHERE release_digest = digest) ORDER BY registered_at`, before)
	if err != nil {
		return nil, fmt.Errorf("list old releases: %w", err)
	}
	return old, nil
}

// DeleteRelease forgets a release and its entries. The error's code is
// NotFound if there is none.
func (t *Tx) DeleteRelease(ctx context.Context, digest fleet.Digest) error {
	n, err := t.exec(ctx, `DELETE FROM release WHERE digest = $1`, string(digest))
	if err != nil {
		return fmt.Errorf("delete release %s: %w", digest.Short(), err)
	}
	if n == 0 {
		return notFound("release", string(digest), "nixfleet release list shows those there are")
	}
	return nil
}
