// SPDX-License-Identifier: MIT

// Package checkpoint compares the audit trail of a control plane with what was seen of
// it before, and with what releases sign of it.
//
// It never believes a checkpoint that a control plane sends unsigned.
package checkpoint

import (
	"context"
	"slices"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Checkpoint is a size and head of the audit trail that was seen or signed.
type Checkpoint struct {
	fleet.AuditHead
	Release fleet.Digest // that signed it; empty: seen by this command
	met     bool
}

// cut is the newest entry that says that older ones were removed.
type cut struct {
	entry fleet.AuditEntry
	begin fleet.AuditHead // zero if there is none
}

func newestCut(ctx context.Context, c *api.Client) (newest cut, err error) {
	for e, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
		return c.Audit(ctx, fleet.AuditFilter{Action: fleet.ActionAuditCut}, p)
	}) {
		if err != nil {
			return newest, err
		}
		event, err := e.Event()
		if err != nil || event.Action != fleet.ActionAuditCut {
			continue // what is wrong with it shows in the chain
		}
		begin, err := fleet.CutBy(event)
		if err != nil {
			return newest, err
		}
		if begin.Size >= e.Seq {
			return newest, fleet.Errorf(fleet.Conflict, "entry %d of the audit trail says that it was cut at entry %d", e.Seq, begin.Size)
		}
		newest = cut{e, begin}
	}
	return newest, nil
}

// Walk reads the whole chain, from where it begins, which it returns too, and marks
// the checkpoints that the chain contains. The error's code is Conflict, and names
// the first bad entry, if the chain is broken.
func Walk(ctx context.Context, c *api.Client, points []Checkpoint) (fleet.AuditChain, fleet.AuditHead, error) {
	from, err := newestCut(ctx, c)
	for try := 0; err == nil; try++ {
		chain, fault := from.walk(ctx, c, points)
		if fault == nil || try == 2 {
			return chain, from.begin, fault
		}
		next, again := newestCut(ctx, c)
		if again != nil || next.entry == from.entry {
			return chain, from.begin, fault
		}
		from = next // it was cut meanwhile
	}
	return fleet.AuditChain{}, from.begin, err
}

func (f cut) walk(ctx context.Context, c *api.Client, points []Checkpoint) (fleet.AuditChain, error) {
	chain := fleet.AuditChain(f.begin)
	mark := func() {
		for i := range points {
			p := &points[i]
			p.met = p.met || p.Size == 0 || p.Size == chain.Size && p.Head == chain.Head
		}
	}
	mark()
	said := f.begin.Size == 0
	for e, err := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.AuditEntry], error) {
		return c.Audit(ctx, fleet.AuditFilter{}, p)
	}) {
		if err == nil {
			err = chain.Add(e)
		}
		if err != nil {
			return chain, err
		}
		said = said || e == f.entry
		mark()
	}
	if !said {
		return chain, fleet.Errorf(fleet.Conflict, "the audit trail begins after entry %d, and has no entry that says that those before were removed", f.begin.Size)
	}
	return chain, nil
}

// Fault is why a chain does not contain the checkpoint, or nil; file is where
// the one that was seen before is kept.
func (p Checkpoint) Fault(chain fleet.AuditChain, file string) error {
	switch {
	case p.met:
		return nil
	case p.Release == "":
		return fleet.Errorf(fleet.Conflict, "the audit trail does not contain the checkpoint seen before: entry %d with hash %s; entries were cut off or rewritten", p.Size, p.Head.Short()).
			WithHint("the checkpoint is in %s; was the control plane restored from a backup?", file)
	case chain.Size < p.Size:
		return fleet.Errorf(fleet.Conflict, "the audit trail has %d entries, and release %s was signed when it had %d: entries were cut off", chain.Size, p.Release.Short(), p.Size).
			WithHint("was the control plane restored from a backup?")
	}
	return fleet.Errorf(fleet.Conflict, "entry %d of the audit trail is not the one that release %s signs, with hash %s: entries were rewritten", p.Size, p.Release.Short(), p.Head.Short()).
		WithHint("someone wrote to the control plane's database; compare with other operators' checkpoints")
}

// Signed are the checkpoints in the headers of a line's newest releases, verified by
// the root, the oldest first; unverified are releases whose signatures could not be.
func Signed(ctx context.Context, c *api.Client, root *fleet.Root, line fleet.Line, releases int) (points []Checkpoint, unverified []fleet.Digest, err error) {
	n := 0
	for r, failed := range api.All(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
		return c.Releases(ctx, fleet.ReleaseFilter{Line: line}, p)
	}) {
		if failed != nil {
			return nil, nil, failed
		}
		if n++; n > releases {
			break
		}
		full, failed := c.Release(ctx, r.Digest)
		if failed != nil {
			return nil, nil, failed
		}
		h, d, failed := trust.CheckHeader(full.Envelope, root)
		switch {
		case failed != nil:
			unverified = append(unverified, r.Digest)
		case h.AuditHead != nil:
			points = append(points, Checkpoint{AuditHead: *h.AuditHead, Release: d})
		}
	}
	slices.Reverse(points) // a fault names the oldest release that shows it
	return points, unverified, nil
}
