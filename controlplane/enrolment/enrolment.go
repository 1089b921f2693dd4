// SPDX-License-Identifier: AGPL-3.0-only

// Package enrolment gives machines their identity: one-time tokens, the
// certificates that machines get for them, and which of those are revoked.
//
// It never signs: the caller hands in how a certificate is issued. It never
// sees a machine's private key.
package enrolment

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/access"
	"github.com/arcanesys/nixfleet/controlplane/documents"
	"github.com/arcanesys/nixfleet/controlplane/loop"
	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// tokenLife is how long an enrolment token is good for at most.
const tokenLife = 24 * time.Hour

// Registrar enrols machines and knows which certificates are revoked.
type Registrar struct {
	loop      *loop.Loop
	documents *documents.Keeper
	serials   *serials
}

// Open reads the revoked certificates.
func Open(ctx context.Context, l *loop.Loop, d *documents.Keeper) (*Registrar, error) {
	r := &Registrar{loop: l, documents: d, serials: &serials{revoked: map[string]bool{}}}
	list, err := l.Store.RevokedCertificates(ctx, l.Clock.UnixMilli())
	for _, c := range list {
		r.serials.add(c.Serial)
	}
	return r, err
}

// CreateToken makes a one-time enrolment token for a machine; it is shown this
// once, and ends the machine's earlier ones. caHash is that of the server's CA
// (api.CAHash): the machine checks it before it sends anything. An enrolled
// machine needs Replace.
func (r *Registrar) CreateToken(ctx context.Context, c access.Caller, id fleet.MachineID, in api.TokenRequest, caHash string) (api.Token, error) {
	life := time.Duration(in.TTLSeconds) * time.Second
	if in.TTLSeconds == 0 {
		life = tokenLife
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(tokenLife/time.Second) {
		return api.Token{}, fleet.Errorf(fleet.Invalid, "token: ttlSeconds must be between 1 and %d", int64(tokenLife/time.Second))
	}
	if _, err := fleet.ParseMachineID(string(id)); err != nil {
		return api.Token{}, err
	}
	parts := api.TokenParts{Machine: id, Secret: strings.ToLower(rand.Text()), CAHash: caHash}
	token := api.Token{Token: parts.String(), Machine: id, ExpiresAt: r.loop.Clock.UnixMilli() + life.Milliseconds()}
	err := r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		if err := provision(ctx, p, c, id, in.Replace); err != nil {
			return err
		}
		row := store.Token{Hash: fleet.SHA256([]byte(token.Token)), Machine: id, CreatedAt: p.Now, ExpiresAt: token.ExpiresAt, Replaces: in.Replace}
		if err := p.Tx.AddToken(ctx, row); err != nil {
			return err
		}
		detail := map[string]string{"expires": time.UnixMilli(token.ExpiresAt).UTC().Format(time.RFC3339)}
		if in.Replace {
			detail["replace"] = "true"
		}
		return p.Audit(ctx, c.Actor(), fleet.ActionTokenCreate, "machine:"+string(id), detail)
	})
	if err != nil {
		return api.Token{}, err
	}
	return token, nil
}

// provision makes a machine ready for a token: one that is not known becomes
// so.
func provision(ctx context.Context, p *loop.Pass, c access.Caller, id fleet.MachineID, replace bool) error {
	m, known := p.Machine(id)
	if !known {
		m = newMachine(id, fleet.Provisioning, p.Now)
	}
	if err := mayHaveToken(c, m, replace); err != nil {
		return err
	}
	switch {
	case !known:
		return p.Register(ctx, m, c.Actor(), nil)
	case m.Lifecycle == fleet.Pending:
		m.Lifecycle = fleet.Provisioning
		if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
			return err
		}
		p.Changed(m)
	}
	return nil
}

func newMachine(id fleet.MachineID, l fleet.Lifecycle, now int64) fleet.Machine {
	return fleet.Machine{ID: id, Lifecycle: l, Tags: fleet.NewTags(nil, nil), Checks: []fleet.HealthCheckResult{}, CreatedAt: now, Version: 1}
}

func mayHaveToken(c access.Caller, m fleet.Machine, replace bool) error {
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return fleet.Errorf(fleet.Conflict, "machine %s is decommissioned", m.ID).WithHint("make it pending first: nixfleet machine set-lifecycle %s pending", m.ID)
	case m.EnrolledAt > 0 && !replace:
		return fleet.Errorf(fleet.Conflict, "machine %s is enrolled already", m.ID).
			WithHint("--replace makes a token that ends its present certificate when it is used")
	}
	return c.MayTouch(m)
}

// Issue signs the certificate for a token's machine. It may refuse, when the
// request is for another name for example; then nothing happens.
type Issue func(machine fleet.MachineID) (serial string, der []byte, notAfter int64, err error)

// RedeemToken exchanges a token for a certificate. The token is bound to the
// first request's key; the same key gets the same answer again, in case the
// first got lost. The error's code is Unauthenticated for a token that is
// unknown or expired, Conflict for one that another key used (E08).
func (r *Registrar) RedeemToken(ctx context.Context, token string, csrKeyHash fleet.Digest, issue Issue) (der []byte, machine fleet.MachineID, err error) {
	err = r.loop.Act(ctx, func(ctx context.Context, p *loop.Pass) error {
		row, ok, err := p.Tx.Token(ctx, fleet.SHA256([]byte(token)))
		switch {
		case err != nil:
			return err
		case !ok:
			return fleet.Errorf(fleet.Unauthenticated, "the enrolment token is unknown").WithHint("make a new one: nixfleet machine token NAME")
		case row.UsedAt > 0 && row.KeyHash == csrKeyHash:
			der, machine = row.Certificate, row.Machine
			return nil
		case row.UsedAt > 0:
			return fleet.Errorf(fleet.Conflict, "the enrolment token was used before, with another key").WithHint("make a new one: nixfleet machine token %s", row.Machine)
		case row.ExpiresAt <= p.Now:
			return fleet.Errorf(fleet.Unauthenticated, "the enrolment token has expired").WithHint("make a new one: nixfleet machine token %s", row.Machine)
		}
		der, err = r.enroll(ctx, p, row, csrKeyHash, issue)
		machine = row.Machine
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return der, machine, nil
}

func (r *Registrar) enroll(ctx context.Context, p *loop.Pass, row store.Token, keyHash fleet.Digest, issue Issue) ([]byte, error) {
	m, ok := p.Machine(row.Machine)
	if !ok {
		return nil, loop.NoMachine(row.Machine)
	}
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return nil, fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", m.ID)
	case m.EnrolledAt > 0 && !row.Replaces:
		return nil, fleet.Errorf(fleet.Conflict, "machine %s enrolled in the meantime", m.ID)
	}
	serial, der, notAfter, err := issue(row.Machine)
	if err != nil {
		return nil, err
	}
	if err := r.Revoke(ctx, p, m.ID); err != nil {
		return nil, err
	}
	if err := p.Tx.AddCertificate(ctx, store.Certificate{Serial: serial, Machine: m.ID, IssuedAt: p.Now, NotAfter: notAfter}); err != nil {
		return nil, err
	}
	row.UsedAt, row.KeyHash, row.Certificate = p.Now, keyHash, der
	if err := p.Tx.UseToken(ctx, row); err != nil {
		return nil, err
	}
	before := m.Lifecycle
	m.EnrolledAt = p.Now
	if m.Lifecycle == fleet.Pending || m.Lifecycle == fleet.Provisioning {
		m.Lifecycle = fleet.Active
	}
	if err := p.Tx.UpdateMachine(ctx, &m); err != nil {
		return nil, err
	}
	p.Changed(m)
	if m.Lifecycle != before {
		if err := p.LifecycleChanged(ctx, m.ID); err != nil {
			return nil, err
		}
	}
	return der, p.Audit(ctx, "machine:"+string(m.ID), fleet.ActionMachineEnroll, "machine:"+string(m.ID), map[string]string{"serial": serial})
}

// Revoke ends a machine's certificates.
func (r *Registrar) Revoke(ctx context.Context, p *loop.Pass, id fleet.MachineID) error {
	ended, err := p.Tx.RevokeCertificates(ctx, id, p.Now)
	if err != nil {
		return err
	}
	p.AfterCommit(func() { r.serials.add(ended...) })
	return nil
}

// RecordCertificate keeps a renewed certificate, before it is handed out.
func (r *Registrar) RecordCertificate(ctx context.Context, machine fleet.MachineID, serial string, notAfter int64) error {
	now := r.loop.Clock.UnixMilli()
	event := fleet.AuditEvent{
		At: now, Actor: "machine:" + string(machine), Action: fleet.ActionMachineRenew, Subject: "machine:" + string(machine),
		Detail: map[string]string{"serial": serial},
	}
	return r.loop.Store.WriteAudited(ctx, event, func(tx *store.Tx) error {
		m, err := tx.Machine(ctx, machine)
		if err != nil {
			return err
		}
		if err := CheckContact(m); err != nil {
			return err
		}
		return tx.AddCertificate(ctx, store.Certificate{Serial: serial, Machine: machine, IssuedAt: now, NotAfter: notAfter})
	})
}

// CertificateStatus returns nil if a certificate that the CA vouches for may
// still be used; Forbidden if it is revoked or its machine decommissioned. It
// is asked for each connection and each request, and answers from memory. A
// machine without a row appears as pending.
func (r *Registrar) CertificateStatus(ctx context.Context, serial string, machine fleet.MachineID) error {
	if r.serials.has(serial) || r.documents.Revoked(serial) {
		return fleet.Errorf(fleet.Forbidden, "the certificate of %s is revoked", machine).WithHint("enrol it again: nixfleet machine token %s --replace", machine)
	}
	return r.Admit(ctx, machine)
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
