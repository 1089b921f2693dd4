// SPDX-License-Identifier: AGPL-3.0-only

package documents

import (
	"context"
	"strings"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// maxGrants bounds the grants that are in force at the same time.
const maxGrants = 1000

// grants are those in force, when they were read.
type grants struct {
	envelopes map[fleet.Digest][]byte
	machines  map[fleet.MachineID][]grantOf // newest first
}

type grantOf struct {
	digest  fleet.Digest
	expires int64
}

// readGrants reads the grants that root's keys vouch for.
func readGrants(ctx context.Context, r store.Reader, root fleet.Root, now int64) (grants, error) {
	out := grants{envelopes: map[fleet.Digest][]byte{}, machines: map[fleet.MachineID][]grantOf{}}
	all, err := r.Grants(ctx, now)
	if err != nil {
		return out, err
	}
	for _, g := range all {
		v, err := trust.ParseGrant(g.Envelope, root)
		if err != nil {
			continue
		}
		out.envelopes[g.Digest] = g.Envelope
		for _, m := range v.Machines {
			out.machines[m] = append(out.machines[m], grantOf{g.Digest, v.Expires})
		}
	}
	return out, nil
}

// Grants are the digests of the grants for a machine that are in force at now
// (Unix milliseconds), newest first.
func (k *Keeper) Grants(m fleet.MachineID, now int64) []fleet.Digest {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out []fleet.Digest
	for _, g := range k.grants.machines[m] {
		if now < g.expires && len(out) < trust.MaxGrants {
			out = append(out, g.digest)
		}
	}
	return out
}

func (k *Keeper) grant(d fleet.Digest) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.grants.envelopes[d]
}

// PutGrant takes a grant and shows it to the machines that it names. The same one
// again changes nothing.
func (k *Keeper) PutGrant(ctx context.Context, c access.Caller, in api.Document) (api.Document, error) {
	return in, k.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		root := k.Current().Root
		if root == nil {
			return ErrNoRoot()
		}
		g, err := trust.ParseGrant(in.Envelope, *root)
		if err != nil {
			return err
		}
		if g.Expires <= p.Now {
			return fleet.Errorf(fleet.Refused, "the grant has expired")
		}
		e, err := trust.ParseEnvelope(in.Envelope, fleet.TypeGrant)
		if err != nil {
			return err
		}
		added, err := p.Tx.AddGrant(ctx, store.Grant{Digest: e.Digest(), Envelope: in.Envelope, Expires: g.Expires, AddedAt: p.Now, AddedBy: c.Actor()}, p.Now)
		if err != nil || !added {
			return err
		}
		if all, err := p.Tx.Grants(ctx, p.Now); err != nil {
			return err
		} else if len(all) > maxGrants {
			return fleet.Errorf(fleet.Conflict, "%d grants are in force", maxGrants).WithHint("name several machines in one grant, or wait until some have expired")
		}
		p.AfterCommit(func() { k.changed(ctx) })
		machines := make([]string, min(len(g.Machines), 20))
		for i := range machines {
			machines[i] = string(g.Machines[i])
		}
		return p.Audit(ctx, c.Actor(), fleet.ActionTrustGrant, "grant:"+e.Digest().Short(), map[string]string{
			"digest": string(e.Digest()), "release": string(g.Digest), "kind": string(g.Kind), "machines": strings.Join(machines, ","),
		})
	})
}
