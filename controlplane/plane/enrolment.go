// SPDX-License-Identifier: AGPL-3.0-only

package plane

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// TokenPrefix begins every enrolment token, so that secret scanners know one.
const TokenPrefix = "nft_"

// tokenLife is how long an enrolment token is good for at most.
const tokenLife = 24 * time.Hour

// CreateToken makes a one-time enrolment token for a machine; it is shown this
// once, and ends the machine's earlier ones. caHash is that of the server's
// CA: the machine checks it before it says anything. A living machine needs
// Replace.
func (p *Plane) CreateToken(ctx context.Context, c Caller, id fleet.MachineID, in api.TokenRequest, caHash fleet.Digest) (api.Token, error) {
	life := time.Duration(in.TTLSeconds) * time.Second
	if in.TTLSeconds == 0 {
		life = tokenLife
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(tokenLife/time.Second) {
		return api.Token{}, fleet.Errorf(fleet.Invalid, "token: ttlSeconds must be between 1 and %d", int64(tokenLife/time.Second))
	}
	if !id.Valid() {
		_, err := fleet.ParseMachineID(string(id))
		return api.Token{}, err
	}
	ca := strings.TrimPrefix(string(caHash), "sha256:")
	token := api.Token{
		Token: TokenPrefix + string(id) + "_" + strings.ToLower(rand.Text()) + "_" + ca, Machine: id, ExpiresAt: p.ms() + life.Milliseconds(),
	}
	err := p.act(ctx, func(ctx context.Context, t *pass) error {
		m, ok := t.machine(id)
		if !ok {
			m = fleet.Machine{ID: id, Lifecycle: fleet.Provisioning, Tags: fleet.NewTags(nil, nil), Checks: []fleet.HealthCheckResult{}, CreatedAt: t.now, Version: 1}
		}
		if err := mayHaveToken(c, m, in.Replace); err != nil {
			return err
		}
		switch {
		case !ok:
			if err := t.register(ctx, m, c.actor(), nil); err != nil {
				return err
			}
		case m.Lifecycle == fleet.Pending:
			m.Lifecycle = fleet.Provisioning
			if err := t.tx.UpdateMachine(ctx, &m); err != nil {
				return err
			}
			t.changed(m)
		}
		row := store.Token{Hash: fleet.SHA256([]byte(token.Token)), Machine: id, CreatedAt: t.now, ExpiresAt: token.ExpiresAt, Replaces: in.Replace}
		if err := t.tx.AddToken(ctx, row); err != nil {
			return err
		}
		detail := map[string]string{"expires": time.UnixMilli(token.ExpiresAt).UTC().Format(time.RFC3339)}
		if in.Replace {
			detail["replace"] = "true"
		}
		return t.audit(ctx, c.actor(), fleet.ActionTokenCreate, "machine:"+string(id), detail)
	})
	if err != nil {
		return api.Token{}, err
	}
	return token, nil
}

func mayHaveToken(c Caller, m fleet.Machine, replace bool) error {
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return fleet.Errorf(fleet.Conflict, "machine %s is decommissioned", m.ID).WithHint("take it back first: nixfleet machine set-lifecycle %s pending", m.ID)
	case m.EnrolledAt > 0 && !replace:
		return fleet.Errorf(fleet.Conflict, "machine %s is enrolled already", m.ID).
			WithHint("--replace makes a token that ends its present certificate when it is used")
	}
	return c.mayTouch(m)
}

// Issue signs the certificate for a token's machine. It may refuse, when the
// request is for another name for example; then nothing happens.
type Issue func(machine fleet.MachineID) (serial string, der []byte, notAfter int64, err error)

// RedeemToken trades a token for a certificate. The token is bound to the
// first request's key; the same key gets the same answer again, in case the
// first got lost. The error's code is Unauthenticated for a token that is
// unknown or expired, Conflict for one that another key used (E08).
func (p *Plane) RedeemToken(ctx context.Context, token string, csrKeyHash fleet.Digest, issue Issue) (der []byte, machine fleet.MachineID, err error) {
	err = p.act(ctx, func(ctx context.Context, t *pass) error {
		row, ok, err := t.tx.Token(ctx, fleet.SHA256([]byte(token)))
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
		case row.ExpiresAt <= t.now:
			return fleet.Errorf(fleet.Unauthenticated, "the enrolment token has expired").WithHint("make a new one: nixfleet machine token %s", row.Machine)
		}
		der, machine, err = t.enroll(ctx, row, csrKeyHash, issue)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return der, machine, nil
}

func (t *pass) enroll(ctx context.Context, row store.Token, keyHash fleet.Digest, issue Issue) ([]byte, fleet.MachineID, error) {
	m, ok := t.machine(row.Machine)
	if !ok {
		return nil, "", errNoMachine(row.Machine)
	}
	switch {
	case m.Lifecycle == fleet.Decommissioned:
		return nil, "", fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", m.ID)
	case m.EnrolledAt > 0 && !row.Replaces:
		return nil, "", fleet.Errorf(fleet.Conflict, "machine %s enrolled in the meantime", m.ID)
	}
	serial, der, notAfter, err := issue(row.Machine)
	if err != nil {
		return nil, "", err
	}
	old, err := t.tx.RevokeCertificates(ctx, m.ID, t.now)
	if err != nil {
		return nil, "", err
	}
	t.after = append(t.after, func() { t.p.serials.add(old...) })
	if err := t.tx.AddCertificate(ctx, store.Certificate{Serial: serial, Machine: m.ID, IssuedAt: t.now, NotAfter: notAfter}); err != nil {
		return nil, "", err
	}
	row.UsedAt, row.KeyHash, row.Certificate = t.now, keyHash, der
	if err := t.tx.UseToken(ctx, row); err != nil {
		return nil, "", err
	}
	before := m.Lifecycle
	m.EnrolledAt = t.now
	if m.Lifecycle == fleet.Pending || m.Lifecycle == fleet.Provisioning {
		m.Lifecycle = fleet.Active
	}
	if err := t.tx.UpdateMachine(ctx, &m); err != nil {
		return nil, "", err
	}
	t.changed(m)
	if m.Lifecycle != before {
		if err := t.lifecycleChanged(ctx, m); err != nil {
			return nil, "", err
		}
	}
	return der, m.ID, t.audit(ctx, "machine:"+string(m.ID), fleet.ActionMachineEnroll, "machine:"+string(m.ID), map[string]string{"serial": serial})
}

// RecordCertificate keeps a renewed certificate, before it is handed out.
func (p *Plane) RecordCertificate(ctx context.Context, machine fleet.MachineID, serial string, notAfter int64) error {
	now := p.ms()
	event := fleet.AuditEvent{
		At: now, Actor: "machine:" + string(machine), Action: fleet.ActionMachineRenew, Subject: "machine:" + string(machine),
		Detail: map[string]string{"serial": serial},
	}
	return p.write(ctx, event, func(tx *store.Tx) error {
		m, err := tx.Machine(ctx, machine)
		if err != nil {
			return err
		}
		if m.Lifecycle == fleet.Decommissioned {
			return fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", machine)
		}
		return tx.AddCertificate(ctx, store.Certificate{Serial: serial, Machine: machine, IssuedAt: now, NotAfter: notAfter})
	})
}

// CertificateStatus says whether a certificate that the CA vouches for may
// still be used: Forbidden if it is revoked or its machine decommissioned. It
// is asked for each connection and each request, and answers from memory. A
// machine without a row appears as pending.
func (p *Plane) CertificateStatus(ctx context.Context, serial string, machine fleet.MachineID) error {
	if p.serials.has(serial) {
		return fleet.Errorf(fleet.Forbidden, "the certificate of %s is revoked", machine).WithHint("enrol it again: nixfleet machine token %s --replace", machine)
	}
	_, err := p.known(ctx, machine)
	return err
}

// known returns a machine that may speak; one without a row gets one.
func (p *Plane) known(ctx context.Context, id fleet.MachineID) (fleet.Machine, error) {
	m, ok := p.inventory.machine(id)
	if ok {
		return m, mayTalk(m)
	}
	if !id.Valid() {
		return m, fleet.Errorf(fleet.Forbidden, "%.80q is not a machine id", id)
	}
	err := p.act(ctx, func(ctx context.Context, t *pass) error {
		if m, ok = t.machine(id); ok {
			return nil // another request was faster
		}
		m = fleet.Machine{ID: id, Lifecycle: fleet.Pending, Tags: fleet.NewTags(nil, nil), Checks: []fleet.HealthCheckResult{}, CreatedAt: t.now, Version: 1}
		return t.register(ctx, m, engineActor, map[string]string{"why": "came with a good certificate"})
	})
	if err != nil {
		return m, err
	}
	return m, mayTalk(m)
}

func mayTalk(m fleet.Machine) error {
	if m.Lifecycle == fleet.Decommissioned {
		return fleet.Errorf(fleet.Forbidden, "machine %s is decommissioned", m.ID)
	}
	return nil
}
