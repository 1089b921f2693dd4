// SPDX-License-Identifier: AGPL-3.0-only

package enrolment

import (
	"context"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// repeatFor is how long a renewal that is repeated gets the same certificate.
const repeatFor = time.Hour

// Certificate is what a machine shows; a CA that the control plane trusts
// vouches for it.
type Certificate struct {
	Machine fleet.MachineID
	Serial  string
	Key     fleet.Digest // of its public key
	// OtherCA: the CA is that of tls.clientCaFile, not the control plane's own.
	OtherCA bool
	// OutOfTime: it is not good yet, or no more, and may only be renewed.
	OutOfTime bool
}

// Issue signs the certificate for a token's machine. It may refuse, when the
// request is for another name for example; then nothing happens.
type Issue func(machine fleet.MachineID) (serial string, der []byte, notAfter int64, err error)

// Accept returns nil if a certificate counts; Forbidden if its key is not the
// machine's, if it was revoked, if its machine is decommissioned, or if it is out
// of its time and the machine neither active nor in maintenance. It is asked for
// each connection and each request, and answers from memory. A machine without a
// row appears as pending, with the certificate's key.
func (r *Registrar) Accept(ctx context.Context, c Certificate) error {
	if !c.Machine.Valid() {
		return fleet.Errorf(fleet.Forbidden, "%.80q is not a machine id", c.Machine)
	}
	if r.documents.Revoked(c.Serial) {
		return ended(c.Machine)
	}
	if c.OtherCA {
		return r.acceptShown(ctx, store.Shown{Serial: c.Serial, Machine: c.Machine})
	}
	m, known := r.loop.Inventory.Machine(c.Machine)
	if known && m.Key != "" {
		return countsFor(m, c)
	}
	if known {
		if err := r.mayTakeKey(ctx, r.loop.Store.Reader, m, c); err != nil {
			return err
		}
	}
	if err := r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error { return r.takeKey(ctx, p, c) }); err != nil {
		return err
	}
	m, _ = r.loop.Inventory.Machine(c.Machine)
	return countsFor(m, c)
}

// countsFor returns nil if a certificate of our CA is of the machine's key.
func countsFor(m fleet.Machine, c Certificate) error {
	if err := CheckContact(m); err != nil {
		return err
	}
	if m.Key == "" || m.Key != c.Key {
		return ended(m.ID)
	}
	if c.OutOfTime && m.Lifecycle != fleet.Active && m.Lifecycle != fleet.Maintenance {
		return fleet.Errorf(fleet.Forbidden, "machine %s is %s, and its certificate is out of its time", m.ID, m.Lifecycle).
			WithHint("a pending machine can renew it once it is adopted: nixfleet machine adopt %s", m.ID)
	}
	return nil
}

func ended(id fleet.MachineID) error {
	return fleet.Errorf(fleet.Forbidden, "the certificate of %s is revoked", id).WithHint("enrol it again: nixfleet machine token %s --replace", id)
}

// mayTakeKey returns nil if a machine without a key may take a certificate's:
// one that has never enrolled and waits to be adopted, or one that enrolled
// before keys were kept, if the certificate is listed and not revoked.
func (r *Registrar) mayTakeKey(ctx context.Context, q store.Reader, m fleet.Machine, c Certificate) error {
	if err := CheckContact(m); err != nil {
		return err
	}
	if m.EnrolledAt == 0 && m.Lifecycle == fleet.Pending {
		gone, err := q.KeyEnded(ctx, c.Key)
		if err == nil && gone {
			err = ended(m.ID)
		}
		return err
	}
	listed, ok, err := q.Certificate(ctx, c.Serial)
	if err == nil && (!ok || listed.Machine != m.ID || listed.RevokedAt > 0) {
		err = ended(m.ID)
	}
	return err
}

// takeKey gives a machine without a key that of a certificate, and one without
// a row a row.
func (r *Registrar) takeKey(ctx context.Context, p *loop.Pass, c Certificate) error {
	m, known := p.Machine(c.Machine)
	if !known {
		m = newMachine(c.Machine, fleet.Pending, p.Now)
	}
	if m.Key != "" {
		return nil // another request was faster
	}
	if err := r.mayTakeKey(ctx, p.Tx.Reader, m, c); err != nil {
		return err
	}
	m.Key = c.Key
	detail := map[string]string{"key": string(c.Key), "serial": c.Serial, "why": "came with a good certificate"}
	if !known {
		return p.Register(ctx, m, rollout.EngineActor, detail)
	}
	if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
		return err
	}
	p.Changed(m)
	return p.Audit(ctx, rollout.EngineActor, fleet.ActionMachineKey, "machine:"+string(m.ID), detail)
}

// acceptShown is Accept for a certificate of another CA. It is kept from its
// first use on, so that it can end.
func (r *Registrar) acceptShown(ctx context.Context, c store.Shown) error {
	if r.shown.hasEnded(c) {
		return ended(c.Machine)
	}
	if err := r.Admit(ctx, c.Machine); err != nil || r.shown.isKept(c) {
		return err
	}
	kept, err := r.loop.Store.IsShown(ctx, c)
	if err != nil {
		return err
	}
	if !kept {
		err = r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
			m, _ := p.Machine(c.Machine)
			if refused := CheckContact(m); refused != nil {
				return refused
			}
			return p.Tx.AddShown(ctx, c, p.Now)
		})
	}
	if err != nil {
		return err
	}
	r.shown.keep(c)
	if r.shown.hasEnded(c) {
		return ended(c.Machine)
	}
	return nil
}

// Renew issues the next certificate of a machine's key, to the machine that shows
// one that Accept takes. Asked again within an hour it gives the same one. The
// error's code is Forbidden for any other key: whatever began before a token with
// Replace was used, it ends here.
// The evidence key, where the request names one, is that of the row; a machine that
// has none yet gets it.
func (r *Registrar) Renew(ctx context.Context, shown Certificate, keys Keys, issue Issue) (der []byte, err error) {
	if err = r.TakeEvidence(ctx, shown, keys.Evidence); err != nil {
		return nil, err
	}
	key := keys.Certificate
	err = r.loop.Store.Write(ctx, func(tx *store.Tx) (err error) {
		now := r.loop.Clock.UnixMilli()
		m, err := tx.Machine(ctx, shown.Machine)
		if err != nil {
			return err
		}
		for _, c := range []Certificate{shown, {Key: key}} {
			if err = countsFor(m, c); err != nil {
				return err
			}
		}
		if keys.Evidence != "" && keys.Evidence != m.EvidenceKey {
			return otherEvidence(m.ID) // it was replaced since
		}
		last, ok, err := tx.LastCertificate(ctx, m.ID, key, now-repeatFor.Milliseconds(), now)
		if err != nil {
			return err
		}
		if ok && !r.documents.Revoked(last.Serial) {
			der = last.DER
			return nil
		}
		c := store.Certificate{Machine: m.ID, Key: key, IssuedAt: now}
		if c.Serial, c.DER, c.NotAfter, err = issue(m.ID); err != nil {
			return err
		}
		der = c.DER
		if err := tx.AddCertificate(ctx, c); err != nil {
			return err
		}
		action := fleet.ActionMachineRenew
		if shown.OutOfTime {
			action = fleet.ActionMachineRenewLate
		}
		return tx.AddAudit(ctx, fleet.AuditEvent{
			At: now, Actor: "machine:" + string(m.ID), Action: action, Subject: "machine:" + string(m.ID),
			Detail: map[string]string{"serial": c.Serial, "shown": shown.Serial},
		})
	})
	if err != nil {
		return nil, err
	}
	return der, nil
}

// End ends a machine's keys and the certificates that it has shown. The caller
// writes m.
func (r *Registrar) End(ctx context.Context, p *loop.Pass, m *fleet.Machine) error {
	var keys []fleet.Digest
	if m.Key != "" {
		keys = append(keys, m.Key)
	}
	if m.EvidenceKey != "" {
		keys = append(keys, evidenceHash(m.EvidenceKey))
	}
	serials, err := p.Tx.EndIdentity(ctx, m.ID, keys, p.Now)
	if err != nil {
		return err
	}
	m.Key, m.EvidenceKey = "", ""
	id := m.ID
	p.AfterCommit(func() {
		for _, serial := range serials {
			r.shown.end(store.Shown{Serial: serial, Machine: id})
		}
	})
	return nil
}

// Admit returns nil for a machine that may speak to the control plane. One
// without a row gets one, and waits to be adopted.
func (r *Registrar) Admit(ctx context.Context, id fleet.MachineID) error {
	if m, ok := r.loop.Inventory.Machine(id); ok {
		return CheckContact(m)
	}
	if !id.Valid() {
		return fleet.Errorf(fleet.Forbidden, "%.80q is not a machine id", id)
	}
	return r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		if m, ok := p.Machine(id); ok {
			return CheckContact(m) // another request was faster
		}
		m := newMachine(id, fleet.Pending, p.Now)
		return p.Register(ctx, m, rollout.EngineActor, map[string]string{"why": "came with a good certificate"})
	})
}

// CheckContact refuses a machine that is decommissioned; the code is Forbidden.
func CheckContact(m fleet.Machine) error {
	if m.Lifecycle == fleet.Decommissioned {
		return fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", m.ID)
	}
	return nil
}
