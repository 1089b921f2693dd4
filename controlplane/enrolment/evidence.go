// SPDX-License-Identifier: AGPL-3.0-only

package enrolment

import (
	"context"

	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Keys are the public keys of a machine's certificate request.
type Keys struct {
	Certificate fleet.Digest      // hash of the key that the certificate is for
	Evidence    fleet.EvidenceKey // "" if an older agent asks
	Proved      bool              // an enrolment's request proves the evidence key; else the certificate does not name it
}

// evidenceHash is what ended_key has of an evidence key.
func evidenceHash(k fleet.EvidenceKey) fleet.Digest { return fleet.SHA256([]byte(k)) }

func otherEvidence(id fleet.MachineID) error {
	return fleet.Errorf(fleet.Forbidden, "machine %s has another evidence key", id).
		WithHint("a new one comes with a new enrolment: nixfleet machine token %s --replace", id)
}

// TakeEvidence gives a machine that has no evidence key the one that it names: one
// that enrolled before there were such keys, or whose certificate is of another CA.
// It does so once. The error's code is Forbidden if the machine has another one, or
// if the certificate that was shown counts no more. An empty key changes nothing.
func (r *Registrar) TakeEvidence(ctx context.Context, shown Certificate, k fleet.EvidenceKey) error {
	if k == "" {
		return nil
	}
	if m, ok := r.loop.Inventory.Machine(shown.Machine); ok && m.EvidenceKey != "" {
		if m.EvidenceKey != k {
			return otherEvidence(m.ID)
		}
		return nil
	}
	if !k.Valid() {
		return fleet.Errorf(fleet.Invalid, "the evidence key is not an ed25519 key: %.120q", k)
	}
	return r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		m, ok := p.Machine(shown.Machine)
		if !ok {
			return loop.NoMachine(shown.Machine)
		}
		if err := r.stillCounts(m, shown); err != nil {
			return err
		}
		if m.EvidenceKey != "" { // another request was faster
			if m.EvidenceKey != k {
				return otherEvidence(m.ID)
			}
			return nil
		}
		if gone, err := p.Tx.KeyEnded(ctx, evidenceHash(k)); err != nil || gone {
			if err == nil {
				err = otherEvidence(m.ID)
			}
			return err
		}
		m.EvidenceKey = k
		if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
			return err
		}
		p.Changed(m)
		return p.Audit(ctx, "machine:"+string(m.ID), fleet.ActionMachineEvidence, "machine:"+string(m.ID),
			map[string]string{"evidenceKey": string(k), "serial": shown.Serial})
	})
}

// stillCounts returns nil if a certificate that was accepted has not ended since.
func (r *Registrar) stillCounts(m fleet.Machine, c Certificate) error {
	if !c.OtherCA {
		return countsFor(m, c)
	}
	if r.shown.hasEnded(store.Shown{Serial: c.Serial, Machine: c.Machine}) {
		return ended(c.Machine)
	}
	return CheckContact(m)
}
